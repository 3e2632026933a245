"""The eight symmetries of a square, numbered as the official builders number them.

0 identity; 1, 2, 3 quarter turns counter-clockwise; 4 left and right exchanged, 5 up and down exchanged;
6 transposed, 7 transposed along the other diagonal.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Shaped

COUNT = 8
INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)


def transform(grid: Shaped[np.ndarray, "*B h w"], number: int) -> Shaped[np.ndarray, "*B H W"]:
    """Apply symmetry `number` to the last two axes; a grid that is not square may change its shape."""
    assert 0 <= number < COUNT, number
    if number < 4:
        return np.rot90(grid, number, axes=(-2, -1))
    if number == 4:
        return grid[..., ::-1]
    if number == 5:
        return grid[..., ::-1, :]
    turned = grid if number == 6 else np.rot90(grid, 2, axes=(-2, -1))
    return np.swapaxes(turned, -2, -1)
