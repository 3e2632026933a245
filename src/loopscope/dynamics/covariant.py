"""Covariant Lyapunov vectors: the directions themselves that grow at each exponent, and their angles.

QR vectors are orthogonal by construction and say nothing about the angle between what grows and what
shrinks. Covariant vectors v_i(t) are carried onto one another by the map, J v_i(t) ~ v_i(t + 1); where two
of them nearly align, growth and decay are tangent to one another. Forward the R factors are stored,
backward the upper-triangular coefficients C of v = Q C are pulled through R^-1, which turns any start
into the covariant one.

Source: Ginelli et al., Phys. Rev. Lett. 99 (2007) 130601.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from loopscope.dynamics.lyapunov import NATS
from loopscope.dynamics.system import exact_arithmetic
from loopscope.dynamics.tangents import (
    check_state,
    orthonormal_start,
    orthonormalise,
    push,
    segment_functions,
)
from loopscope.errors import UserError


def covariant_vectors(
    system: Any,
    batch: Any = None,
    *,
    segments: int,
    exponents: int,
    forward: int,
    backward: int,
    z0: Any = None,
    seed: int = 0,
    vectors: bool = False,
) -> xr.Dataset:
    """Covariant Lyapunov vectors of a stretch of every orbit.

    The orbit runs `forward` + `segments` + `backward` segments. The QR vectors align in the first part
    and the coefficients in the last one, each at the rate of the gaps between the exponents; only the
    middle is returned. Memory is the R factors, k x k per segment, and with `vectors` the vectors too.

    Args:
        system: anything that keeps the `RecursiveSystem` protocol.
        batch: handed to `system.encode`; None for a map without input.
        segments: length of the stretch that is returned, T.
        exponents: how many, k.
        forward: segments for the QR vectors to align.
        backward: segments for the coefficients to align.
        z0: start; default `system.initial_state`.
        seed: of the tangents and of the coefficients.
        vectors: also return the vectors.
    Returns:
        `angle(puzzle, segment, exponent, other)` in radians, 0 to pi/2, at the state before the segment;
        `growth(puzzle, segment, exponent)` of each vector over the segment; with `vectors`
        `vector(puzzle, segment, component, exponent)` of unit length. NaN where R is singular.
    """
    if min(segments, forward, backward) < 1:
        raise UserError(
            f"segments={segments}, forward={forward}, backward={backward}: expected at least 1 of each."
        )
    with torch.no_grad():
        ctx = system.encode(batch)
        z = system.initial_state(ctx) if z0 is None else z0
    check_state(z)
    f = segment_functions(system, ctx, "segment")[0]
    Q = orthonormal_start(z, exponents, seed=seed)
    frames, factors = [], []
    with exact_arithmetic(Q.device):
        for t in range(forward + segments + backward):
            if vectors and forward <= t < forward + segments:
                frames.append(Q)
            z, V = push(f, z, Q)
            Q = orthonormalise(V)[0]
            factors.append((Q.mT @ V).double())
    C, growth = _pull_back(factors[forward:], segments, seed)
    columns = torch.stack(frames, 1).double() @ C if vectors else None
    return _labelled(C, growth, columns, system)


def _pull_back(
    factors: list[Float[Tensor, "B k k"]], segments: int, seed: int
) -> tuple[Float[Tensor, "B T k k"], Float[Tensor, "B T k"]]:
    """Coefficients before each of the first `segments` segments, unit columns, and their growth over it."""
    k = factors[0].shape[1]
    draw = np.random.default_rng(seed).standard_normal((k, k))
    C = torch.from_numpy(np.triu(draw)).to(factors[0].device).expand_as(factors[0])
    coefficients, growth = [], []
    for t in reversed(range(len(factors))):
        before = torch.linalg.solve_triangular(factors[t].triu(), C / C.norm(dim=1, keepdim=True), upper=True)
        lengths = before.norm(dim=1)
        C = before / lengths[:, None]
        if t < segments:
            coefficients.append(C)
            growth.append(-lengths.log())  # a unit vector came from one of this length
    return torch.stack(coefficients[::-1], 1), torch.stack(growth[::-1], 1)


def _labelled(C: Tensor, growth: Tensor, columns: Tensor | None, system: Any) -> xr.Dataset:
    cosine = (C.mT @ C).abs().clamp(max=1)
    data: dict[str, Any] = {
        "angle": (
            ("puzzle", "segment", "exponent", "other"),
            cosine.arccos().cpu().numpy(),
            {"units": "radians", "long_name": "angle between two covariant vectors"},
        ),
        "growth": (
            ("puzzle", "segment", "exponent"),
            growth.cpu().numpy(),
            {"units": NATS, "long_name": "growth of the i-th covariant vector"},
        ),
    }
    if columns is not None:
        data["vector"] = (
            ("puzzle", "segment", "component", "exponent"),
            columns.cpu().numpy(),
            {"units": "1", "long_name": "covariant vector"},
        )
    k, T = C.shape[-1], C.shape[1]
    index = {"units": "1", "long_name": "index of the vector, 1-based"}
    coords = {
        "exponent": ("exponent", np.arange(1, k + 1), index),
        "other": ("other", np.arange(1, k + 1), index),
        "segment": ("segment", np.arange(1, T + 1), {"units": "segments", "long_name": "segment, 1-based"}),
    }
    attrs = {
        "system": type(system).__name__,
        "applications_per_segment": int(system.applications_per_segment),
    }
    return xr.Dataset(data, coords, attrs)
