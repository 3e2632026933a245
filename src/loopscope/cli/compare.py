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
    out: options.Json = None,
    seed: options.Seed = 0,
) -> None:
    """Compare what runs solved, puzzle by puzzle: every two of them.

    Exact McNemar test on the puzzles that only one of two runs solves, adjusted
    for the number of pairs (Holm); from three files on also the spread of their
    accuracy, as for runs of one recipe with several seeds.

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
    pairs = comparison.compare_all(solved, seed=seed)
    spread = comparison.spread([float(s.mean()) for s in solved])
    enough = len(files) >= comparison.ENOUGH_RUNS
    print_runs(files, solved)
    print_pairs(pairs)
    if enough:
        options.say(spread_line(spread))
    if out is not None:
        table: dict[str, Any] = {"files": [str(path) for path in files]}
        table["pairs"] = [pair.to_dict() for pair in pairs]
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


def print_runs(files: list[Path], solved: list[Any]) -> None:
    """A numbered row for each file: what it solved."""
    from loopscope.evaluation.intervals import wilson

    rows = [
        [str(i), str(path), options.percent(wilson(int(s.sum()), len(s)))]
        for i, (path, s) in enumerate(zip(files, solved, strict=True), start=1)
    ]
    options.table(f"{len(solved[0])} puzzles, 95 % intervals", ["", "", "solved"], rows, left=2)


def print_pairs(pairs: list[Any]) -> None:
    """A row for each pair: difference, discordant puzzles, p alone and p among all pairs."""
    rows = []
    for pair in pairs:
        c, d = pair.comparison, pair.comparison.difference
        points = f"{100 * d.value:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]"
        counts, p_values = (str(c.only_b), str(c.only_a)), (f"{c.p_value:.3g}", f"{pair.p_holm:.3g}")
        rows.append([f"{pair.second + 1} against {pair.first + 1}", points, *counts, *p_values])
    heads = ["", "points more", "only it", "only other", "p", "p, Holm"]
    several = len(pairs) > 1
    options.say("")
    options.table(
        "Paired by puzzle, exact McNemar test" + (f"; Holm over {len(pairs)} pairs" if several else ""),
        heads if several else heads[:-1],
        rows if several else [row[:-1] for row in rows],
    )


def spread_line(spread: Any) -> str:
    """Mean, range and deviation of several runs in words."""
    mean = spread.mean
    return (
        f"\n{mean.n} runs: mean {100 * mean.value:.1f} % [{100 * mean.low:.1f}, {100 * mean.high:.1f}], from "
        f"{100 * spread.low:.1f} to {100 * spread.high:.1f}, standard deviation {100 * spread.deviation:.2f} "
        "points; interval by Student's t over runs"
    )
