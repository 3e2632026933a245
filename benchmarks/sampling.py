"""Speed of the training stream, of building and of comparing puzzle sets, on one core.

    python benchmarks/sampling.py                          # generated puzzles only
    python benchmarks/sampling.py --sudoku train.csv.gz --maze maze.csv.gz --arc data/arc-agi

Each time is the least of a few repeats. "symmetries" is `Task.augment`, "batch" turns arrays into tensors,
"order" is drawing which examples come.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from loopscope.tasks import Maze, PuzzleSet, Sudoku, read_puzzles
from loopscope.tasks.base import make_batch
from loopscope.tasks.build import build_arc
from loopscope.tasks.maze.generate import generate as mazes
from loopscope.tasks.overlap import overlap
from loopscope.tasks.sudoku.generate import generate as sudokus
from loopscope.training.stream import TrainingStream

BATCH = 768
COPIES = 100_000  # puzzles of the overlap that is measured
SETS = ("training", "evaluation", "concept")


def least(work: Callable[[], object], repeats: int = 5) -> float:
    """Least processor seconds of a few repeats, the first one, which compiles, left out."""
    times = []
    for _ in range(repeats + 1):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times[1:])


def stream_row(name: str, puzzles: PuzzleSet, steps: int) -> list[str]:
    """Examples per second, and the share of each part in percent."""
    stream = TrainingStream(puzzles, BATCH, seed=0)
    rows, ids = stream.draw(0)
    inputs, labels = puzzles.inputs[rows], puzzles.labels[rows]  # type: ignore[index]
    rng = np.random.default_rng(0)
    whole = least(lambda: [stream.batch(step) for step in range(steps)]) / steps
    parts = [
        least(lambda: [stream.draw(step) for step in range(steps)]) / steps,
        least(lambda: [puzzles.task.augment(inputs, labels, rng, ids) for _ in range(steps)]) / steps,
        least(lambda: [make_batch(inputs, labels, ids) for _ in range(steps)]) / steps,
    ]
    return [name, f"{BATCH / whole:,.0f}", *(f"{100 * part / whole:.0f} %" for part in parts)]


def overlap_rows(puzzles: PuzzleSet) -> list[list[str]]:
    """Seconds for `COPIES` Sudokus: two sets without a common puzzle, and symmetric copies of each other."""
    a, b = (copies(puzzles, half, seed) for seed, half in enumerate((slice(0, None, 2), slice(1, None, 2))))
    same = copies(puzzles, slice(0, None, 2), 2)
    rows = []
    for name, other in (("nothing shared", b), ("all shared", same)):
        start = time.perf_counter()
        found = overlap(a, other)
        spent = time.perf_counter() - start
        rows.append([f"overlap, 2 x {COPIES:,}, {name}", f"{spent:.1f} s", f"{len(found):,} found"])
    return rows


def copies(puzzles: PuzzleSet, which: slice, seed: int) -> PuzzleSet:
    """`COPIES` symmetric copies of the chosen puzzles."""
    chosen = np.arange(len(puzzles))[which]
    rows = chosen[np.arange(COPIES) % len(chosen)]
    rng = np.random.default_rng(seed)
    inputs, labels = puzzles.task.augment(puzzles.inputs[rows], puzzles.labels[rows], rng)  # type: ignore[index]
    return PuzzleSet(puzzles.task, inputs, labels, np.zeros(COPIES, np.int32))


def arc_set(source: str, folder: Path) -> tuple[PuzzleSet, list[str]]:
    """ARC-1 with 1,000 versions a task, made when drawn, and how long it took to build."""
    start = time.perf_counter()
    build_arc(source, folder, subsets=SETS, test_sets=["evaluation"], seed=0)
    spent = time.perf_counter() - start
    puzzles = read_puzzles(folder, split="train")
    return puzzles, ["ARC-1, 1,000 versions a task, built", f"{spent:.1f} s", ""]


def show(columns: list[str], rows: list[list[str]]) -> None:
    table = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    for name in ("sudoku", "maze", "arc"):
        parser.add_argument(f"--{name}", help="puzzles to take instead of generated ones")
    args = parser.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    boards = read_puzzles(args.sudoku) if args.sudoku else sudokus(Sudoku(3, 3), 1000, 30, rng)
    walls = read_puzzles(args.maze) if args.maze else mazes(Maze(30, 30), 200, 60, rng)
    rows = [stream_row("Sudoku", boards, 50), stream_row("Maze, labels made anew", walls, 2)]
    times = overlap_rows(boards)
    with tempfile.TemporaryDirectory() as folder:
        if args.arc:
            puzzles, built = arc_set(args.arc, Path(folder) / "arc")
            rows.append(stream_row("ARC, versions made when drawn", puzzles, 20))
            times.append(built)
    show([f"stream, batch {BATCH}", "examples/s and core", "order", "symmetries", "batch"], rows)
    show([f"with {len(os.sched_getaffinity(0))} core(s)", "", ""], times)


if __name__ == "__main__":
    main()
