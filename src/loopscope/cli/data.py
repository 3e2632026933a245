"""loopscope data: build puzzle sets, look them over, compare them."""

from __future__ import annotations

import re
from itertools import zip_longest
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer
from rich.filesize import decimal

from loopscope.cli import app, options
from loopscope.errors import UserError

data = typer.Typer(help="Build, show and compare puzzle sets.", rich_markup_mode="rich")
build = typer.Typer(help="Build a puzzle folder in the official layout.", rich_markup_mode="rich")
app.add_typer(data, name="data")
data.add_typer(build, name="build")

Source = Annotated[
    list[str],
    typer.Option(
        "--source", help="File, folder with train.csv and test.csv, or hf:owner/name[@revision]; repeatable."
    ),
]
Test = Annotated[
    list[str] | None, typer.Option("--test", help="Test puzzles; else the test.csv beside train.csv.")
]
Out = Annotated[Path, typer.Option(help="Folder to make.", callback=options.folder_to_write)]
Subsample = Annotated[int | None, typer.Option(help="Keep N training puzzles, drawn at random.", min=1)]
Versions = Annotated[int, typer.Option(help="Bake N symmetric versions after each training puzzle.", min=0)]
Compat = Annotated[str | None, typer.Option(help="trm: the very arrays of the official script.")]
Unique = Annotated[bool, typer.Option("--check-unique", help="Demand exactly one solution.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a folder built here.")]
AllowLeak = Annotated[
    bool, typer.Option("--allow-leak", help="Build although training holds test puzzles, and record it.")
]
Licence = Annotated[str | None, typer.Option(help="A note for the manifest.")]


@build.command("sudoku")
def build_sudoku(
    source: Source,
    out: Out,
    test: Test = None,
    subsample: Subsample = None,
    min_difficulty: Annotated[int | None, typer.Option(help="Least rating, in both splits.", min=0)] = None,
    neighbours: Annotated[
        int,
        typer.Option(
            help="Add N generations of new training puzzles, made by moving givens, as hard as the source.",
            min=0,
        ),
    ] = 0,
    augmentations: Versions = 0,
    seed: options.Seed = 0,
    limit: options.Limit = None,
    skip_invalid: options.SkipInvalid = False,
    check_unique: Unique = False,
    compat: Compat = None,
    allow_leak: AllowLeak = False,
    licence: Licence = None,
    overwrite: Overwrite = False,
) -> None:
    """Sudoku of any size, from CSV files with the columns source,question,answer,rating.

    Training draws a fresh symmetry for every puzzle anyway, so versions need not be baked.

    \b
    loopscope data build sudoku --source folder --subsample 1000 --out sudoku-1k
    loopscope data build sudoku --source hf:sapientinc/sudoku-extreme --out full
    loopscope data build sudoku --source a.csv --source b.csv.gz --test test.csv --out mix
    loopscope data build sudoku --source 1k.csv --test test.csv --neighbours 8 --out 75k
    """
    chosen: dict[str, Any] = {
        "subsample": subsample,
        "min_difficulty": min_difficulty,
        "neighbours": neighbours,
        "augmentations": augmentations,
    }
    chosen |= {"seed": seed, "limit": limit, "skip_invalid": skip_invalid, "check_unique": check_unique}
    chosen |= {"compat": compat, "allow_leak": allow_leak, "licence": licence}
    build_text_puzzles("sudoku", source, test, out, overwrite, chosen)


@build.command("maze")
def build_maze(
    source: Source,
    out: Out,
    test: Test = None,
    subsample: Subsample = None,
    min_difficulty: Annotated[int | None, typer.Option(help="Least rating, in both splits.", min=0)] = None,
    augmentations: Annotated[
        int, typer.Option(help="Bake N of the 7 turns and mirror images.", min=0, max=7)
    ] = 0,
    relabel: Annotated[
        bool, typer.Option(help="Solve baked versions again by the tie-break rule; else turn the label.")
    ] = True,
    seed: options.Seed = 0,
    limit: options.Limit = None,
    skip_invalid: options.SkipInvalid = False,
    compat: Compat = None,
    allow_leak: AllowLeak = False,
    licence: Licence = None,
    overwrite: Overwrite = False,
) -> None:
    """Mazes of any square size: # wall, space, S, G, and o on the path of the answer.

    \b
    loopscope data build maze --source hf:sapientinc/maze-30x30-hard-1k --out maze
    loopscope data build maze --source mazes.csv --test test.csv --out mine
    loopscope data build maze --source folder --subsample 200 --augmentations 7 --out maze-200
    """
    chosen: dict[str, Any] = {
        "subsample": subsample,
        "min_difficulty": min_difficulty,
        "augmentations": augmentations,
    }
    chosen |= {"relabel": relabel, "seed": seed, "limit": limit, "skip_invalid": skip_invalid}
    chosen |= {"compat": compat, "allow_leak": allow_leak, "licence": licence}
    build_text_puzzles("maze", source, test, out, overwrite, chosen)


def build_text_puzzles(
    task: str, source: list[str], test: list[str] | None, out: Path, overwrite: bool, chosen: dict[str, Any]
) -> None:
    """What Sudoku and mazes share."""
    from loopscope.tasks.build import Options, build_puzzles

    manifest = build_puzzles(
        task,
        source,
        out,
        test=test or (),
        options=Options(**chosen),
        overwrite=overwrite,
        progress=options.show_progress(),
    )
    tell(manifest, out)


@build.command("arc")
def build_arc(
    source: Annotated[
        str, typer.Option(help="Folder or beginning of file names (data/arc-agi), or hf:owner/name.")
    ],
    out: Out,
    subsets: Annotated[
        str, typer.Option(help="Sets to train on, with commas; the demonstrations of test sets belong there.")
    ] = "training,evaluation,concept",
    test_set: Annotated[str, typer.Option(help="Sets whose test pairs are held out.")] = "evaluation",
    augmentations: Annotated[int, typer.Option(help="Versions of each task besides itself.", min=0)] = 1000,
    bake: Annotated[
        bool, typer.Option("--bake", help="Write every version as rows, as the official script does.")
    ] = False,
    seed: options.Seed = 42,
    compat: Compat = None,
    allow_leak: AllowLeak = False,
    licence: Licence = None,
    overwrite: Overwrite = False,
) -> None:
    """ARC-AGI-1, ARC-AGI-2 and ConceptARC, from Kaggle-style JSON or one JSON per task.

    Versions are made when drawn; identifiers.json names them all. For ARC-AGI-2
    say --subsets training2,evaluation2,concept --test-set evaluation2.

    \b
    loopscope data build arc --source agi --out arc1
    loopscope data build arc --source agi --out small --augmentations 10 --bake
    loopscope data build arc --source agi --subsets training2,evaluation2,concept \\
      --test-set evaluation2 --out arc2
    """
    from loopscope.tasks.build import build_arc as run

    names = [[part.strip() for part in text.split(",") if part.strip()] for text in (subsets, test_set)]
    manifest = run(
        source,
        out,
        subsets=names[0],
        test_sets=names[1],
        augmentations=augmentations,
        seed=seed,
        bake=bake,
        compat=compat,
        allow_leak=allow_leak,
        licence=licence,
        overwrite=overwrite,
        progress=options.show_progress(),
    )
    tell(manifest, out)


def tell(manifest: dict[str, Any], out: Path) -> None:
    """Counts of what was built, and what to do next."""
    keys = ["groups", "puzzles", "examples"]
    counts = [
        [name, *(options.number(count[key]) for key in keys)] for name, count in manifest["counts"].items()
    ]
    options.table("", ["split", *keys], counts)
    options.say(f"written to {out}")
    options.say(f"next: loopscope data show {quote(str(out))}")


@data.command()
def show(
    path: Annotated[Path, typer.Argument(help="A built folder, a puzzle file or a shipped name.")],
    examples: Annotated[int, typer.Option(help="Puzzles to print of each split.", min=0)] = 1,
    figure: Annotated[
        Path | None,
        typer.Option(help="Also draw them: .svg, .pdf or .png.", callback=options.file_to_write),
    ] = None,
) -> None:
    """Counts, difficulty, rules, repeats and leaks of a set, and a few of its puzzles.

    \b
    loopscope data show sudoku9-hard
    loopscope data show test.csv.gz --examples 0
    loopscope data show sudoku-1k --examples 2 --figure sudoku.svg
    """
    from loopscope.tasks.survey import survey

    if figure is not None:
        from loopscope.reports.puzzle_figure import checked_name, save_figure

        checked_name(figure)
    found = survey(path, progress=options.show_progress())
    options.say(f"{found.name}: {found.task}", "bold")
    print_counts(found)
    print_hardness(found)
    for line in remarks(found):
        options.say(line)
    for name, split in found.splits.items():
        print_examples(name, split, examples)
    if figure is not None:
        save_figure(found, figure)
        options.say(f"figure in {figure}")


def print_counts(found: Any) -> None:
    rows = []
    for name, split in found.splits.items():
        sizes = (split.groups, split.puzzles, split.examples, split.repeated, len(split.broken))
        rows.append([name, *map(options.number, sizes)])
    options.table("", ["split", "groups", "puzzles", "examples", "repeated", "break a rule"], rows)


def print_hardness(found: Any) -> None:
    """Quartiles of every numeric fact, and a histogram of the one that tells how hard a puzzle is."""
    import numpy as np

    rows = []
    for name, split in found.splits.items():
        for fact, values in split.numbers.items():
            quartiles = np.percentile(values, [0, 25, 50, 75, 100], method="nearest")
            rows.append([name, fact.replace("_", " "), *(options.number(int(q)) for q in quartiles)])
    options.table("", ["split", "", "least", "25 %", "median", "75 %", "most"], rows, left=2)
    print_histogram(found)


def print_histogram(found: Any) -> None:
    """Shares of the puzzles by hardness in text, the same classes for every split."""
    import numpy as np

    from loopscope.tasks.survey import class_edges, class_names, counted

    known = {name: split for name, split in found.splits.items() if split.hardness}
    if not known:
        return
    values = [split.numbers[split.hardness] for split in known.values()]
    edges = class_edges(np.concatenate(values))
    names, counts = class_names(edges), [counted(v, edges) for v in values]
    longest, width = max(map(len, names)), 64 // len(known) - 12
    fact = next(iter(known.values())).hardness.replace("_", " ")
    options.say(f"{fact}: {', '.join(known)}" if len(known) > 1 else fact, "bold")
    for name, *row in zip(names, *counts, strict=True):
        bars = (
            f"{('█' * round(width * n / max(all_))).ljust(width)} {100 * n / sum(all_):5.1f} %"
            for n, all_ in zip(row, counts, strict=True)
        )
        options.say("  ".join([name.rjust(longest), *bars]))


def remarks(found: Any) -> list[str]:
    """What else there is to know, a line each."""
    from loopscope.tasks.base import FAMILY

    lines = []
    for name, split in found.splits.items():
        if len(split.broken):
            lines.append(f"{name}: row {split.broken[0]} is the first whose answer breaks the rules")
        if FAMILY in split.sources.facts:
            families = len(set(split.sources.facts[FAMILY].tolist()))
            made = len(split.sources) - families
            lines.append(f"{name}: {families:,} puzzles and {made:,} neighbours made of them")
    if found.leaked is not None:
        count, n = len(found.leaked), len(found.splits["test"].sources)
        lines.append(f"leak: {count:,} of {n:,} test examples also occur in training, up to symmetry")
    manifest = found.manifest
    if leaks := manifest.get("leaks"):
        lines.append("found when built: " + ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in leaks.items()))
    if manifest:
        chosen = {k: v for k, v in manifest["options"].items() if v not in (None, False, True, 0)}
        words = "".join(f", {k.replace('_', ' ')} {as_text(v)}" for k, v in chosen.items())
        lines.append(f"built with seed {manifest['seed']}{words}")
        lines.append(f"licence: {manifest['licence']}")
    lines.append(f"size on disk: {decimal(found.bytes)}")
    return lines


def seen_width(line: str) -> int:
    """Length of a line without its colour codes."""
    return len(re.sub(r"\033\[[0-9;]*m", "", line))


def as_text(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def print_examples(name: str, split: Any, count: int) -> None:
    """Question and answer of the first puzzles, side by side."""
    from loopscope.tasks.base import FAMILY

    sources = split.sources
    for i in range(min(count, len(sources))):
        facts = [f"{k.replace('_', ' ')} {v[i]}" for k, v in sources.facts.items() if k != FAMILY]
        options.say(f"{name}, example {i}" + (f": {', '.join(facts)}" if facts else ""), "bold")
        known = [sources.inputs[i]] if sources.labels is None else [sources.inputs[i], sources.labels[i]]
        boards = [sources.task.render(tokens).splitlines() for tokens in known]
        width = max(map(seen_width, boards[0]))
        boards[0] = [line + " " * (width - seen_width(line)) for line in boards[0]]
        for parts in zip_longest(*boards, fillvalue=" " * width):
            typer.echo("   ".join(parts))


@data.command()
def overlap(
    a: Annotated[str, typer.Argument(help="A built folder, a puzzle file or a shipped name.")],
    b: Annotated[str, typer.Argument(help="The set to compare it with.")],
    split_a: Annotated[str, typer.Option(help="Split of A, where it is a folder.")] = "train",
    split_b: Annotated[str, typer.Option(help="Split of B, where it is a folder.")] = "test",
    show: Annotated[int, typer.Option(help="Pairs of rows to print.", min=0)] = 5,
) -> None:
    """Puzzles of B that A holds too, up to the symmetries of the task. Exit code 1 if there are any.

    \b
    loopscope data overlap train.csv.gz test.csv.gz
    loopscope data overlap sudoku-1k sudoku-1k
    loopscope data overlap sudoku-1k sudoku9-hard --show 0
    """
    from loopscope.tasks import read_puzzles
    from loopscope.tasks.overlap import overlap as find

    sets = [read_puzzles(name, split=split) for name, split in ((a, split_a), (b, split_b))]
    if not all(map(len, sets)):
        raise UserError(f"{a}, {b}: one of the sets is empty. Compare sets with puzzles.")
    pairs = find(sets[0], sets[1], progress=options.show_progress())
    for first, second in pairs[:show]:
        options.say(f"row {second} of {sets[1].name} equals row {first} of {sets[0].name}")
    options.say(
        f"{len(pairs):,} of {len(sets[1]):,} puzzles of {sets[1].name} stand in {sets[0].name} "
        f"({len(sets[0]):,} puzzles), up to symmetry"
    )
    if len(pairs):
        raise typer.Exit(1)
