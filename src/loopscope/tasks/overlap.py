"""Puzzles that two sets share, up to the symmetries of their task.

Unusual: a canonical form of a Sudoku takes half a millisecond, so a cheap number that no symmetry changes
(`invariant`, where the task has one) first tells which puzzles can be equal at all.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from tqdm.auto import tqdm

from loopscope.errors import UserError
from loopscope.tasks.base import PuzzleSet

BLOCK = 1000  # puzzles between two movements of the progress bar


@runtime_checkable
class HasInvariant(Protocol):
    """A task whose canonical form is expensive to compute."""

    def invariant(self, inputs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """A number (N,) uint64 for every row, the same for all its symmetric copies."""
        ...


def overlap(a: PuzzleSet, b: PuzzleSet, progress: bool = False) -> Int[np.ndarray, "K 2"]:
    """Pairs of rows that are equal up to symmetry.

    Args:
        a, b: sets of the same task, with answers.
        progress: show a bar while canonical forms are made.
    Returns:
        For every row of `b` that equals one of `a`: the first such row of `a`, and the row of `b`.
    Raises:
        UserError: one of the sets has no answers, or they are of different tasks.
    """
    if a.task.name != b.task.name:
        raise UserError(f"{a.name} is {a.task.name}, {b.name} is {b.task.name}. Compare sets of one task.")
    in_a, in_b = _candidates(a, b)
    bar = tqdm(total=len(in_a) + len(in_b), disable=not progress, unit="puzzle", leave=False)
    with bar:
        first: dict[bytes, int] = {}
        for key, row in zip(_keys(a, in_a, bar), in_a, strict=True):
            first.setdefault(key, int(row))
        found = [(first[k], row) for k, row in zip(_keys(b, in_b, bar), in_b, strict=True) if k in first]
    return np.array(found, np.int64).reshape(-1, 2)


def repeats(puzzles: PuzzleSet, progress: bool = False) -> Int[np.ndarray, "K 2"]:
    """Rows of a set that repeat an earlier one up to symmetry: the first such row, and the row."""
    pairs = overlap(puzzles, puzzles, progress)
    return pairs[pairs[:, 0] < pairs[:, 1]]


def _candidates(a: PuzzleSet, b: PuzzleSet) -> tuple[np.ndarray, np.ndarray]:
    """Rows of each set whose invariant occurs in the other; within one set, those that share theirs."""
    if not isinstance(a.task, HasInvariant):
        return np.arange(len(a)), np.arange(len(b))
    mine = _invariants(a)
    if a is b:
        _, which, counts = np.unique(mine, return_inverse=True, return_counts=True)
        several = np.flatnonzero(counts[which] > 1)
        return several, several
    other = _invariants(b)
    return np.flatnonzero(np.isin(mine, other)), np.flatnonzero(np.isin(other, mine))


def _invariants(puzzles: PuzzleSet) -> np.ndarray:
    assert isinstance(puzzles.task, HasInvariant)
    labels, size = _labels(puzzles), 50 * BLOCK  # in pieces: it takes some kilobytes a row
    pieces = [slice(start, start + size) for start in range(0, len(puzzles), size)]
    made = [puzzles.task.invariant(puzzles.inputs[piece], labels[piece]) for piece in pieces]
    return np.concatenate([*made, np.empty(0, np.uint64)])


def _keys(puzzles: PuzzleSet, rows: np.ndarray, bar: tqdm) -> list[bytes]:
    labels, keys = _labels(puzzles), []
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        keys += puzzles.task.canonical(puzzles.inputs[block], labels[block])
        bar.update(len(block))
    return keys


def _labels(puzzles: PuzzleSet) -> np.ndarray:
    if puzzles.labels is None:
        raise UserError(f"{puzzles.name}: puzzles without labels have no canonical form. Solve them first.")
    return puzzles.labels
