"""Maps with a hole whose escape rates are known in closed form, and the border between two fates.

Source: Keller and Liverani, J. Stat. Phys. 135 (2009) 519; Lai and Tel, Transient Chaos (2011).
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from loopscope.dynamics import toys
from loopscope.dynamics.edge import edge_track
from loopscope.dynamics.escape import EscapeRate, escape_rate
from loopscope.dynamics.system import Check, compare

GOLDEN = (1 + math.sqrt(5)) / 2


def _rate_check(name: str, exact: float, measured: EscapeRate) -> Check:
    """Within 3 standard errors, read off the interval."""
    return compare(name, exact, measured.value, 3 * (measured.high - measured.low) / (2 * 1.96))


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


class Cubic(toys.Map):
    """x' = 2x - x^3: 0 is the border between the attractors -1 and 1, left at ln 2 per segment."""

    def segment(self, z: Float[Tensor, "B N"], ctx: Any) -> Float[Tensor, "B N"]:
        return 2 * z - z**3


def border() -> list[Check]:
    """Edge tracking stays on the border, and sees how fast it is left."""
    first, second = torch.tensor([[-0.3], [-0.9]]).double(), torch.tensor([[0.9], [0.1]]).double()
    sign = lambda z, ctx: (z[:, 0] > 0).long()  # noqa: E731
    found = edge_track(Cubic(), first, first, second, sign, horizon=60, segments=40, close=1e-10, part=1e-6)
    off = max(float(z.abs().max()) for z in found.path)
    return [
        compare("edge of 2x - x^3, distance", 0.0, off, 1e-5),
        compare("edge of 2x - x^3, exponent", math.log(2), float(found.exponents.mean()), 1e-5),
    ]


def _doubling(rng: np.random.Generator, n: int, low: int, high: int, segments: int) -> Int[np.ndarray, " B"]:
    """First entries of the doubling map into [low/8, high/8)."""
    starts = rng.integers(2**64, size=n, dtype=np.uint64)

    def hole(x: np.ndarray) -> np.ndarray:
        octant = x >> np.uint64(61)
        return (octant >= low) & (octant < high)

    return toys.first_exit(toys.double, hole, starts, segments)
