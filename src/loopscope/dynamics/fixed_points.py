"""Fixed points and short cycles near the end of an orbit, and whether they hold it.

A root of F^p(z) - z is looked for puzzle by puzzle, by Anderson acceleration and then by
Newton-Krylov, whose linear system is solved by GMRES on the derivative. Both also find
unstable roots. The multipliers are the leading eigenvalues of the derivative of F^p at the root, from
ARPACK: a root attracts when all are below 1 in size. rho(J) < 1 with a positive finite-time exponent is
transient growth, not chaos: nearby orbits part for a while and end at the same place.

What is unusual: products with the derivative come from reverse mode taken twice, w(u) = J'u and then
d<w, v>/du = Jv. The graph is made once per state, so a product costs two evaluations of F, not seven.

Source: Walker and Ni, SIAM J. Numer. Anal. 49 (2011) 1715; Eisenstat and Walker, SIAM J. Sci. Comput. 17
(1996) 16; Lehoucq, Sorensen and Yang, ARPACK Users' Guide.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Complex, Float, Int
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigs, gmres
from torch import Tensor

from loopscope.dynamics.recurrence import root_tolerance
from loopscope.dynamics.system import exact_arithmetic
from loopscope.dynamics.tangents import check_state
from loopscope.errors import UserError
from loopscope.latent import batch_size, flatten, leaves, rows, unflatten

Flat = Callable[[Tensor], Tensor]  # (B, N) -> (B, N)
HISTORY = 8  # steps that Anderson acceleration looks back
DENSE = 64  # latents up to this size get all their eigenvalues from LAPACK
KRYLOV = 40  # least size of ARPACK's space: with less it restarts often
RESTARTS = 50  # of ARPACK, before it gives up


class FixedPoints(NamedTuple):
    """What was found from B states.

    Attributes:
        state: latent of the roots; where none was found, the best state met.
        period: smallest p with F^p(z) = z; 0 where no root was found.
        residual: ||F^p(z) - z|| relative to the norm of the state handed in, or of its image where that
            is larger; of the best p where none was found.
        moved: distance from the state handed in, on the same scale: large means another place than the
            one where the orbit is.
        multipliers: leading eigenvalues of the derivative of F^p, by falling size; NaN where no root.
    """

    state: Any
    period: Int[np.ndarray, " B"]
    residual: Float[np.ndarray, " B"]
    moved: Float[np.ndarray, " B"]
    multipliers: Complex[np.ndarray, "B k"]

    @property
    def spectral_radius(self) -> Float[np.ndarray, " B"]:
        """Largest multiplier in size: below 1 the root attracts; NaN where there is none."""
        return np.abs(self.multipliers[:, 0])


def fixed_points(
    system: Any,
    batch: Any = None,
    *,
    z: Any,
    max_period: int = 1,
    multipliers: int = 1,
    tolerance: float | None = None,
    steps: int = 50,
    newton: int = 10,
) -> FixedPoints:
    """The nearest fixed point or short cycle of every puzzle.

    Of the roots for p = 1..P the one nearest to z is kept; among those about as near, that of the
    smallest p. A state near a root costs about 100 segments, one without a root up to some thousand: a
    root that was not found may still exist.

    Args:
        system: anything that keeps the `RecursiveSystem` protocol.
        batch: handed to `system.encode`.
        z: late states to start from, as `state_after` gives them; float32 or float64.
        max_period: P.
        multipliers: eigenvalues per root, k; at most the size of the latent.
        tolerance: relative residual of a root; default 1e-5 in float32 and 1e-10 in float64.
        steps: of Anderson acceleration.
        newton: steps of Newton-Krylov, each up to 100 products with the derivative.
    Raises:
        UserError: `max_period` or `multipliers` cannot be, or the states have too few digits.
    """
    check_state(z)
    width = flatten(z).shape[1]
    if max_period < 1 or not 1 <= multipliers <= width:
        raise UserError(
            f"max_period={max_period}, multipliers={multipliers}: expected 1 or more, and at "
            f"most {width} multipliers."
        )
    limit = root_tolerance(leaves(z)[0].dtype) if tolerance is None else tolerance
    with exact_arithmetic(leaves(z)[0].device):
        ctx = system.encode(batch)
        how = (max_period, limit, steps, newton)
        found = [_nearest(system, rows(ctx, i), rows(z, i), *how) for i in _each(z)]
        states = torch.cat([row[0] for row in found])
        periods = np.array([row[1] for row in found])
        values = np.full((len(found), multipliers), np.nan, complex)
        for row, (i, p) in enumerate(zip(_each(z), periods, strict=True)):
            if p:
                root = unflatten(states[i], rows(z, i))
                values[row] = leading_multipliers(system, rows(ctx, i), root, multipliers, period=int(p))
    residual, moved = (np.array([row[place] for row in found]) for place in (2, 3))
    return FixedPoints(unflatten(states, z), periods, residual, moved, values)


def leading_multipliers(
    system: Any, ctx: Any, z: Any, k: int = 1, *, period: int = 1, seed: int = 0
) -> Complex[np.ndarray, " k"]:
    """Eigenvalues of the derivative of F^p at the state of one puzzle, by falling size.

    Args:
        system, ctx: the map and its encoded input, one row.
        z: latent of one row.
        k: how many.
        period: p.
        seed: of the vector ARPACK starts from.
    Returns:
        NaN in place of eigenvalues that did not converge.
    """
    check_state(z)
    x = flatten(z)
    width = x.shape[1]
    with exact_arithmetic(x.device):
        operator = _derivative(_folded(system, ctx, z, period), x)
        dense = width <= max(DENSE, k + 1)
        values = np.linalg.eigvals(operator @ np.eye(width)) if dense else _arpack(operator, k, x.dtype, seed)
    values = values[np.argsort(-np.abs(values), kind="stable")][:k]
    return np.concatenate([values, np.full(k - len(values), np.nan)]).astype(complex)


def _arpack(operator: LinearOperator, k: int, dtype: torch.dtype, seed: int) -> Complex[np.ndarray, " k"]:
    """Largest eigenvalues in size, those that converged; zeros for an operator that is zero."""
    width = operator.shape[0]
    start = np.random.default_rng(seed).standard_normal(width)
    if not np.any(operator @ start):
        return np.zeros(k, complex)
    space, tolerance = min(width, max(KRYLOV, 2 * k + 2)), 1e-8 if dtype == torch.float64 else 1e-4
    try:
        return eigs(
            operator, k, v0=start, ncv=space, maxiter=RESTARTS, tol=tolerance, return_eigenvectors=False
        )
    except ArpackNoConvergence as error:
        return error.eigenvalues
    except ArpackError:  # the derivative is nilpotent, or not finite
        return np.zeros(0, complex)


# -- roots


def _each(z: Any) -> list[slice]:
    return [slice(i, i + 1) for i in range(batch_size(z))]


def _folded(system: Any, ctx: Any, like: Any, period: int) -> Flat:
    """F^p on flat states."""

    def f(x: Tensor) -> Tensor:
        z = unflatten(x, like)
        for _ in range(period):
            z = system.segment(z, ctx)
        return flatten(z)

    return f


def _nearest(
    system: Any, ctx: Any, z: Any, max_period: int, limit: float, steps: int, newton: int
) -> tuple[Tensor, int, float, float]:
    """State (1, N), period (0 for none), residual and way from the start of the nearest root."""
    start = flatten(z)
    best, period, residual, reach = start, 0, np.inf, np.inf
    scale = _scale(_folded(system, ctx, z, 1), start)
    for p in range(1, max_period + 1):
        f = _folded(system, ctx, z, p)
        x = _newton(f, _anderson(f, start, scale, limit, steps), scale, limit, newton)
        if (off := _residual(f, x, scale)) > limit:  # Anderson was led away: from the state itself
            x = _newton(f, start, scale, limit, newton)
            off = _residual(f, x, scale)
        away = float((x - start).double().norm()) / scale
        if off <= limit and away < 0.5 * reach - 1e-12:  # clearly nearer than the root of a smaller period
            best, period, residual, reach = x, p, off, away
        elif not period and off < residual:
            best, residual = x, off
    for p in range(1, period):  # the equation of p = 4 also holds for cycles of 1 and 2
        if period % p == 0 and (off := _residual(_folded(system, ctx, z, p), best, scale)) <= limit:
            return best, p, off, reach
    return best, period, residual, reach if period else float((best - start).double().norm()) / scale


def _scale(f: Flat, x: Tensor) -> float:
    """What residuals are relative to: the state handed in, or its image where that is larger."""
    return max(float(x.double().norm()), float(f(x).double().norm()), 1e-300)


def _residual(f: Flat, x: Tensor, scale: float) -> float:
    return float((f(x) - x).double().norm()) / scale


def _anderson(f: Flat, x: Tensor, scale: float, limit: float, steps: int) -> Tensor:
    """Anderson acceleration; returns the state of smallest residual."""
    states: list[Tensor] = []
    images: list[Tensor] = []
    best, smallest = x, np.inf
    for _ in range(steps):
        image = f(x)
        gap = float((image - x).double().norm()) / scale
        if not np.isfinite(gap):
            break
        if gap < smallest:
            best, smallest = x, gap
        if gap <= limit:
            break
        states, images = [*states, x][-HISTORY:], [*images, image][-HISTORY:]
        gaps = torch.cat([b - a for a, b in zip(states, images, strict=True)]).double()
        x = image
        if len(states) > 1:  # the weights, summing to 1, that make the combined gap smallest
            differences = (gaps[:-1] - gaps[-1]).T
            weights = torch.linalg.lstsq(differences.cpu(), -gaps[-1:].T.cpu(), driver="gelsd").solution.to(x)
            x = image + ((torch.cat(images[:-1]) - image) * weights).sum(0, keepdim=True)
    return best


def _newton(f: Flat, x: Tensor, scale: float, limit: float, steps: int) -> Tensor:
    """Newton-Krylov with halved steps where a whole one does not help; the nearer, the better solved."""
    smallest = _residual(f, x, scale)
    enough = max(0.01 * limit, 10 * torch.finfo(x.dtype).eps)  # rounding allows no better
    for _ in range(steps):
        if smallest <= enough:
            break
        J = _derivative(f, x)
        matrix = LinearOperator(J.shape, matvec=lambda v, J=J: v - J @ v, dtype=np.float64)
        gap = (f(x) - x).double().flatten().cpu().numpy()
        near = min(0.1, max(smallest, 1e-4))
        step = gmres(matrix, gap, rtol=near, restart=min(100, len(gap)), maxiter=1)[0]
        tries = (x + torch.from_numpy(step * 0.5**h).to(x).view_as(x) for h in range(5))
        better = next(((off, t) for t in tries if (off := _residual(f, t, scale)) < smallest), None)
        if better is None:
            break
        smallest, x = better
    return x


def _derivative(f: Flat, x: Tensor) -> LinearOperator:
    """The derivative of f at x, as scipy wants it."""
    product = _product(f, x)

    def along(v: np.ndarray) -> np.ndarray:
        tangent = torch.from_numpy(np.ascontiguousarray(v, dtype=np.float64)).to(x).view_as(x)
        return product(tangent).double().flatten().cpu().numpy()

    return LinearOperator((x.shape[1],) * 2, matvec=along, dtype=np.float64)


def _product(f: Flat, x: Tensor) -> Flat:
    """v -> J v at x: by reverse mode twice where that gives what forward mode gives, else by forward mode.

    It does not for a map that hides part of itself from reverse mode (an inner `no_grad`) or has an
    operation without a second derivative.
    """

    def forward(v: Tensor) -> Tensor:
        return torch.func.jvp(f, (x,), (v,))[1]

    probe = torch.randn(x.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(x)
    expected = forward(probe)
    try:
        twice = _reversed_twice(f, x)
        off = (twice(probe) - expected).norm()
    except RuntimeError:
        return forward
    return twice if off <= 1e3 * torch.finfo(x.dtype).eps * expected.norm() else forward


def _reversed_twice(f: Flat, x: Tensor) -> Flat:
    with torch.enable_grad():
        start = x.detach().clone().requires_grad_()
        image = f(start)
        u = torch.zeros_like(image, requires_grad=True)
        (w,) = torch.autograd.grad(image, start, u, create_graph=True)
    return lambda v: torch.autograd.grad(w, u, v, retain_graph=True)[0]
