"""New puzzles from old ones: a given moved elsewhere, the solution still the only one, as hard as before.

Collections of hard Sudoku are made this way: from one hard puzzle to the next, and on from there. What comes
out is no symmetric copy: the solution changes with the givens, so a network that is blind to symmetries
by construction gets from this what others get from augmentation.

Most neighbours of a hard puzzle are easy, and so are theirs. So every generation starts from the band of the
rating that is scarcest so far, and in the end each band keeps as large a share as the source has there. One
count of guesses is luck in part, and choosing by it chooses luck: ratings are means over symmetric copies.
Importing this module loads numba.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64, UInt8
from tqdm.auto import tqdm

from loopscope.errors import UserError
from loopscope.tasks.base import BLANK, PuzzleSet
from loopscope.tasks.overlap import overlap, repeats
from loopscope.tasks.sudoku.board import FIRST_DIGIT, Sudoku
from loopscope.tasks.sudoku.solver import solve
from loopscope.tasks.sudoku.symmetry import augment

PARENTS = 600  # puzzles that a generation starts from, at most
TRIES = 1500  # moves tried on each of them
BANDS = 8  # of the rating, each with the same share of the source
COPIES = 8  # symmetric copies that a rating is the mean of


def neighbours(
    puzzles: PuzzleSet, generations: int, rng: np.random.Generator, progress: bool = False
) -> PuzzleSet:
    """Puzzles that moved givens lead to, generation after generation, as hard as the source.

    A minimal puzzle (none of its givens can go) has minimal neighbours only.

    Args:
        puzzles: Sudoku with one solution each.
        generations: the first starts from `puzzles`, each other one from these and all made before it, of
            the scarcest band.
        rng: same state, same puzzles, byte for byte.
        progress: show a bar.
    Returns:
        Puzzles with labels and the facts `source`, `givens`, and `rating` (guesses of our solver, rounded
        mean over symmetric copies); none equals another or one of `puzzles` up to symmetry.
    Raises:
        UserError: no moved given leads to puzzles as hard as the source.
    """
    task = puzzles.task
    assert isinstance(task, Sudoku)
    origin = np.ascontiguousarray(puzzles.inputs, np.uint8)
    known, rating = origin, ratings(task, origin, rng)
    edges = np.unique(np.quantile(rating, np.arange(BANDS) / BANDS, method="inverted_cdf"))
    edges[0] = 0  # puzzles easier than any of the source are in its easiest band
    band = _band(rating, edges)
    wanted = np.bincount(band) / len(origin)
    start = np.arange(len(origin))
    assert generations > 0
    form = "neighbours {percentage:.0f} %|{bar}| {remaining} left{postfix}"
    with tqdm(total=generations, bar_format=form, disable=not progress, leave=False) as bar:
        for number in range(generations):
            bar.set_postfix_str(f"generation {number + 1} of {generations}")
            parents = known[rng.permutation(start)[:PARENTS]]
            found = _moved_all(task, parents, rng, bar)
            found = found[~_among(found, known)]
            known = np.concatenate([known, found])
            band = np.append(band, _band(ratings(task, found, rng), edges))
            share = np.bincount(band[len(origin) :], minlength=len(wanted)) / wanted
            start = np.flatnonzero(band == share.argmin())
    fresh = len(origin) + np.arange(len(known) - len(origin))
    kept = [rng.permutation(fresh[band[fresh] == k])[: int(share.min() * w)] for k, w in enumerate(wanted)]
    inputs = known[np.sort(np.concatenate(kept))]
    if not len(inputs):
        raise UserError(
            f"{puzzles.name}: no puzzle as hard as these is one given away. Leave out --neighbours."
        )
    facts = {
        "source": np.full(len(inputs), f"neighbours of {puzzles.name}"),
        "givens": task.givens(inputs),
        "rating": np.rint(ratings(task, inputs, rng)).astype(np.int64),
    }
    ids = np.zeros(len(inputs), np.int32)
    made = PuzzleSet(task, inputs, solve(task, inputs, limit=1)[0], ids, facts, f"{puzzles.name} neighbours")
    return without(made, [puzzles], progress)


def without(new: PuzzleSet, others: list[PuzzleSet], progress: bool = False) -> PuzzleSet:
    """The puzzles of `new` that repeat no earlier one and none of `others`, up to symmetry."""
    taken = [repeats(new, progress), *(overlap(other, new, progress) for other in others)]
    return new[np.setdiff1d(np.arange(len(new)), np.concatenate(taken)[:, 1])]


def ratings(
    task: Sudoku, inputs: UInt8[np.ndarray, "N L"], rng: np.random.Generator
) -> Float64[np.ndarray, "N"]:
    """Guesses of our solver until the solution, the mean over random symmetric copies of each puzzle."""
    copies = (augment(task, inputs, inputs, rng)[0] for _ in range(COPIES))
    return np.mean([solve(task, copy, limit=1)[2] for copy in copies], axis=0)


def _moved_all(
    task: Sudoku, parents: UInt8[np.ndarray, "N L"], rng: np.random.Generator, bar: tqdm[Any]
) -> UInt8[np.ndarray, "M L"]:
    """The different neighbours of all parents, on all cores; `bar` goes on by 1."""
    moved = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # the solver lets other threads run
        for some in pool.map(lambda parent, own: _moved(task, parent, own), parents, rng.spawn(len(parents))):
            moved.append(some)
            bar.update(1 / len(parents))
    return np.unique(np.concatenate(moved), axis=0)


def _moved(
    task: Sudoku, parent: UInt8[np.ndarray, "L"], rng: np.random.Generator
) -> UInt8[np.ndarray, "N L"]:
    """The puzzles with one solution among random moves of a given to another cell and digit."""
    rows, givens, blanks = np.arange(TRIES), np.flatnonzero(parent > BLANK), np.flatnonzero(parent == BLANK)
    if not len(givens) or not len(blanks):
        return parent[None][:0]
    moved = np.repeat(parent[None], TRIES, 0)
    moved[rows, rng.choice(givens, TRIES)] = BLANK
    cell = rng.choice(blanks, TRIES)
    token = rng.integers(FIRST_DIGIT, FIRST_DIGIT + task.side, TRIES).astype(np.uint8)
    units = task.unit_of_cell
    shares_unit = (units[:, :, None] == units[:, None, :]).any(0)
    clash = (shares_unit[cell] & (moved == token[:, None])).any(1)
    moved[rows, cell] = token
    moved = np.unique(moved[~clash], axis=0)
    moved = moved[solve(task, moved, limit=2)[1] == 1]
    return moved[is_minimal(task, moved)] if is_minimal(task, parent[None])[0] else moved


def is_minimal(task: Sudoku, inputs: UInt8[np.ndarray, "N L"]) -> Bool[np.ndarray, "N"]:
    """Whether every given is needed: without it there is a second solution."""
    row, cell = np.nonzero(inputs > BLANK)
    fewer = inputs[row]
    fewer[np.arange(len(row)), cell] = BLANK
    idle = solve(task, fewer, limit=2)[1] == 1
    return np.bincount(row[idle], minlength=len(inputs)) == 0


def _band(rating: Float64[np.ndarray, "N"], edges: Float64[np.ndarray, "B"]) -> Int64[np.ndarray, "N"]:
    return np.searchsorted(edges, rating, "right") - 1


def _among(inputs: UInt8[np.ndarray, "N L"], others: UInt8[np.ndarray, "M L"]) -> Bool[np.ndarray, "N"]:
    """Whether each row of `inputs` is a row of `others`."""
    taken = {row.tobytes() for row in others}
    return np.array([row.tobytes() in taken for row in inputs], bool)
