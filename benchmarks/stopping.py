"""Puzzles per second with stop rules and batch compaction, beside full orbits; one process, one thread.

    python benchmarks/stopping.py                       # the shipped model on the shipped puzzles
    python benchmarks/stopping.py RUN test.csv.gz --limit 512 --batch-size 128

The two take turns; each time is the least of a few rounds. On a machine that others use, too, compare the
processor times, which are printed beside.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

import loopscope as ls
from loopscope.evaluation.levers import STOPS
from loopscope.evaluation.solve import Answers
from loopscope.tasks import PuzzleSet

HEADS = ("stop", "exact", "segments", "puzzles/s", "gain", "gain in processor time")


def timed(model: Any, puzzles: PuzzleSet, stop: str, batch_size: int) -> tuple[float, float, Answers]:
    """Wall and processor seconds, and the answers."""
    wall, used = time.perf_counter(), time.process_time()
    answers = ls.solve(model, puzzles, stop=stop, batch_size=batch_size)
    return time.perf_counter() - wall, time.process_time() - used, answers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", default="sudoku9-cpu")
    parser.add_argument("data", nargs="?", default="sudoku9-demo")
    parser.add_argument("--limit", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, puzzles = ls.load(args.model), ls.read_puzzles(args.data, limit=args.limit)
    ls.solve(model, puzzles[:4], segments=1)
    runs = [
        {stop: timed(model, puzzles, stop, args.batch_size) for stop in STOPS} for _ in range(args.rounds)
    ]
    wall = {stop: min(run[stop][0] for run in runs) for stop in STOPS}
    used = {stop: min(run[stop][1] for run in runs) for stop in STOPS}
    table = Table(*HEADS, box=None, pad_edge=False)
    for stop in STOPS:
        answers = runs[0][stop][2]
        right = (answers.tokens == puzzles.labels).all(1).mean()
        row = [f"{100 * right:.1f} %", f"{answers.segments.mean():.2f}", f"{len(puzzles) / wall[stop]:.1f}"]
        gains = [f"{times['budget'] / times[stop]:.2f}" for times in (wall, used)]
        table.add_row(stop, *row, *gains)
    Console().print(table)


if __name__ == "__main__":
    main()
