"""Maps with a hole, for escape rates: plain functions on arrays.

In any binary format the tent and doubling maps shift their bits out (all orbits are 0 after 53 steps
in float64), so the doubling map is run on 64-bit integers and for few steps only.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Int, Shaped, UInt64


def first_exit(
    step: Callable[[np.ndarray], np.ndarray],
    hole: Callable[[np.ndarray], np.ndarray],
    x0: Shaped[np.ndarray, " B"],
    segments: int,
) -> Int[np.ndarray, " B"]:
    """First segment at whose end an orbit lies in the hole, 1-based; -1 for never."""
    at = np.full(len(x0), -1)
    alive, x = np.arange(len(x0)), x0
    for t in range(1, segments + 1):
        x = step(x)
        out = hole(x)
        at[alive[out]] = t
        alive, x = alive[~out], x[~out]
    return at


def double(x: UInt64[np.ndarray, " B"]) -> UInt64[np.ndarray, " B"]:
    """The doubling map x' = 2x mod 1 on uint64, where x stands for x / 2^64: no rounding at all."""
    return x << np.uint64(1)


def tent(slope: float) -> Callable[[np.ndarray], np.ndarray]:
    """x' = slope min(x, 1 - x); for a slope above 2 orbits leave [0, 1]."""
    return lambda x: slope * np.minimum(x, 1 - x)
