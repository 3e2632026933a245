"""The chaotic saddle: the set on which an orbit would wander for ever without being solved.

Two ways to see it. *Sprinkler*: follow many orbits, keep those that survive long, look at the middle of
their lives, when they have come close to the saddle and have not begun to leave it. *Stagger-and-step*:
one orbit of any length that stays near the saddle, pushed by a small kick whenever it is about to escape;
it needs no crowd, but its kicks do not respect the natural measure, so quote its exponents as its own.

Both ask only for a map and a predicate `alive(z, ctx)`, (B,) bool; `judged` makes one of a network.

Source: Lai and Tel, Transient Chaos (2011), ch. 1 and app. A; Kantz and Grassberger, Physica D 17 (1985)
75; Sweet, Nusse and Yorke, Phys. Rev. Lett. 86 (2001) 2261.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.dynamics.escape import EscapeRate
from loopscope.dynamics.system import exact_arithmetic, own_memory
from loopscope.dynamics.tangents import advance, check_state, orthonormal_start, segment_functions
from loopscope.errors import UserError
from loopscope.evaluation.intervals import Estimate, bootstrap_mean
from loopscope.latent import batch_size, concat, flatten, leaves, norm, repeat, rows, unflatten

Alive = Callable[[Any, Any], Bool[Tensor, " B"]]


@dataclass(frozen=True)
class Sprinkle:
    """Middles of the longest lives.

    Attributes:
        escaped_at: first segment after which an orbit is no longer alive, 1-based; -1 for survivors, (B,).
        survivors: rows that outlived all segments, (S,).
        segment: the segments of the middle, (W,).
        states: the latent of the survivors after each of them, W latents of S rows.
        growth: nats per segment along k tangents in the middle, (S, W, k); k may be 0.
        reason: why there is nothing to see, else empty.
    """

    escaped_at: Int[np.ndarray, " B"]
    survivors: Int[np.ndarray, " S"]
    segment: Int[np.ndarray, " W"]
    states: tuple[Any, ...]
    growth: Float[np.ndarray, "S W k"]
    reason: str = ""


@dataclass(frozen=True)
class SaddleOrbit:
    """A long orbit near the saddle.

    Attributes:
        states: latent with one row per segment that was made.
        growth: nats per segment along k tangents, (T, k).
        staggers: how many kicks it needed.
        largest: size of the largest, relative to the norm of the state.
        reason: why it is shorter than asked for, else empty.
    """

    states: Any
    growth: Float[np.ndarray, "T k"]
    staggers: int
    largest: float
    reason: str = ""


@dataclass(frozen=True)
class SaddleNumbers:
    """What enters the Kantz-Grassberger relation; measured quantities, the relation itself is not claimed.

    Attributes:
        rate: escape rate kappa, nats per segment.
        exponent: first exponent on the saddle, nats per segment, bootstrap over orbits.
        positive_sum: sum of the positive ones among those measured.
        entropy: positive_sum - kappa, the Kolmogorov-Sinai entropy *if* the relation holds; an upper bound
            of it is positive_sum.
        dimension: 1 - kappa / exponent, the partial dimension D1 along the unstable direction *if* the
            relation holds and there is one such direction; NaN otherwise.
        reason: why something is NaN, else empty.
    """

    rate: Estimate
    exponent: Estimate
    positive_sum: Estimate
    entropy: Estimate
    dimension: Estimate
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        return asdict(self)


def sprinkler(
    system: Any,
    batch: Any,
    alive: Alive,
    *,
    segments: int,
    middle: tuple[int, int] | None = None,
    exponents: int = 0,
    z0: Any = None,
    seed: int = 0,
) -> Sprinkle:
    """Follow all orbits, drop the dead, keep the middle of the survivors.

    Args:
        system: keeps the `RecursiveSystem` protocol.
        batch: handed to `encode`.
        alive: whether an orbit has not escaped, from its latent and its context, such as
            `judged(model).unsolved`. Dead rows are dropped: it must not hold a table of the whole set.
        segments: how long an orbit must live, T; about three times the mean life.
        middle: keep segments middle[0] + 1 to middle[1]; default the middle third.
        exponents: tangents to carry along.
        z0: starts; default `system.initial_state`.
        seed: of the tangents.
    """
    first, last = (segments // 3, segments - segments // 3) if middle is None else middle
    if not 0 <= first < last <= segments:
        raise UserError(f"middle=({first}, {last}): expected 0 <= first < last <= segments={segments}.")
    with torch.no_grad():
        ctx = system.encode(batch)
        z = own_memory(system.initial_state(ctx) if z0 is None else z0)
    if exponents:
        check_state(z)
    escaped, left = np.full(batch_size(z), -1), np.arange(batch_size(z))
    tangents = orthonormal_start(z, exponents, seed=seed) if exponents else None
    states: list[Any] = []
    growth: list[Tensor] = []
    for t in range(1, segments + 1):
        z, tangents, rates = _step(system, z, ctx, tangents)
        stay = alive(z, ctx)
        escaped[left[~stay.cpu().numpy()]] = t
        left = left[stay.cpu().numpy()]
        if first < t <= last:
            states, growth = [*states, z], [*growth, rates]
        if not stay.all():
            ctx, z, states, growth = (
                rows(ctx, stay), rows(z, stay), [rows(s, stay) for s in states], [g[stay] for g in growth]
            )  # fmt: skip
            tangents = None if tangents is None else tangents[stay]
        if len(left) == 0:
            break
    segment = np.arange(first + 1, last + 1)
    if len(left) == 0:
        empty = np.zeros((0, len(segment), exponents))
        return Sprinkle(escaped, left, segment, (), empty, f"no orbit lived for {segments} segments")
    return Sprinkle(escaped, left, segment, tuple(states), torch.stack(growth, 1).cpu().numpy())


def stagger_and_step(
    system: Any,
    batch: Any,
    z: Any,
    alive: Alive,
    *,
    length: int,
    hold: int,
    radius: float = 0.1,
    tries: int = 64,
    rounds: int = 50,
    exponents: int = 0,
    seed: int = 0,
) -> SaddleOrbit:
    """Keep one orbit near the saddle.

    While the orbit would live more than `hold` segments, step; else kick it by a random vector, of a size
    that is uniform on the log scale, until it would.

    Args:
        system: keeps the `RecursiveSystem` protocol.
        batch: one puzzle (B = 1), handed to `encode`.
        z: a state of it, better alive.
        alive: whether a state has not escaped.
        length: segments to make.
        hold: life that every state must still have; longer keeps the orbit closer to the saddle.
        radius: largest kick, relative to the norm of the state; the smallest is given by the precision.
        tries: kicks tried at once, as one batch.
        rounds: batches of kicks before giving up.
        exponents: tangents to carry along (a kick leaves them as they are).
        seed: of kicks and tangents.
    """
    if batch_size(z) != 1:
        raise UserError(f"{batch_size(z)} rows: stagger-and-step follows one. Pass rows(z, slice(i, i + 1)).")
    check_state(z)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        ctx, z = system.encode(batch), own_memory(z)
    tangents = orthonormal_start(z, exponents, seed=seed) if exponents else None
    states: list[Any] = []
    growth: list[Tensor] = []
    staggers, largest, life = 0, 0.0, 0
    while len(states) < length:
        if life <= hold:
            life = int(_lives(system, ctx, z, alive, 2 * hold + 1)[0])
        for _ in range(rounds if life <= hold else 0):
            many = _kicks(z, tries, radius, random)
            lives = _lives(system, repeat(ctx, tries), many, alive, 2 * hold + 1)
            if (lives > hold).any():
                chosen = int((lives > hold).int().argmax())
                moved, life = rows(many, slice(chosen, chosen + 1)), int(lives[chosen])
                largest = max(largest, float((flatten(moved) - flatten(z)).norm() / norm(z)))
                z, staggers = moved, staggers + 1
                break
        if life <= hold:
            break
        z, tangents, rates = _step(system, z, ctx, tangents)
        states, growth, life = [*states, z], [*growth, rates], life - 1
    reason = "" if len(states) == length else (
        f"no kick within {radius:g} of the state lives {hold} segments, {tries * rounds} tried"
    )  # fmt: skip
    found = concat(states) if states else rows(z, slice(0, 0))
    table = torch.cat(growth).cpu().numpy() if growth else np.zeros((0, exponents))
    return SaddleOrbit(found, table, staggers, largest, reason)


def saddle_numbers(
    rate: EscapeRate, growth: Float[np.ndarray, "S W k"], *, resamples: int = 2000, seed: int = 0
) -> SaddleNumbers:
    """Escape rate and exponents of the saddle, and what the Kantz-Grassberger relation would make of them.

    Args:
        rate: per segment, from a window in which the decay is exponential.
        growth: of orbits near the saddle, in nats per segment.
        resamples, seed: of the bootstrap over orbits.
    """
    assert rate.unit == "segment", "exponents are per segment"
    kappa = Estimate(rate.value, rate.low, rate.high, rate.n)
    orbits, _, k = growth.shape
    nothing = Estimate(math.nan, math.nan, math.nan, orbits)
    if orbits == 0 or k == 0:
        return SaddleNumbers(kappa, nothing, nothing, nothing, nothing, f"{orbits} orbits with {k} exponents")
    means = growth.mean(axis=1)
    exponents = [bootstrap_mean(means[:, i], resamples=resamples, seed=seed) for i in range(k)]
    positive = np.array([e.value > 0 for e in exponents])
    total = bootstrap_mean(means[:, positive].sum(axis=1), resamples=resamples, seed=seed)
    entropy = _minus(total, kappa)
    if positive.sum() != 1:
        reason = f"{positive.sum()} positive exponents, a partial dimension needs exactly one"
        return SaddleNumbers(kappa, exponents[0], total, entropy, nothing, reason)
    if exponents[0].value <= kappa.value:
        reason = f"the exponent {exponents[0].value:.3g} does not exceed the escape rate: no dimension"
        return SaddleNumbers(kappa, exponents[0], total, entropy, nothing, reason)
    ratio = _ratio(kappa, exponents[0])
    dimension = Estimate(1 - ratio.value, 1 - ratio.high, 1 - ratio.low, orbits)
    reason = "" if k > 1 else "one exponent was measured, and it is positive: there may be more"
    return SaddleNumbers(kappa, exponents[0], total, entropy, dimension, reason)


def _step(system: Any, z: Any, ctx: Any, tangents: Tensor | None) -> tuple[Any, Tensor | None, Tensor]:
    """One segment, with its growth (B, k)."""
    if tangents is not None:
        return advance(segment_functions(system, ctx, "segment"), z, tangents)
    with exact_arithmetic(leaves(z)[0].device):
        return system.segment(z, ctx), None, torch.zeros(batch_size(z), 0, dtype=torch.float64)


@torch.no_grad()
def _lives(system: Any, ctx: Any, z: Any, alive: Alive, cap: int) -> Int[Tensor, " B"]:
    """Segments for which each row stays alive, at most `cap`; -1 for rows that are not alive at all."""
    stay = alive(z, ctx)
    lives = stay.long() - 1
    with exact_arithmetic(leaves(z)[0].device):
        for _ in range(cap):
            z = system.segment(z, ctx)
            stay = stay & alive(z, ctx)
            if not stay.any():
                break
            lives = lives + stay.long()
    return lives


def _kicks(z: Any, tries: int, radius: float, random: torch.Generator) -> Any:
    """Copies of one state, moved in random directions by sizes from the precision up to `radius`."""
    flat = flatten(repeat(z, tries))
    width = -math.log10(torch.finfo(flat.dtype).eps) - 1 + math.log10(radius)
    draw = torch.randn(flat.shape, generator=random, dtype=torch.float64)
    exponent = torch.rand(tries, generator=random, dtype=torch.float64) * width
    size = radius * 10**-exponent * float(norm(z)[0])
    move = draw / draw.norm(dim=1, keepdim=True) * size[:, None]
    return unflatten(flat + move.to(flat.device, flat.dtype), z)


def _minus(a: Estimate, b: Estimate) -> Estimate:
    """Difference of independent estimates; the half widths add in squares, side by side."""
    low = math.hypot(a.value - a.low, b.high - b.value)
    high = math.hypot(a.high - a.value, b.value - b.low)
    value = a.value - b.value
    return Estimate(value, value - low, value + high, min(a.n, b.n))


def _ratio(a: Estimate, b: Estimate) -> Estimate:
    """Ratio of independent positive estimates, by their relative half widths."""
    value = a.value / b.value
    low = value * math.hypot(1 - a.low / a.value, b.high / b.value - 1) if a.value else 0.0
    high = value * math.hypot(a.high / a.value - 1, 1 - b.low / b.value) if a.value else a.high / b.value
    return Estimate(value, value - low, value + high, min(a.n, b.n))
