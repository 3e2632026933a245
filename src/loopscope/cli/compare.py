"""loopscope compare: two runs on the same puzzles, or several runs of one recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from loopscope.cli import app, options
from loopscope.errors import UserError


@app.command()
def compare(
    files: Annotated[list[Path], typer.Argument(help="Answers that loopscope eval --out wrote.")],
    out: Annotated[Path | None, typer.Option("--json", help="Write the numbers here.")] = None,
    seed: options.Seed = 0,
) -> None:
    """Compare what runs solved, puzzle by puzzle: every file with the first one.

    Exact McNemar test on the puzzles that only one of two runs solves; from three files on also the
    spread of their accuracy, as for runs of one recipe with several seeds.

    \b
    loopscope eval RUN --data DATA --out a.csv
    loopscope compare a.csv b.csv
    loopscope compare seed0.csv seed1.csv seed2.csv --json spread.json
    """
    from loopscope.evaluation import compare as comparison
    from loopscope.files import write_json

    if len(files) < 2:
        raise UserError(f"{files[0]}: one file, expected at least two. Name the files to compare.")
    solved = read_same(files)
    later = zip(files[1:], solved[1:], strict=True)
    pairs = {str(path): comparison.compare(solved[0], b, seed=seed) for path, b in later}
    spread = comparison.spread([float(s.mean()) for s in solved])
    enough = len(files) >= comparison.ENOUGH_RUNS
    print_pairs(str(files[0]), pairs)
    if enough:
        mean = spread.mean
        options.say(
            f"\n{mean.n} runs: mean {100 * mean.value:.1f} % [{100 * mean.low:.1f}, {100 * mean.high:.1f}], "
            f"standard deviation {100 * spread.deviation:.2f} points; interval by Student's t over runs"
        )
    if out is not None:
        table: dict[str, Any] = {"first": str(files[0])}
        table["against_first"] = {path: pair.to_dict() for path, pair in pairs.items()}
        write_json(out, table | ({"spread": spread.to_dict()} if enough else {}))
        options.say(f"\nwritten to {out}")


def read_same(files: list[Path]) -> list[Any]:
    """What each file says was solved; all must be about the same puzzles in the same order."""
    from loopscope.evaluation.answer_file import read_solved

    (first, solved), *others = [read_solved(path) for path in files]
    for path, (puzzles, _) in zip(files[1:], others, strict=True):
        if len(puzzles) != len(first):
            raise UserError(
                f"{path}: {len(puzzles)} puzzles, but {files[0]} has {len(first)}. Evaluate both on one set."
            )
        if other := next((a for a, b in zip(first, puzzles, strict=True) if a != b), None):
            raise UserError(
                f"{path}: puzzle {other[0]} is another than in {files[0]}. Evaluate both on one set."
            )
    return [solved, *(s for _, s in others)]


def print_pairs(first: str, pairs: dict[str, Any]) -> None:
    """A row for each file: accuracy, difference to the first, discordant puzzles, p."""
    one = next(iter(pairs.values()))
    options.say(f"{first}: {options.percent(one.a)}, n = {one.a.n}; 95 % intervals, paired by puzzle", "bold")
    rows = []
    for path, c in pairs.items():
        d = c.difference
        points = f"{100 * d.value:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]"
        rows.append([path, options.percent(c.b), points, str(c.only_b), str(c.only_a), f"{c.p_value:.3g}"])
    heads = ["", "solved", "points more", "only here", "only first", "p"]
    options.table("", heads, rows)
