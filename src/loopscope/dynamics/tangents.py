"""Pushing tangents: how k directions at a latent travel with it, and stay orthonormal.

What is unusual: every puzzle of a batch carries its own k tangents (B, N, k). Our own models push them
through a derivative written by hand, all in the same matrix products (`models.tangents`); any other
system through `vmap(jvp)`, which computes the value once. They are re-orthonormalised by a batched
Cholesky QR with a float64 Gram matrix (`torch.linalg.qr` loops over the batch on a GPU). The norm is the
joint one of the whole latent.

    functions = segment_functions(system, ctx, "segment")
    Q = orthonormal_start(z, k, seed=0)
    z, Q, growth = advance(functions, z, Q)      # growth (B, k), nats; any change of z in between

Source: Benettin, Galgani, Giorgilli and Strelcyn, Meccanica 15 (1980) 9; CholeskyQR2: Yamamoto et al.,
ETNA 44 (2015) 306.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import jvp, vmap

from loopscope.dynamics.system import exact_arithmetic, own_memory
from loopscope.errors import UserError
from loopscope.latent import batch_size, flatten, leaves, rows, tree_map, unflatten
from loopscope.models.tangents import stacked_segment, stacked_updates, stacks_tangents

Function = Callable[[Any], Any]  # latent -> latent; may offer `push` of its own
WIDE = 1e-4  # a column closer than this to the span of those before it goes to Householder


def orthonormal_start(
    z: Any, k: int, *, seed: int, puzzle_index: Int[np.ndarray, " B"] | Sequence[int] | None = None
) -> Float[Tensor, "B N k"]:
    """Random orthonormal tangents, in the dtype and on the device of the latent; the same in every dtype.

    Every puzzle draws from a generator of its own, (seed, index), and column by column: the result
    depends neither on how puzzles are batched nor, for the leading columns, on k.

    Args:
        z: latent with batch axis B and N numbers per puzzle.
        k: tangents per puzzle, at most N.
        seed: of the draw.
        puzzle_index: the number of each puzzle in the whole set; default 0..B-1.
    """
    first = leaves(z)[0]
    width = sum(t[0].numel() for t in leaves(z))
    if not 1 <= k <= width:
        raise UserError(f"exponents={k}: expected 1 to {width}, the size of the latent. Ask for fewer.")
    index = range(batch_size(z)) if puzzle_index is None else puzzle_index
    # in float32 whatever the latent, so that orbits in float64 have the same start
    draws = [np.random.default_rng((seed, int(i))).standard_normal((k, width), np.float32) for i in index]
    kind = torch.float64 if first.dtype == torch.float64 else torch.float32
    start = torch.from_numpy(np.stack(draws)).to(first.device, kind).transpose(1, 2)
    return orthonormalise(start)[0]


# -- pushing


def push(f: Function, z: Any, Q: Float[Tensor, "B N k"]) -> tuple[Any, Float[Tensor, "B N k"]]:
    """The image of a latent and of its tangents: (f(z), J_f(z) Q).

    By `f.push` where f offers it, else by forward mode; either computes the value once for all k
    tangents. Forward mode needs `exact_arithmetic` around it when f contains attention.
    """
    return f.push(z, Q) if hasattr(f, "push") else push_by_jvp(f, z, Q)


def push_by_jvp(f: Function, z: Any, Q: Float[Tensor, "B N k"]) -> tuple[Any, Float[Tensor, "B N k"]]:
    """`push` by `vmap(jvp)`, for any f."""
    z = own_memory(z)

    def along(column: Tensor) -> tuple[Any, Tensor]:
        pair = jvp(f, (z,), (unflatten(column, z),))
        return pair[0], flatten(pair[1])

    # every column returns the same image: an expanded view, of which the first copy is taken
    images, V = vmap(along, in_dims=2)(Q)
    return rows(images, 0), V.movedim(0, 2)


@dataclass(frozen=True, eq=False)
class Shadow:
    """A function of the orbit whose tangents are those of the same function in another dtype.

    The latent moves by `path`, in its own dtype; `tangent` is linearised at the very latents that
    `path` visits.
    """

    path: Function
    tangent: Function
    dtype: torch.dtype

    def __call__(self, z: Any) -> Any:
        return self.path(z)

    def push(self, z: Any, Q: Float[Tensor, "B N k"]) -> tuple[Any, Float[Tensor, "B N k"]]:
        return self.path(z), push(self.tangent, tree_map(lambda t: t.to(self.dtype), z), Q)[1]


@dataclass(frozen=True, eq=False)
class Chain:
    """Functions one after the other, without a QR in between."""

    functions: Sequence[Function]

    def __call__(self, z: Any) -> Any:
        for f in self.functions:
            z = f(z)
        return z

    def push(self, z: Any, Q: Float[Tensor, "B N k"]) -> tuple[Any, Float[Tensor, "B N k"]]:
        for f in self.functions:
            z, Q = push(f, z, Q)
        return z, Q


def segment_functions(
    system: Any, ctx: Any, reorth: str, tangent_system: Any = None, tangent_ctx: Any = None
) -> list[Function]:
    """One segment as the functions between which tangents are re-orthonormalised, for `advance`.

    Args:
        system: whose orbit is followed.
        ctx: its encoded input.
        reorth: "segment" or "update".
        tangent_system: the same system in the dtype of the tangents; default `system` itself.
        tangent_ctx: the input that `tangent_system` encodes.
    Raises:
        UserError: `reorth` is neither "segment" nor "update", or the system offers no updates.
    """
    if reorth not in ("segment", "update"):
        raise UserError(f"reorth={reorth!r}: expected 'segment' or 'update'. Choose one.")
    if reorth == "update" and not hasattr(system, "updates"):
        raise UserError(
            f"reorth='update': {type(system).__name__} has no method updates(ctx). Use reorth='segment', "
            "or offer the segment as a list of functions latent -> latent."
        )
    if tangent_system is not None:
        dtype = leaves(tangent_ctx)[0].dtype
        pairs = zip(system.updates(ctx), _functions(tangent_system, tangent_ctx, "update"), strict=True)
        shadows = [Shadow(path, tangent, dtype) for path, tangent in pairs]
        return [Chain(shadows)] if reorth == "segment" else list(shadows)
    return _functions(system, ctx, reorth)


def _functions(system: Any, ctx: Any, reorth: str) -> list[Function]:
    if stacks_tangents(system):
        return [stacked_segment(system, ctx)] if reorth == "segment" else list(stacked_updates(system, ctx))
    return [lambda z: system.segment(z, ctx)] if reorth == "segment" else list(system.updates(ctx))


def advance(
    functions: Sequence[Function], z: Any, Q: Float[Tensor, "B N k"]
) -> tuple[Any, Float[Tensor, "B N k"], Float[Tensor, "B k"]]:
    """One segment for the latent and its tangents.

    Args:
        functions: the segment as one function, or its updates in order; the tangents are
            re-orthonormalised after each. Both give the same exponents; updates are better conditioned.
        z: latent.
        Q: orthonormal tangents.
    Returns:
        New latent, new orthonormal tangents, growth (B, k) in nats over the whole segment, float64.
    """
    z, Q, growth = advance_each(functions, z, Q)
    return z, Q, growth.sum(1)


def advance_each(
    functions: Sequence[Function], z: Any, Q: Float[Tensor, "B N k"], sets: int = 1
) -> tuple[Any, Float[Tensor, "B N k"], Float[Tensor, "B U k"]]:
    """`advance` with the growth of every function apart.

    Args:
        functions: U of them.
        z: latent.
        Q: tangents; with `sets` > 1 several independent sets side by side, each orthonormal in itself.
        sets: how many.
    Returns:
        New latent, new tangents, growth (B, U, k) in nats; k counts the tangents of all sets.
    """
    steps = []
    with exact_arithmetic(Q.device):
        for f in functions:
            z, V = push(f, z, Q)
            parts = [orthonormalise(part) for part in V.chunk(sets, dim=2)]
            Q = torch.cat([part[0] for part in parts], 2) if sets > 1 else parts[0][0]
            steps.append(torch.cat([part[1] for part in parts], 1))
    return z, Q, torch.stack(steps, 1)


# -- re-orthonormalising


def orthonormalise(V: Float[Tensor, "B N k"]) -> tuple[Float[Tensor, "B N k"], Float[Tensor, "B k"]]:
    """Thin QR of every puzzle's tangents.

    Computed in float64 and returned in the dtype of V. Two rounds of Cholesky QR on columns of unit
    length; rows whose columns are nearly dependent (`WIDE`) go to Householder. A column that vanishes,
    or that is dependent up to the rounding of its dtype, has growth -inf and is replaced by some unit
    vector orthogonal to the others. Rows with NaN or infinity give NaN.

    Returns:
        Q with orthonormal columns, and log |diag R| (B, k) in nats, float64.
    """
    lengths = torch.linalg.vector_norm(V, dim=1, dtype=torch.float64)
    unit = V.double() / lengths.clamp_min(torch.finfo(torch.float64).tiny)[:, None]
    Q, diagonal, bad = _cholesky_qr2(unit)
    if bad.any():
        Q[bad], diagonal[bad] = _householder(unit[bad])
    vanished = (lengths == 0) | (diagonal <= 4 * torch.finfo(V.dtype).eps)
    growth = torch.where(vanished, -torch.inf, lengths.log() + diagonal.log())
    broken = ~lengths.isfinite().all(dim=1)
    growth[broken] = torch.nan
    Q[broken] = torch.nan
    return Q.to(V.dtype), growth


def _cholesky_qr2(unit: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Two rounds of Cholesky QR, float64: Q, |diag R|, and which rows must not be trusted."""
    Q, diagonal, bad = unit, torch.ones_like(unit[:, 0]), ~unit.isfinite().all(dim=2).all(dim=1)
    for _ in range(2):
        factor, info = torch.linalg.cholesky_ex(Q.mT @ Q)
        pivots = factor.diagonal(dim1=1, dim2=2)
        bad = bad | (info != 0) | (pivots.amin(dim=1) < WIDE)
        Q = torch.linalg.solve_triangular(factor.mT, Q, upper=True, left=False)
        diagonal = diagonal * pivots
    return Q, diagonal, bad


def _householder(unit: Tensor) -> tuple[Tensor, Tensor]:
    """The slow sure way for few rows; non-finite rows are passed as zeros, the caller marks them."""
    Q, R = torch.linalg.qr(torch.nan_to_num(unit, nan=0.0, posinf=0.0, neginf=0.0))
    diagonal = R.diagonal(dim1=1, dim2=2)
    sign = torch.where(diagonal < 0, -1.0, 1.0)
    return Q * sign[:, None], diagonal.abs()


# -- dtypes


def check_state(z: Any) -> None:
    """Insist on a latent in which tangents mean something.

    Raises:
        UserError: parts of another dtype than float32 or float64, or of both.
    """
    dtypes = {t.dtype for t in leaves(z)}
    if dtypes not in ({torch.float32}, {torch.float64}):
        found = ", ".join(sorted(str(d).removeprefix("torch.") for d in dtypes))
        raise UserError(
            f"latent of dtype {found}: expected float32 or float64 in all parts. "
            "Load or cast the model in float32 to measure it."
        )


def tangent_twin(system: Any, dtype: str) -> Any:
    """The same system computing in the dtype of the tangents.

    Raises:
        UserError: the dtype is neither float32 nor float64, or the system cannot be switched.
    """
    if dtype not in ("float32", "float64"):
        raise UserError(f"tangent_dtype={dtype}: expected float32 or float64. Tangents need the digits.")
    if not (hasattr(system, "compute_in") and hasattr(system, "updates")):
        raise UserError(
            f"tangent_dtype={dtype}: {type(system).__name__} offers no compute_in and updates. "
            "Cast the system itself and leave tangent_dtype out."
        )
    return copy.deepcopy(system).compute_in(getattr(torch, dtype))
