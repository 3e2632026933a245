"""The estimators against known answers, and a model's tangents against other ways to get them.

`verify_estimators` runs systems whose exponents and escape rates are known (`dynamics.known`) through the
very functions that measure the networks. `verify_model` asks whether the tangents of a model are its
derivative (central differences and, for a small latent, the whole Jacobian), and whether orbit and tangents
really have the digits of their dtype: an autocast or a cast inside a map leaves the dtypes as they are.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from loopscope.dynamics import tangents
from loopscope.dynamics.known import escape, exponents, networks
from loopscope.dynamics.system import (
    Check,
    check_system,
    compare,
    exact_arithmetic,
    in_float64,
    own_memory,
)
from loopscope.evaluation.subject import dtype_name
from loopscope.latent import flatten, leaves, norm, rows, unflatten

SMALL = 1536  # numbers in a latent up to which its whole Jacobian is formed
STEP = {torch.float32: 2.0**-16, torch.float64: 2.0**-36}  # far below what a shorter dtype resolves
POINTS = 33  # on the line: enough for a coarse map to jump
NOISE = {torch.float32: 2e-5, torch.float64: 1e-11}  # far above rounding, far below a shorter dtype's


def verify_estimators(seed: int = 0, *, slow: bool = False) -> list[Check]:
    """Run every system with a known answer; about 25 s on one core.

    Args:
        seed: of the random matrices and starts.
        slow: also the wide random networks, another minute.
    Returns:
        One check per number, with the tolerance it must keep.
    """
    rng = np.random.default_rng(seed)
    checks = [*exponents.linear(), *exponents.triangular(rng), *exponents.gaussian(rng)]
    checks += [*exponents.logistic(rng), *exponents.long_logistic(rng), *exponents.planar(rng)]
    checks += [*exponents.other_ways(rng), *exponents.lorenz(rng), *exponents.dull()]
    checks += [exponents.tanh_net(rng, 300, 3.0, networks=2, tolerance=0.02)]
    checks += [*networks.jacobians(seed), *networks.post_norm(seed), *networks.qr_precision(rng)]
    checks += [*escape.open_maps(rng), *escape.flagged(rng), *escape.border()]
    return [*checks, *exponents.wide_tanh_nets(rng)] if slow else checks


def verify_model(model: Any, batch: Any, *, seed: int = 0) -> list[Check]:
    """Whether the tangents that the exponents rest on are the derivative of the model's segment.

    `check_system`; the digits of orbit and tangents in the dtype the model is in; and for a latent of at
    most `SMALL` numbers the batched tangents against the full Jacobian of the first puzzle, in float64
    where the model can be cast.

    Args:
        model: anything that keeps the `RecursiveSystem` protocol.
        batch: a few puzzles, handed to `encode`.
        seed: of the random directions.
    """
    checks = [*check_system(model, batch, seed=seed), *_digits(model, batch, seed)]
    wide = in_float64(model, batch)
    with torch.no_grad():
        ctx = wide.encode(batch)
        z = wide.initial_state(ctx)
    small = flatten(z).shape[1] <= SMALL
    return [*checks, _against_jacobian(wide, z, ctx, seed)] if small else checks


def _digits(model: Any, batch: Any, seed: int) -> list[Check]:
    """Whether a segment and its tangents round as finely as the dtype of the latent says.

    Along a line of tiny steps a segment is a parabola up to its rounding, which the third difference
    shows; relative to the image and to the growth of a step, so that a chaotic map does not look coarse.
    Tangents of a sum are the sum of tangents, up to theirs.
    """
    with torch.no_grad():
        ctx = model.encode(batch)
        z = own_memory(model.initial_state(ctx))
    kind, dtype, name = leaves(z)[0].dtype, dtype_name(z), f"{type(model).__name__}.segment"
    bits = {8 * t.itemsize for t in leaves(z)}
    if kind not in STEP or len(bits) > 1:
        found = float(bits.pop()) if len(bits) == 1 else float("nan")
        return [compare(f"{name}: bits of the latent", 32.0, found, 0.0, _mixed(z, name))]
    with exact_arithmetic(leaves(z)[0].device):
        image = model.segment(z, ctx)
        noise = _noise(model, z, ctx, seed) if dtype_name(image) == dtype else float("inf")
        error = _additivity(model, z, ctx, seed)
    coarse = f"{name}: rounds by {noise:.1g}, too much for {dtype}. Is there an autocast or a cast inside?"
    short = f"{name}: tangents are off by {error:.1g}, too much for {dtype}. Is there a cast inside?"
    return [
        compare(f"{name}: orbit has the digits of {dtype}, rounding", 0.0, noise, NOISE[kind], coarse),
        compare(f"{name}: tangents have those of {dtype}, rounding", 0.0, error, NOISE[kind], short),
    ]


def _noise(model: Any, z: Any, ctx: Any, seed: int) -> float:
    """Rounding of a segment, relative; by the third difference along a random line."""
    start = flatten(z)
    step = STEP[start.dtype] * norm(z).clamp_min(1.0)[:, None].to(start)
    direction = tangents.orthonormal_start(z, 1, seed=seed)
    growth = tangents.push(tangents.segment_functions(model, ctx, "segment")[0], z, direction)[1].norm(dim=1)
    line = step * direction[:, :, 0]
    f = [flatten(model.segment(unflatten(start + i * line, z), ctx)).double() for i in range(POINTS)]
    thirds = torch.stack(f).diff(n=3, dim=0)
    rough = (thirds.square().sum(2).mean(0) / 20).sqrt()  # 1 + 9 + 9 + 1
    return float((rough / f[0].norm(dim=1).clamp_min(1e-12) / growth[:, 0].clamp_min(1.0)).mean())


def _additivity(model: Any, z: Any, ctx: Any, seed: int) -> float:
    """J(a + b) - J a - J b, relative to J(a + b)."""
    pair = tangents.orthonormal_start(z, min(2, flatten(z).shape[1]), seed=seed)
    Q = torch.cat((pair, pair.sum(2, keepdim=True)), 2)
    V = tangents.push(tangents.segment_functions(model, ctx, "segment")[0], z, Q)[1].double()
    return float((V[:, :, -1] - V[:, :, :-1].sum(2)).norm() / V[:, :, -1].norm().clamp_min(1e-12))


def _mixed(z: Any, name: str) -> str:
    kinds = ", ".join(sorted({str(t.dtype).removeprefix("torch.") for t in leaves(z)}))
    return f"{name}: latent of dtype {kinds}, expected float32 or float64 in all parts. Cast the model."


def _against_jacobian(model: Any, z: Any, ctx: Any, seed: int) -> Check:
    """J Q of the first puzzle, pushed with the others, against its Jacobian, formed alone."""
    z1 = rows(z, slice(0, 1))
    ctx1 = rows(ctx, slice(0, 1))
    Q = tangents.orthonormal_start(z, min(2, flatten(z).shape[1]), seed=seed)
    with exact_arithmetic(Q.device):
        _, V = tangents.push(tangents.segment_functions(model, ctx, "segment")[0], z, Q)
        alone = lambda flat: flatten(model.segment(unflatten(flat[None], z1), ctx1))[0]  # noqa: E731
        jacobian = torch.func.jacfwd(alone)(flatten(z1)[0])
    error = float((jacobian @ Q[0] - V[0]).norm() / V[0].norm().clamp_min(1e-12))
    name = f"{type(model).__name__}.segment: tangents against the Jacobian, relative error"
    return compare(name, 0.0, error, 1e-10 if Q.dtype == torch.float64 else 1e-4)
