"""Whether an orbit comes back: recurrence, period, and the 0-1 test for chaos.

An orbit that has stopped has period 1. A period is asked of states, not of answers: the answer of a
wandering orbit may stand still for long.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from loopscope.dynamics.system import exact_arithmetic, own_memory
from loopscope.errors import UserError
from loopscope.latent import flatten, leaves

LEAST = 1000  # length of a series that the 0-1 test asks for


def state_after(system: Any, batch: Any = None, segments: int = 0, *, z0: Any = None) -> Any:
    """The latent after some segments: where fixed points are looked for, or another measurement starts.

    Args:
        system: anything that keeps the `RecursiveSystem` protocol.
        batch: handed to `system.encode`.
        segments: how many; 0 for the start.
        z0: start; default `system.initial_state`.
    """
    if segments < 0:
        raise UserError(f"segments={segments}: expected 0 or more.")
    with torch.no_grad():
        ctx = system.encode(batch)
        z = own_memory(system.initial_state(ctx) if z0 is None else z0)
        with exact_arithmetic(leaves(z)[0].device):
            for _ in range(segments):
                z = system.segment(z, ctx)
    return z


def late_states(
    system: Any, batch: Any = None, *, segments: int, window: int, z0: Any = None
) -> Float[Tensor, "B W N"]:
    """The last `window` states of every orbit, flattened, in order.

    Args:
        system: anything that keeps the `RecursiveSystem` protocol.
        batch: handed to `system.encode`.
        segments: length of the orbit.
        window: states to keep, W; at most `segments`.
        z0: start; default `system.initial_state`.
    Raises:
        UserError: the window is longer than the orbit.
    """
    if not 1 <= window <= segments:
        raise UserError(f"window={window}: expected 1 to {segments}, the segments that are run.")
    with torch.no_grad():
        ctx = system.encode(batch)
        z = system.initial_state(ctx) if z0 is None else z0
        kept = []
        with exact_arithmetic(leaves(z)[0].device):
            for t in range(segments):
                z = system.segment(z, ctx)
                if t >= segments - window:
                    kept.append(flatten(z))
    return torch.stack(kept, dim=1)


def recurrence(states: Float[Tensor, "B W N"], max_period: int) -> Float[Tensor, "B P"]:
    """How far the orbit is from where it was p segments before, for p = 1..P.

    Args:
        states: a window of every orbit, longer than `max_period`.
        max_period: P.
    Returns:
        The largest ||z(t+p) - z(t)|| in the window, relative to the mean norm there; float64.
    Raises:
        UserError: the window is too short.
    """
    window = states.shape[1]
    if not 1 <= max_period < window:
        raise UserError(f"max_period={max_period}: expected 1 to {window - 1}. Keep a longer window.")
    scale = torch.linalg.vector_norm(states, dim=2, dtype=torch.float64).mean(1)
    scale = scale.clamp_min(torch.finfo(torch.float64).tiny)
    lags = range(1, max_period + 1)
    moved = [
        torch.linalg.vector_norm(states[:, p:] - states[:, :-p], dim=2, dtype=torch.float64) for p in lags
    ]
    return torch.stack([m.amax(1) / scale for m in moved], dim=1)


def estimate_period(
    states: Float[Tensor, "B W N"], max_period: int, tolerance: float | None = None
) -> Int[Tensor, " B"]:
    """The smallest p with z(t+p) = z(t) all through the window; 0 where there is none up to `max_period`.

    Args:
        states: a window of every orbit, best of two periods or more.
        max_period: the longest period looked for.
        tolerance: relative; default 1e-5 in float32 and 1e-10 in float64.
    """
    near = recurrence(states, max_period) < (root_tolerance(states.dtype) if tolerance is None else tolerance)
    return torch.where(near.any(1), near.int().argmax(1) + 1, 0)


def root_tolerance(dtype: torch.dtype) -> float:
    """Relative residual up to which a state counts as having come back."""
    return 1e-10 if dtype == torch.float64 else 1e-5


def zero_one_test(
    series: Float[np.ndarray, "B T"], *, seed: int = 0, frequencies: int = 100
) -> Float[np.ndarray, " B"]:
    """The 0-1 test: near 0 for regular motion, near 1 for chaos.

    A number of the orbit drives a rotation, p(n) + i q(n) = sum_j x_j exp(i j c). Its mean square
    displacement, less the oscillating term, grows in proportion to n for a chaotic series and stays
    bounded for a regular one. K is the correlation of displacement and n, the median over c.

    Args:
        series: one number of every orbit per segment, such as a projection; T of 1000 or more. Not
            quantised (bfloat16 states are), and not sampled so finely that neighbours are nearly equal.
        seed: of the frequencies c, drawn from (pi/5, 4 pi/5), away from the resonances at 0 and pi.
        frequencies: how many.
    Returns:
        K of every series; NaN for one that is constant, which has nothing to test.
    Raises:
        UserError: shorter than 1000.
    Source: Gottwald and Melbourne, SIAM J. Appl. Dyn. Syst. 8 (2009) 129.
    """
    x = np.asarray(series, float)
    if x.shape[1] < LEAST:
        raise UserError(f"0-1 test: series of {x.shape[1]} segments, expected {LEAST} or more. Run longer.")
    draws = np.random.default_rng(seed).uniform(np.pi / 5, 4 * np.pi / 5, frequencies)
    return np.array([np.median([_growth(row, c) for c in draws]) if np.ptp(row) else np.nan for row in x])


def _growth(x: Float[np.ndarray, " T"], c: float) -> float:
    """Correlation of the mean square displacement at frequency c with time."""
    path = np.cumsum(x * np.exp(1j * c * np.arange(1, len(x) + 1)))
    lags = np.arange(1, len(x) // 10 + 1)
    starts = len(x) - len(lags)  # the same number of pairs for every lag
    square = np.array([np.mean(np.abs(path[n : n + starts] - path[:starts]) ** 2) for n in lags])
    oscillating = x.mean() ** 2 * (1 - np.cos(lags * c)) / (1 - np.cos(c))
    return float(np.corrcoef(lags, square - oscillating)[0, 1])
