"""What the official TRM builders draw, call by call, so that their output can be made again.

They use NumPy's old global generator and never seed it; here it is an argument. Everything else builds
with `numpy.random.Generator`. Their mazes need nothing here: what is drawn is the subset, and the eight
versions come in a fixed order.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from jaxtyping import Int, Integer

from loopscope.tasks.base import BLANK

BOX = 3  # the official code knows 9x9 boards only


def subset(count: int, size: int, random: np.random.RandomState) -> Int[np.ndarray, "K"]:
    """Rows of a random subset, in the order they are drawn."""
    return random.choice(count, size, replace=False)


def sudoku_versions(
    inputs: Integer[np.ndarray, "N L"],
    labels: Integer[np.ndarray, "N L"],
    count: int,
    random: np.random.RandomState,
    rows: Iterable[int],
) -> tuple[Int[np.ndarray, "M L"], Int[np.ndarray, "M L"]]:
    """Every 9x9 puzzle followed by `count` random versions of it, M = N * (1 + count).

    Args:
        inputs, labels: tokens.
        rows: `range(N)`, perhaps wrapped to show progress.
    Returns:
        Two int64 arrays: the official digit map has that dtype and widens everything it touches.
    """
    shape = (len(inputs), 1 + count, inputs.shape[1])
    new_inputs, new_labels = np.empty(shape, np.int64), np.empty(shape, np.int64)
    for i in rows:
        new_inputs[i, 0], new_labels[i, 0] = inputs[i], labels[i]
        for version in range(1, 1 + count):
            tokens, cells = _symmetry(random)
            new_inputs[i, version] = tokens[inputs[i, cells]]
            new_labels[i, version] = tokens[labels[i, cells]]
    return new_inputs.reshape(-1, shape[2]), new_labels.reshape(-1, shape[2])


def _symmetry(random: np.random.RandomState) -> tuple[np.ndarray, np.ndarray]:
    """New token of each token, (11,), and the cell each new cell takes its content from, (81,)."""
    side = BOX * BOX
    digits = random.permutation(np.arange(1, side + 1))
    transpose = random.rand() < 0.5
    bands = random.permutation(BOX)
    rows = np.concatenate([band * BOX + random.permutation(BOX) for band in bands])
    stacks = random.permutation(BOX)
    cols = np.concatenate([stack * BOX + random.permutation(BOX) for stack in stacks])
    tokens = np.concatenate([[0, BLANK], digits + BLANK])
    row_step, col_step = (1, side) if transpose else (side, 1)
    return tokens, (rows[:, None] * row_step + cols * col_step).ravel()
