"""Final-state sensitivity: how often two starts a distance eps apart end differently.

Near a smooth border that share falls like eps, near a fractal one like eps^alpha with alpha below 1: then
ten times more precision buys little certainty. The exponent is fitted to the counts themselves (no
logarithm of zero), so sizes at which nothing differed still count.

Source: Grebogi, McDonald, Ott and Yorke, Phys. Lett. A 99 (1983) 415.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.dynamics.edge import Outcome
from loopscope.dynamics.system import exact_arithmetic, own_memory
from loopscope.errors import UserError
from loopscope.evaluation.intervals import Estimate, mean_share, resampled_rows, wilson
from loopscope.evaluation.starts import perturbed_start
from loopscope.evaluation.subject import blocks
from loopscope.latent import batch_size as count
from loopscope.latent import leaves, rows

ALPHA = (-5.0, 20.0)  # exponents looked for


@dataclass(frozen=True)
class Sensitivity:
    """Share of uncertain starts by the size of the doubt.

    Attributes:
        sizes: eps, in the units of `perturbed_start`.
        fraction: f(eps), share of pairs that end differently, Wilson over pairs.
        alpha: exponent of f ~ eps^alpha, bootstrap over puzzles (over starts where there is one puzzle).
        reason: why there is no exponent, else empty.
    """

    sizes: list[float]
    fraction: list[Estimate]
    alpha: Estimate
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        return asdict(self)


def final_state_sensitivity(
    system: Any,
    batch: Any,
    outcome: Outcome,
    *,
    sizes: Sequence[float],
    segments: int,
    starts: int = 1,
    spread: float = 0.0,
    z0: Any = None,
    batch_size: int = 256,
    resamples: int = 2000,
    seed: int = 0,
) -> Sensitivity:
    """Measure f(eps) and fit its exponent.

    Args:
        system: keeps the `RecursiveSystem` protocol.
        batch: B puzzles, handed to `encode`.
        outcome: what a state has become, an integer per row, from the latent and the context, such as
            `judged(model).answer`. It sees `batch_size` puzzles at a time.
        sizes: eps, at least 2; leave out those at which f has levelled off, they are no power law.
        segments: after which the outcome is read.
        starts: starts per puzzle.
        spread: size of the kick that makes them; 0 takes the plain start (then `starts` must be 1).
        z0: plain starts, B rows; default `system.initial_state`.
        batch_size: puzzles at once.
        resamples: of the bootstrap.
        seed: of the kicks; the same direction serves every size.
    """
    if starts > 1 and spread == 0:
        raise UserError(f"starts={starts}, spread=0: all starts would be equal. Give a spread above 0.")
    tables = []
    for block in blocks(count(batch), batch_size):
        index = np.arange(block.start, block.stop)
        with torch.no_grad():
            ctx = system.encode(rows(batch, block))
            z = own_memory(system.initial_state(ctx) if z0 is None else rows(z0, block))
        end = lambda state, c=ctx: _end(system, c, state, outcome, segments)  # noqa: E731
        found = np.zeros((len(index), starts, len(sizes)), bool)
        for s in range(starts):
            base = perturbed_start(z, spread, seed=seed, restart=s, puzzle_index=index)
            known = end(base)
            for j, size in enumerate(sizes):
                near = perturbed_start(base, size, seed=seed, restart=starts + s, puzzle_index=index)
                found[:, s, j] = (end(near) != known).cpu().numpy()
        tables.append(found)
    return uncertainty_exponent(np.concatenate(tables), sizes, resamples=resamples, seed=seed)


def uncertainty_exponent(
    different: Bool[np.ndarray, "B R J"], sizes: Sequence[float], *, resamples: int = 2000, seed: int = 0
) -> Sensitivity:
    """Exponent of f ~ eps^alpha from pairs that did or did not end alike.

    Poisson maximum likelihood given the total: sum_j k_j ln eps_j / sum_j k_j equals the mean of ln eps
    under weights eps^alpha, which has one solution.

    Args:
        different: whether the pair of every puzzle and start ended differently, at each of J sizes.
        sizes: eps, J positive numbers.
        resamples, seed: of the bootstrap.
    """
    eps = np.asarray(sizes, dtype=float)
    if len(eps) < 2 or (eps <= 0).any() or len(np.unique(eps)) < len(eps):
        raise UserError(f"sizes={list(sizes)}: expected at least 2 different numbers above 0.")
    B, R, J = different.shape
    if B > 1:
        fraction = [mean_share(share, resamples=resamples, seed=seed) for share in different.mean(axis=1).T]
    else:
        fraction = [wilson(int(k), R) for k in different.sum(axis=(0, 1))]
    units = different.sum(axis=1) if B > 1 else different[0].astype(int)
    total = units.sum(axis=0)
    reason = ""
    if (total > 0).sum() < 2:
        reason = f"pairs differed at {(total > 0).sum()} of {J} sizes, an exponent needs 2"
    elif total.min() == B * R:
        reason = "every pair differed at every size: the share has levelled off. Take smaller sizes"
    if reason:
        return Sensitivity(eps.tolist(), fraction, Estimate(math.nan, math.nan, math.nan, len(units)), reason)
    sums = [units[index].sum(axis=1) for index in resampled_rows(len(units), resamples, seed)]
    drawn = np.concatenate(sums)
    low, high = np.quantile(_alpha(drawn[drawn.sum(axis=1) > 0], eps), [0.025, 0.975])
    value = float(_alpha(total[None], eps)[0])
    return Sensitivity(eps.tolist(), fraction, Estimate(value, float(low), float(high), len(units)))


def _alpha(counts: Int[np.ndarray, "r J"], eps: Float[np.ndarray, " J"]) -> Float[np.ndarray, " r"]:
    """The solution of the likelihood equation of every row, by bisection."""
    logs = np.log(eps) - np.log(eps).mean()
    wanted = counts @ logs / counts.sum(axis=1)
    low, high = (np.full(len(counts), end) for end in ALPHA)
    for _ in range(50):
        middle = (low + high) / 2
        weight = np.exp(middle[:, None] * logs)
        below = (weight @ logs) / weight.sum(axis=1) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return (low + high) / 2


@torch.no_grad()
def _end(system: Any, ctx: Any, z: Any, outcome: Outcome, segments: int) -> Tensor:
    with exact_arithmetic(leaves(z)[0].device):
        for _ in range(segments):
            z = system.segment(z, ctx)
        return outcome(z, ctx)
