"""Make the puzzle files that come with the package; the same bytes every time.

    python scripts/make_puzzles.py [TRAINING_FILE ...]

`sudoku6-test`: 512 puzzles of the kind the recipe `sudoku6-cpu` trains on, from another seed.
`sudoku9-demo`: 64 puzzles for the demo, a fixed number in each of three bands of our own rating (0 is
solved by propagation alone), so that a small model meets puzzles it solves and puzzles it does not. The
bands were set after a look at how an early checkpoint does on them; within a band the first generated
puzzles are taken, whatever any model makes of them. `sudoku9-hard`: 64 puzzles for a model that solves
nearly all of the former, three quarters of them made hard by a search: of all that moved givens lead to,
those eight go on that our solver finds hardest when it is told a digit. How many rounds was set after a look
at what the model still solves, so that the demo shows successes and failures. All sets are checked, up to
symmetry, against the puzzles the shipped models were trained on.
"""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from loopscope.config import load_recipe
from loopscope.tasks import PuzzleSet, Sudoku, read_puzzles, write_puzzles
from loopscope.tasks.base import BLANK, join
from loopscope.tasks.overlap import overlap
from loopscope.tasks.sudoku.generate import generate
from loopscope.tasks.sudoku.neighbours import moves
from loopscope.tasks.sudoku.solver import solve
from loopscope.tasks.sudoku.symmetry import augment
from loopscope.training.setup import training_puzzles

FOLDER = Path(__file__).resolve().parents[1] / "src" / "loopscope" / "assets" / "puzzles"
DEMO_BANDS = {(0, 0): 20, (1, 4): 24, (5, 1000): 20}  # rating -> puzzles
HARD_ROUNDS = np.repeat([0, 240, 240, 240], 16)  # rounds of search, per puzzle
MOVES = 300  # tried on each in a round
BEAM = 8  # puzzles kept from round to round
COPIES = 16  # symmetric copies, each told another cell, whose guesses are averaged


def main(training_files: list[str]) -> None:
    board = Sudoku(2, 3)
    trained = training_puzzles(load_recipe("sudoku6-cpu").data)
    small = without(generate(board, 600, 12, np.random.default_rng(2026)), trained)[:512]
    save(small, "sudoku6-test")

    pool = join(
        [generate(Sudoku(3, 3), 400, givens, np.random.default_rng([2026, givens])) for givens in (30, 25)]
    )
    hard = made_hard(generate(Sudoku(3, 3), len(HARD_ROUNDS), 23, np.random.default_rng([2026, 23])))
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


def made_hard(puzzles: PuzzleSet) -> PuzzleSet:
    """Each puzzle after its rounds: the hardest that moved givens lead to, a few of them kept at a time."""
    task, rng = puzzles.task, np.random.default_rng(2026)
    assert isinstance(task, Sudoku)
    beams = [row[None] for row in puzzles.inputs]
    for number in tqdm(range(HARD_ROUNDS.max()), unit="round"):
        for i in np.flatnonzero(number < HARD_ROUNDS):
            tried = np.concatenate([moves(task, row, MOVES, rng) for row in beams[i]])
            tried = tried[solve(task, tried, limit=2)[1] == 1]
            known = np.unique(np.concatenate([beams[i], tried]), axis=0)
            # judged anew in every round: the best of many is luck in part
            beams[i] = known[np.argsort(-hardness(known, rng), kind="stable")[:BEAM]]
    inputs = np.stack([beam[hardness(beam, rng).argmax()] for beam in beams])
    labels = solve(task, inputs, limit=1)[0]
    facts = {"source": np.array([f"searched-{n}-rounds" for n in HARD_ROUNDS]), "givens": task.givens(inputs)}
    facts["rating"] = solve(task, inputs, limit=1)[2]
    mixed = np.arange(len(inputs)).reshape(4, -1).T.ravel()  # so that the first puzzles are of all kinds
    return dataclasses.replace(puzzles, inputs=inputs, labels=labels, facts=facts)[mixed]


def hardness(inputs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mean of ln(1 + guesses) of our solver when it is told one random cell.

    Many guesses alone do not trouble a network that solves where one digit would do: of 512 test rows
    `sudoku9-equivariant` failed on none that any single digit opens.
    """
    task = Sudoku(3, 3)
    told = np.repeat(inputs, COPIES, axis=0)
    labels = np.repeat(solve(task, inputs, limit=1)[0], COPIES, axis=0)
    cell = np.where(told == BLANK, rng.random(told.shape), -1).argmax(1)
    rows = np.arange(len(told))
    told[rows, cell] = labels[rows, cell]
    copies, _ = augment(task, told, told, rng)
    return np.log1p(solve(task, copies, limit=1)[2]).reshape(-1, COPIES).mean(1)


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
