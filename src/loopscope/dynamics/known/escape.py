"""Maps with a hole whose escape rates are known in closed form.

Source: Keller and Liverani, J. Stat. Phys. 135 (2009) 519; Lai and Tel, Transient Chaos (2011).
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
from jaxtyping import Int

from loopscope.dynamics import toys
from loopscope.dynamics.escape import EscapeRate, escape_rate
from loopscope.dynamics.system import Check, compare

GOLDEN = (1 + math.sqrt(5)) / 2


def _rate_check(name: str, exact: float, measured: EscapeRate) -> Check:
    """Within 4 standard errors, read off the interval."""
    return compare(name, exact, measured.value, 4 * (measured.high - measured.low) / (2 * 1.96))


def _logistic_step(r: float, x: np.ndarray) -> np.ndarray:
    return r * x * (1 - x)


def _outside(x: np.ndarray) -> np.ndarray:
    return (x < 0) | (x > 1)


def open_maps(rng: np.random.Generator, n: int = 1_000_000) -> list[Check]:
    checks = []
    for slope, stop in ((2.5, 30), (3.0, 20), (4.0, 12)):
        at = toys.first_exit(toys.tent(slope), _outside, rng.random(n), stop)
        rate = escape_rate(at, start=0, stop=stop)
        checks.append(_rate_check(f"open tent map, slope {slope}", math.log(slope / 2), rate))
    for r, exact in ((4.5, 0.361510), (5.0, 0.552765), (6.0, 0.831493)):
        at = toys.first_exit(partial(_logistic_step, r), _outside, rng.random(n), 14)
        checks.append(_rate_check(f"open logistic map, r = {r}", exact, escape_rate(at, start=4, stop=14)))
    for low, high, exact in ((0, 2, math.log(2 / GOLDEN)), (0, 1, 0.083769), (2, 3, 0.130748)):
        at = _doubling(rng, n, low, high, 40)
        name = f"doubling map, hole [{low}/8, {high}/8)"
        checks.append(_rate_check(name, exact, escape_rate(at, start=10, stop=40)))
    return checks


def flagged(rng: np.random.Generator) -> list[Check]:
    """The hole [1/4, 1/2) leaves S(n) ~ n 2^-n: not exponential, and the trend test must say so."""
    rate = escape_rate(_doubling(rng, 200_000, 2, 4, 20), start=2, stop=14)
    hint = "The test of a constant hazard misses one that rises."
    return [compare("doubling map, hole [1/4, 1/2): flagged", 0.0, float(rate.exponential), 0.0, hint)]


def _doubling(rng: np.random.Generator, n: int, low: int, high: int, segments: int) -> Int[np.ndarray, " B"]:
    """First entries of the doubling map into [low/8, high/8)."""
    starts = rng.integers(2**64, size=n, dtype=np.uint64)

    def hole(x: np.ndarray) -> np.ndarray:
        octant = x >> np.uint64(61)
        return (octant >= low) & (octant < high)

    return toys.first_exit(toys.double, hole, starts, segments)
