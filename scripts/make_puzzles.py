"""Make the puzzle files that come with the package; the same bytes every time.

    python scripts/make_puzzles.py [TRAINING_FILE ...]

`sudoku6-test`: 512 puzzles of the kind the recipe `sudoku6-cpu` trains on, from another seed.
`sudoku9-demo`: 64 puzzles for the demo, a fixed number in each of three bands of our own rating (0 is
solved by propagation alone), so that a small model meets puzzles it solves and puzzles it does not. The
bands were set after a look at how an early checkpoint does on them; within a band the first generated
puzzles are taken, whatever any model makes of them. `sudoku9-hard`: 64 puzzles chosen the same way from
20,000 with 23 givens, for a model that solves nearly all of the former. All sets are checked, up to symmetry,
against the puzzles the shipped models were trained on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from loopscope.config import load_recipe
from loopscope.tasks import PuzzleSet, Sudoku, read_puzzles, write_puzzles
from loopscope.tasks.base import join
from loopscope.tasks.overlap import overlap
from loopscope.tasks.sudoku.generate import generate
from loopscope.training.setup import training_puzzles

FOLDER = Path(__file__).resolve().parents[1] / "src" / "loopscope" / "assets" / "puzzles"
DEMO_BANDS = {(0, 0): 20, (1, 4): 24, (5, 1000): 20}  # rating -> puzzles
HARD_BANDS = {(0, 0): 4, (1, 4): 8, (5, 9): 16, (10, 19): 20, (20, 1000): 16}


def main(training_files: list[str]) -> None:
    board = Sudoku(2, 3)
    trained = training_puzzles(load_recipe("sudoku6-cpu").data)
    small = without(generate(board, 600, 12, np.random.default_rng(2026)), trained)[:512]
    save(small, "sudoku6-test")

    pool = join(
        [generate(Sudoku(3, 3), 400, givens, np.random.default_rng([2026, givens])) for givens in (30, 25)]
    )
    hard = first_of_bands(generate(Sudoku(3, 3), 20_000, 23, np.random.default_rng([2026, 23])), HARD_BANDS)
    if training_files:
        trained = join([read_puzzles(f) for f in training_files])
        pool, hard = without(pool, trained), without(hard, trained)
    save(first_of_bands(pool, DEMO_BANDS), "sudoku9-demo")
    save(hard, "sudoku9-hard")


def first_of_bands(pool: PuzzleSet, bands: dict[tuple[int, int], int]) -> PuzzleSet:
    """The first puzzles of each band of the rating, in the order of the pool."""
    rating = pool.facts["rating"]
    chosen = [np.flatnonzero((low <= rating) & (rating <= high))[:n] for (low, high), n in bands.items()]
    return pool[np.sort(np.concatenate(chosen))]


def without(puzzles: PuzzleSet, others: PuzzleSet) -> PuzzleSet:
    """The puzzles that are not a symmetric copy of one of the others."""
    copies = overlap(others, puzzles)
    print(
        f"{len(copies)} of {len(puzzles)} {puzzles.task.name} puzzles equal a training puzzle up to symmetry"
    )
    return puzzles[np.setdiff1d(np.arange(len(puzzles)), copies[:, 1])]


def save(puzzles: PuzzleSet, name: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"{name}.csv.gz"
    write_puzzles(puzzles, path)
    print(f"{path.name}: {len(puzzles)} puzzles, {path.stat().st_size} bytes, {puzzles.content_hash[:12]}")


if __name__ == "__main__":
    main(sys.argv[1:])
