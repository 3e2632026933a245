"""Growth without tangents: two latents that really part, at any distance.

Tangents answer for infinitely small differences. `two_trajectory_exponent` follows a second orbit at a
tiny distance, pulled back after every segment: the older way to the first exponent, and an independent
check of the tangents. `finite_growth` lets perturbations of finite size go: it shows up to which size the
tangents speak, and where a model that amplifies small errors corrects large ones.

Source: Benettin, Galgani and Strelcyn, Phys. Rev. A 14 (1976) 2338; finite sizes: Aurell et al., J. Phys.
A 30 (1997) 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from loopscope.dynamics.lyapunov import NATS, growth_dataset
from loopscope.dynamics.system import exact_arithmetic
from loopscope.dynamics.tangents import check_state, orthonormal_start
from loopscope.errors import UserError
from loopscope.latent import concat, distance, flatten, norm, repeat, rows, tree_map, unflatten


def two_trajectory_exponent(
    system: Any,
    batch: Any = None,
    *,
    segments: int,
    distance_kept: float = 1e-7,
    z0: Any = None,
    transient: int = 0,
    seed: int = 0,
) -> xr.Dataset:
    """The first exponent from a second orbit that is pulled back after every segment.

    The start direction is that of `lyapunov_spectrum` with the same seed, so the two agree segment by
    segment up to the second order in the distance. In float32 the difference of two latents has few
    digits: use it on a system in float64.

    Args:
        system: anything that keeps the `RecursiveSystem` protocol.
        batch: handed to `system.encode`; None for a map without input.
        segments: length of the orbit.
        distance_kept: Euclidean distance of the two latents before every segment.
        z0: start; default `system.initial_state`.
        transient: leading segments left out of `ftle`.
        seed: of the direction.
    Returns:
        `growth(puzzle, segment, exponent)` and `ftle(puzzle, exponent)` with one exponent. NaN from
        where the two latents met exactly: no direction is left.
    """
    if not 0 <= transient < segments:
        raise UserError(f"transient={transient}: expected 0 to {segments - 1}. Run more segments.")
    if not distance_kept > 0:
        raise UserError(f"distance_kept={distance_kept}: expected a number above 0.")
    ctx, z = _start(system, batch, z0)
    gap, steps = distance_kept * orthonormal_start(z, 1, seed=seed)[:, :, 0], []
    with exact_arithmetic(gap.device):
        pair_ctx = concat([ctx, ctx])
        for _ in range(segments):
            pair = system.segment(concat([z, _moved(z, gap)]), pair_ctx)
            z, other = rows(pair, slice(0, len(gap))), rows(pair, slice(len(gap), None))
            lengths = distance(other, z)
            steps.append((lengths / distance_kept).log())
            gap = (flatten(other) - flatten(z)) * (distance_kept / lengths)[:, None].to(gap.dtype)
    attrs = _attributes(system, seed) | {"distance_kept": distance_kept, "transient": transient}
    return growth_dataset(torch.stack(steps, 1)[:, :, None].cpu().numpy(), transient, attrs)


def finite_growth(
    system: Any,
    batch: Any = None,
    *,
    segments: int,
    sizes: Sequence[float],
    directions: int = 1,
    z0: Any = None,
    seed: int = 0,
) -> xr.Dataset:
    """How perturbations of finite size grow or are forgotten, without pulling them back.

    Args:
        system: anything that keeps the `RecursiveSystem` protocol.
        batch: handed to `system.encode`; None for a map without input.
        segments: how long both orbits run.
        sizes: Euclidean length of the perturbation, relative to the norm of the start.
        directions: random orthonormal directions per puzzle; the same for every size.
        z0: start, a late state for one; default `system.initial_state`.
        seed: of the directions.
    Returns:
        `growth(puzzle, size, direction, segment)`, the change of the logarithm of the distance over each
        segment, and `distance(puzzle, size, direction, segment)` after it, relative to the norm of the
        start. -inf and then NaN where the two orbits met exactly.
    """
    if segments < 1 or not sizes or min(sizes) <= 0:
        raise UserError(f"segments={segments}, sizes={list(sizes)}: expected at least 1, and sizes above 0.")
    ctx, z = _start(system, batch, z0)
    if not 1 <= directions <= (width := flatten(z).shape[1]):
        raise UserError(f"directions={directions}: expected 1 to {width}, the size of the latent.")
    Q = orthonormal_start(z, directions, seed=seed)
    scale = norm(z)
    log_gaps = torch.stack([_log_gaps(system, ctx, z, Q, size * scale, segments) for size in sizes], 1)
    relative = (log_gaps - scale.log().view(-1, 1, 1, 1)).cpu().numpy()  # (B, sizes, directions, T + 1)
    axes = ("puzzle", "size", "direction", "segment")
    size_label = {"units": "1", "long_name": "size of the perturbation, relative to the norm of the start"}
    with np.errstate(invalid="ignore"):
        growth = np.diff(relative, axis=3)
    return xr.Dataset(
        {
            "growth": (axes, growth, {"units": NATS, "long_name": "growth of the distance of two orbits"}),
            "distance": (
                axes,
                np.exp(relative[..., 1:]),
                {"units": "1", "long_name": "distance of two orbits, relative to the norm of the start"},
            ),
        },
        {"size": ("size", np.asarray(sizes, dtype=float), size_label), "segment": np.arange(1, segments + 1)},
        _attributes(system, seed),
    )


def _log_gaps(
    system: Any, ctx: Any, z: Any, Q: Float[Tensor, "B N R"], lengths: Float[Tensor, " B"], segments: int
) -> Float[Tensor, "B R T"]:
    """Logarithm of the distance to the plain orbit at the start and after every segment."""
    B, width, R = Q.shape
    gap = Q.mT.reshape(B * R, width) * lengths.repeat_interleave(R)[:, None].to(Q.dtype)
    with exact_arithmetic(Q.device):
        both = concat([z, _moved(repeat(z, R), gap)])
        both_ctx = concat([ctx, repeat(ctx, R)])
        gaps = []
        for t in range(segments + 1):
            both = system.segment(both, both_ctx) if t else both
            plain, moved = rows(both, slice(0, B)), rows(both, slice(B, None))
            gaps.append(distance(moved, repeat(plain, R)).log().view(B, R))
    return torch.stack(gaps, 2)


def _start(system: Any, batch: Any, z0: Any) -> tuple[Any, Any]:
    with torch.no_grad():
        ctx = system.encode(batch)
        z = system.initial_state(ctx) if z0 is None else z0
    check_state(z)
    return ctx, z


def _moved(z: Any, gap: Float[Tensor, "B N"]) -> Any:
    return tree_map(torch.add, z, unflatten(gap, z))


def _attributes(system: Any, seed: int) -> dict[str, Any]:
    return {
        "system": type(system).__name__,
        "applications_per_segment": int(system.applications_per_segment),
        "seed": seed,
    }
