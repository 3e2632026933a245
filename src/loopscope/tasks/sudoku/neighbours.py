"""New puzzles from old ones: a given moved elsewhere, the solution still the only one, as hard as before.

Collections of hard Sudoku are made this way: from one hard puzzle to the next, and on from there. What comes
out is no symmetric copy, so a network that is blind to symmetries by construction gets from this what others
get from augmentation. But it is no independent puzzle either: four in ten first neighbours have the very
solution of their parent. The fact `family` tells which descend from the same puzzle.

Most neighbours of a hard puzzle are easy. So every generation keeps of each band of the rating as large a
share as the source has there, and only as many puzzles in all as the scarcest band allows. Importing this
module loads numba.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8
from tqdm.auto import tqdm

from loopscope.errors import UserError
from loopscope.tasks.base import BLANK, FAMILY, PuzzleSet, families
from loopscope.tasks.overlap import overlap, repeats
from loopscope.tasks.sudoku.board import FIRST_DIGIT, Sudoku
from loopscope.tasks.sudoku.solver import solve

BANDS = np.array([0, 1, 4, 10, 20, 40, 80, np.inf])  # of the guesses of our solver
EFFORT = (1000, 3000), (3000, 800)  # puzzles of a generation to start from, at most, and moves tried on each
LATER = 5000, 600  # the same from the third generation on
AT_ONCE = 50  # parents whose moves are in memory at the same time


def neighbours(
    puzzles: PuzzleSet, generations: int, rng: np.random.Generator, progress: bool = False
) -> PuzzleSet:
    """Puzzles that moved givens lead to, generation after generation, rated like the source.

    Args:
        puzzles: Sudoku with one solution each.
        generations: the first starts from `puzzles`, each other one from the one before.
        rng: same state, same puzzles, byte for byte.
        progress: show a bar.
    Returns:
        Puzzles with labels and the facts `source`, `givens`, `rating` (guesses of our solver) and `family`
        (see `families`, of the puzzle it descends from); none equals another or one of `puzzles` up to
        symmetry.
    Raises:
        UserError: no moved given leads to puzzles as hard as the source.
    """
    task = puzzles.task
    assert isinstance(task, Sudoku)
    origin = np.ascontiguousarray(puzzles.inputs, np.uint8)
    wanted = np.bincount(_band(_rating(task, origin)), minlength=len(BANDS) - 1) / len(origin)
    made, parents, family = [], origin, families(origin)
    of_made = []
    form = "neighbours {percentage:.0f} %|{bar}| {remaining} left{postfix}"
    with tqdm(total=generations, bar_format=form, disable=not progress, leave=False) as bar:
        for number in range(generations):
            bar.set_postfix_str(f"generation {number + 1} of {generations}")
            most, tries = EFFORT[number] if number < len(EFFORT) else LATER
            chosen = rng.permutation(len(parents))[:most]
            found, parent = _moved_all(task, parents[chosen], tries, rng, bar)
            alike = _like(wanted, task, found, rng)
            parents, family = found[alike], family[chosen][parent[alike]]
            made.append(parents)
            of_made.append(family)
            if not len(parents):
                break
    inputs, first = np.unique(np.concatenate(made), axis=0, return_index=True)
    if not len(inputs):
        raise UserError(
            f"{puzzles.name}: no puzzle as hard as these is one given away. Leave out --neighbours."
        )
    facts = {"source": np.full(len(inputs), f"neighbours of {puzzles.name}"), "givens": task.givens(inputs)}
    facts |= {"rating": _rating(task, inputs), FAMILY: np.concatenate(of_made)[first]}
    ids = np.zeros(len(inputs), np.int32)
    new = PuzzleSet(task, inputs, solve(task, inputs, limit=1)[0], ids, facts, f"{puzzles.name} neighbours")
    return without(new, [puzzles], progress)


def without(new: PuzzleSet, others: list[PuzzleSet], progress: bool = False) -> PuzzleSet:
    """The puzzles of `new` that repeat no earlier one and none of `others`, up to symmetry."""
    taken = [repeats(new, progress), *(overlap(other, new, progress) for other in others)]
    return new[np.setdiff1d(np.arange(len(new)), np.concatenate(taken)[:, 1])]


def _moved_all(
    task: Sudoku, parents: UInt8[np.ndarray, "P L"], tries: int, rng: np.random.Generator, bar: tqdm[Any]
) -> tuple[UInt8[np.ndarray, "N L"], Int64[np.ndarray, "N"]]:
    """The different neighbours of all parents, and the parent of each; solved on all cores."""
    found: list[np.ndarray] = []
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:  # the solver lets other threads run
        for at in range(0, len(parents), AT_ONCE):
            tried = [moves(task, parent, tries, rng) for parent in parents[at : at + AT_ONCE]]
            found += pool.map(lambda moved: moved[solve(task, moved, limit=2)[1] == 1], tried)
            bar.update(len(tried) / len(parents))
    different, first = np.unique(np.concatenate(found), axis=0, return_index=True)
    return different, np.repeat(np.arange(len(parents)), [len(moved) for moved in found])[first]


def moves(
    task: Sudoku, parent: UInt8[np.ndarray, "L"], tries: int, rng: np.random.Generator
) -> UInt8[np.ndarray, "N L"]:
    """What `tries` random moves of a given to another cell and digit lead to, where no digits clash."""
    rows, givens, blanks = np.arange(tries), np.flatnonzero(parent > BLANK), np.flatnonzero(parent == BLANK)
    if not len(givens) or not len(blanks):
        return parent[None][:0]
    moved = np.repeat(parent[None], tries, 0)
    moved[rows, rng.choice(givens, tries)] = BLANK
    cell = rng.choice(blanks, tries)
    token = rng.integers(FIRST_DIGIT, FIRST_DIGIT + task.side, tries).astype(np.uint8)
    units = task.unit_of_cell
    shares_unit = (units[:, :, None] == units[:, None, :]).any(0)
    clash = (shares_unit[cell] & (moved == token[:, None])).any(1)
    moved[rows, cell] = token
    return np.unique(moved[~clash], axis=0)


def _rating(task: Sudoku, inputs: UInt8[np.ndarray, "N L"]) -> np.ndarray:
    return solve(task, inputs, limit=1)[2]


def _band(rating: np.ndarray) -> np.ndarray:
    return np.digitize(rating, BANDS) - 1


def _like(
    wanted: np.ndarray, task: Sudoku, inputs: UInt8[np.ndarray, "N L"], rng: np.random.Generator
) -> Int64[np.ndarray, "M"]:
    """Which of the puzzles to keep, as many as have the wanted share of every band."""
    band = _band(_rating(task, inputs))
    have = np.bincount(band, minlength=len(wanted))
    count = (have[wanted > 0] / wanted[wanted > 0]).min()
    kept = [rng.permutation(np.flatnonzero(band == k))[: int(count * w)] for k, w in enumerate(wanted)]
    return np.concatenate(kept)
