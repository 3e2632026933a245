"""Edge tracking: an orbit on the border between two outcomes, and how fast it is left.

Bisect between two states that end differently until they all but touch, run both until they part, bisect
again: the pair follows the border towards its attractor, the edge state, and the growth of the gap in
between is the exponent across the border.

Latents of post-norm models lie on spheres, token by token: the middle of two states is then taken on
the geodesic (`sphere=True`), a straight line would leave the set on which the map lives.

Source: Itano and Toh, J. Phys. Soc. Japan 70 (2001) 703; Skufca, Yorke and Eckhardt, Phys. Rev. Lett. 96
(2006) 174101.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from loopscope.dynamics.system import exact_arithmetic, own_memory
from loopscope.dynamics.tangents import check_state
from loopscope.errors import UserError
from loopscope.evaluation.intervals import Estimate, bootstrap_mean
from loopscope.latent import distance, leaves, norm, tree_map, where

Outcome = Callable[[Any, Any], Int[Tensor, " B"]]
Middle = Callable[[Any, Any], Any]
MIDDLES = 200  # halvings before giving up


@dataclass(frozen=True)
class EdgeTrack:
    """Orbits on the border between two outcomes.

    Attributes:
        below, above: the last pair of states of every row, one on either side.
        path: middle of the pair after every segment, T latents of B rows.
        gap: distance of the pair after every segment, relative to the norm of its middle where that is
            above 1, (B, T).
        exponents: growth of the gap in nats per segment, mean over segments that began below `part` and
            lie before the last time at which the two sides were seen to end differently, (B,); after each
            bisection the first segments still turn the gap into the unstable direction.
        exponent: mean over rows, bootstrap; no interval for a single row.
        outcomes: (B, 2), what the two sides lead to at the start.
        reason: per row, why it was not tracked, or not to the end; empty where it was.
    """

    below: Any
    above: Any
    path: tuple[Any, ...]
    gap: Float[np.ndarray, "B T"]
    exponents: Float[np.ndarray, " B"]
    exponent: Estimate
    outcomes: Int[np.ndarray, "B 2"]
    reason: tuple[str, ...]


@torch.no_grad()
def edge_track(
    system: Any,
    batch: Any,
    first: Any,
    second: Any,
    outcome: Outcome,
    *,
    horizon: int,
    segments: int,
    close: float = 1e-6,
    part: float = 1e-3,
    sphere: bool = False,
) -> EdgeTrack:
    """Follow the border between the outcomes of two states, row by row.

    Args:
        system: keeps the `RecursiveSystem` protocol.
        batch: B puzzles, handed to `encode`.
        first, second: states with different outcomes; rows whose outcomes agree are not tracked.
        outcome: what a state is after `horizon` segments, an integer per row, from the latent and the
            context; `judged` offers solved or not, and a number for the decoded answer. Everything that
            is not the outcome of `first` counts as the other side.
        horizon: segments after which the outcome is read.
        segments: length of the tracked orbit, T.
        close: gap, relative to the norm of the state, at which bisection stops.
        part: gap at which it starts anew; between the two the growth is that of small distances.
        sphere: bisect on the geodesic of the last axis instead of the straight line.
    Returns:
        Where the border leads and how fast it is left. A gap that bisection cannot close (rounding) stays
        as it is and is reported. Both sides are followed to their outcomes again before every bisection and
        at the end; a row where they agree has lost the border (an outcome such as "solved within `horizon`
        segments" may change on the way) and is not tracked from there on.
    Raises:
        UserError: `close` and `part` leave no range, or the states have too few digits.
    """
    check_state(first)
    if not 0 < close < part:
        raise UserError(f"close={close}, part={part}: expected 0 < close < part. Widen the range.")
    middle = geodesic_middle if sphere else straight_middle
    with exact_arithmetic(leaves(first)[0].device):
        ctx = system.encode(batch)
        a, b = own_memory(first), own_memory(second)
        ends = torch.stack([_end(system, ctx, z, outcome, horizon) for z in (a, b)], dim=1)
        tracked = ends[:, 0] != ends[:, 1]
        first_side = lambda z: _end(system, ctx, z, outcome, horizon) == ends[:, 0]  # noqa: E731
        astride = lambda a, b: first_side(a) & ~first_side(b)  # noqa: E731
        path, gaps, growth = [], [], []
        seen = torch.zeros_like(ends[:, 0])  # segments after which the pair was last seen astride the border
        for t in range(segments if tracked.any() else 0):
            wide = tracked & ((_gap(a, b, middle) > part) | (t == 0))
            if wide.any():
                tracked = tracked & (astride(a, b) | ~wide)
                wide, seen = wide & tracked, torch.where(wide & tracked, t, seen)
            a, b = _close(a, b, first_side, wide, close, middle)
            before, linear = distance(a, b), _gap(a, b, middle) < part
            a, b = system.segment(a, ctx), system.segment(b, ctx)
            path.append(middle(a, b))
            gaps.append(_gap(a, b, middle))
            # chosen by the gap before: one chosen by the gap after would leave out the largest growth
            small = tracked & (before > 0) & linear & (distance(a, b) > 0)
            growth.append(torch.where(small, (distance(a, b) / before).log(), torch.nan))
        seen = torch.where(tracked & astride(a, b), segments, seen)
    return _result(a, b, path, gaps, growth, ends, seen.cpu().numpy())


def _result(
    a: Any, b: Any, path: list, gaps: list, growth: list, ends: Tensor, seen: Int[np.ndarray, " B"]
) -> EdgeTrack:
    found = ends.cpu().numpy()
    B, T = len(found), len(growth)
    steps = torch.stack(growth, 1).cpu().numpy() if growth else np.full((B, 1), np.nan)
    steps[np.arange(steps.shape[1]) >= seen[:, None]] = np.nan
    used = (~np.isnan(steps)).sum(axis=1)
    means = np.where(used > 0, np.nansum(steps, axis=1) / np.maximum(used, 1), np.nan)
    told = [
        f"both sides end in outcome {end[0]}"
        if end[0] == end[1]
        else f"the border was lost after segment {last}"
        if last < T
        else ""
        if count
        else "the gap never fell below part"
        for end, count, last in zip(found, used, seen, strict=True)
    ]
    present = means[~np.isnan(means)]
    total = bootstrap_mean(present, resamples=2000)
    gap = torch.stack(gaps, 1).cpu().numpy() if gaps else np.zeros((B, 0))
    return EdgeTrack(a, b, tuple(path), gap, means, total, found, tuple(told))


def straight_middle(a: Any, b: Any) -> Any:
    """Middle of the straight line between two latents."""
    return tree_map(lambda x, y: (x + y) / 2, a, b)


def geodesic_middle(a: Any, b: Any) -> Any:
    """Middle of the great circle between two latents, token by token; the norm is the mean of the two."""

    def middle(x: Tensor, y: Tensor) -> Tensor:
        lengths = x.norm(dim=-1, keepdim=True), y.norm(dim=-1, keepdim=True)
        towards = x / lengths[0].clamp_min(1e-30) + y / lengths[1].clamp_min(1e-30)
        return towards / towards.norm(dim=-1, keepdim=True).clamp_min(1e-30) * (lengths[0] + lengths[1]) / 2

    return tree_map(middle, a, b)


def _close(
    a: Any, b: Any, first_side: Callable[[Any], Tensor], wide: Tensor, close: float, middle: Middle
) -> tuple[Any, Any]:
    """Halve the gap of the wide rows until it is small or rounding stops it."""
    active = wide
    for _ in range(MIDDLES):
        half = middle(a, b)
        active = active & (_gap(a, b, middle) > close) & (distance(half, a) > 0) & (distance(half, b) > 0)
        if not active.any():
            break
        same = first_side(half)
        a, b = where(active & same, half, a), where(active & ~same, half, b)
    return a, b


def _gap(a: Any, b: Any, middle: Middle) -> Float[Tensor, " B"]:
    return distance(a, b) / norm(middle(a, b)).clamp_min(1.0)


def _end(system: Any, ctx: Any, z: Any, outcome: Outcome, horizon: int) -> Int[Tensor, " B"]:
    for _ in range(horizon):
        z = system.segment(z, ctx)
    return outcome(z, ctx)
