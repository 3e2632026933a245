"""The estimators against known answers, and a model's tangents against other ways to get them.

`verify_estimators` runs systems whose exponents and escape rates are known (`dynamics.known`) through the
very functions that measure the networks. `verify_model` asks whether the tangents of a model are its
derivative: central differences and, for a small latent, the whole Jacobian.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from loopscope.dynamics import tangents
from loopscope.dynamics.known import escape, exponents, networks
from loopscope.dynamics.system import Check, check_system, compare, exact_arithmetic, in_float64
from loopscope.latent import flatten, rows, unflatten

SMALL = 1536  # numbers in a latent up to which its whole Jacobian is formed


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
    checks += [*escape.open_maps(rng), *escape.flagged(rng)]
    return [*checks, *exponents.wide_tanh_nets(rng)] if slow else checks


def verify_model(model: Any, batch: Any, *, seed: int = 0) -> list[Check]:
    """Whether the tangents that the exponents rest on are the derivative of the model's segment.

    `check_system`, and for a latent of at most `SMALL` numbers the batched tangents against the full
    Jacobian of the first puzzle, in float64 where the model can be cast.

    Args:
        model: anything that keeps the `RecursiveSystem` protocol.
        batch: a few puzzles, handed to `encode`.
        seed: of the random directions.
    """
    checks = check_system(model, batch, seed=seed)
    wide = in_float64(model, batch)
    with torch.no_grad():
        ctx = wide.encode(batch)
        z = wide.initial_state(ctx)
    small = flatten(z).shape[1] <= SMALL
    return [*checks, _against_jacobian(wide, z, ctx, seed)] if small else checks


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
