"""Make the puzzle files that come with the package; but for the last, the same bytes every time.

    python scripts/make_puzzles.py [TRAINING_FILE ...]

`sudoku6-test`: 512 puzzles of the kind the recipe `sudoku6-cpu` trains on, from another seed.
`sudoku9-demo`: 64 puzzles for the demo, a fixed number in each of three bands of our own rating (0 is
solved by propagation alone), so that a small model meets puzzles it solves and puzzles it does not. The
bands were set after a look at how an early checkpoint does on them; within a band the first generated
puzzles are taken, whatever any model makes of them. `sudoku9-hard`: 64 puzzles for `sudoku9-equivariant`,
which solves nearly all of the former. Every other one is made hard for this model: givens are moved until it
is not right within its budget. So the demo shows successes, late successes and failures, and no rate on this
set says anything of other puzzles. It depends on the weights and, by rounding, on the processor. All sets are
checked, up to symmetry, against the puzzles the shipped models were trained on.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from tqdm import tqdm

from loopscope.config import load_recipe
from loopscope.evaluation.solve import solve as solve_with
from loopscope.models.load import load
from loopscope.models.recursion import RecursiveModel
from loopscope.tasks import PuzzleSet, Sudoku, read_puzzles, write_puzzles
from loopscope.tasks.base import join
from loopscope.tasks.overlap import overlap
from loopscope.tasks.sudoku.generate import generate
from loopscope.tasks.sudoku.neighbours import moves
from loopscope.tasks.sudoku.solver import solve
from loopscope.training.setup import training_puzzles

FOLDER = Path(__file__).resolve().parents[1] / "src" / "loopscope" / "assets" / "puzzles"
DEMO_BANDS = {(0, 0): 20, (1, 4): 24, (5, 1000): 20}  # rating -> puzzles
HARD = 64, 23  # puzzles, givens
MODEL = "sudoku9-equivariant"  # that every other one is made hard for
ROUNDS = 12  # of the search, at most
MOVES = 400  # tried on each puzzle in a round: a tenth has one solution
KEPT = 24  # of those that have, shown to the model


def main(training_files: list[str]) -> None:
    board = Sudoku(2, 3)
    trained = training_puzzles(load_recipe("sudoku6-cpu").data)
    small = without(generate(board, 600, 12, np.random.default_rng(2026)), trained)[:512]
    save(small, "sudoku6-test")

    pool = join(
        [generate(Sudoku(3, 3), 400, givens, np.random.default_rng([2026, givens])) for givens in (30, 25)]
    )
    hard = made_hard(generate(Sudoku(3, 3), *HARD, np.random.default_rng([2026, HARD[1]])))
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
    """Every other puzzle with its givens moved until the model is not right within its budget."""
    task, rng = puzzles.task, np.random.default_rng(2026)
    assert isinstance(task, Sudoku)
    model = load(MODEL, dtype="float32")
    inputs = puzzles.inputs.copy()
    searched = np.arange(len(inputs)) % 2 == 1
    most, solved = trouble(model, puzzles)
    for _ in tqdm(range(ROUNDS), unit="round"):
        for i in np.flatnonzero(solved & searched):
            tried = moves(task, inputs[i], MOVES, rng)
            tried = tried[solve(task, tried, limit=2)[1] == 1][:KEPT]
            wrong, right = trouble(model, rated(task, tried, "moved"))
            if wrong.max(initial=0) > most[i]:
                best = wrong.argmax()
                inputs[i], most[i], solved[i] = tried[best], wrong[best], right[best]
    return rated(task, inputs, np.where(searched, "moved-givens", "generated"))


def trouble(model: RecursiveModel, puzzles: PuzzleSet) -> tuple[np.ndarray, np.ndarray]:
    """Wrong cells summed over the segments of the budget, and whether the answer is right at its end."""
    if not len(puzzles):
        return np.empty(0), np.empty(0, bool)
    answers = solve_with(model, puzzles, trace=True)
    assert answers.trace is not None
    wrong = (answers.trace != puzzles.labels[:, None]).sum(2)
    return wrong.sum(1), wrong[:, -1] == 0


def rated(task: Sudoku, inputs: np.ndarray, source: str | np.ndarray) -> PuzzleSet:
    """Puzzles with their answers and facts."""
    labels, _, rating = solve(task, inputs, limit=1)
    facts = {"source": np.broadcast_to(source, len(inputs)), "givens": task.givens(inputs), "rating": rating}
    return PuzzleSet(task, inputs, labels, np.zeros(len(inputs), np.int32), facts, "searched")


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
