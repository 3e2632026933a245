"""Finite-time Lyapunov exponents: how fast nearby latents part, in nats per segment.

What is unusual: every puzzle of a batch carries its own k tangents (B, N, k), pushed forward by
`vmap(jvp)` so that the primal is computed once; they are re-orthonormalised by a batched Cholesky QR
with a float64 Gram matrix (`torch.linalg.qr` loops over the batch on a GPU). The norm is the joint one
of the whole latent. The exponents are sorted by QR position, not re-sorted per puzzle.

A larger run streams: `orthonormal_start` once, then `advance` per segment, with any z between.

    z, Q, growth = advance([lambda z: system.segment(z, ctx)], z, Q)      # growth (B, k), nats

Source: Benettin, Galgani, Giorgilli and Strelcyn, Meccanica 15 (1980) 9; CholeskyQR2: Yamamoto et al.,
ETNA 44 (2015) 306.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from torch.func import jvp, vmap
from tqdm.auto import tqdm

from loopscope.dynamics.system import exact_arithmetic, own_memory
from loopscope.errors import UserError
from loopscope.latent import batch_size, flatten, leaves, rows, unflatten

WIDE = 1e-4  # a column closer than this to the span of those before it goes to Householder


def orthonormal_start(
    z: Any, k: int, *, seed: int, puzzle_index: Int[np.ndarray, " B"] | Sequence[int] | None = None
) -> Float[Tensor, "B N k"]:
    """Random orthonormal tangents, in the dtype and on the device of the latent.

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
    kind = np.float64 if first.dtype == torch.float64 else np.float32
    draws = [np.random.default_rng((seed, int(i))).standard_normal((k, width), dtype=kind) for i in index]
    start = torch.from_numpy(np.stack(draws)).to(first.device).transpose(1, 2)
    return orthonormalise(start)[0]


def push(f: Callable[[Any], Any], z: Any, Q: Float[Tensor, "B N k"]) -> tuple[Any, Float[Tensor, "B N k"]]:
    """The image of a latent and of its tangents: (f(z), J_f(z) Q).

    The primal is computed once for all k tangents. Forward mode needs `exact_arithmetic` around it
    when f contains attention.
    """

    z = own_memory(z)

    def along(column: Tensor) -> tuple[Any, Tensor]:
        pair = jvp(f, (z,), (unflatten(column, z),))
        return pair[0], flatten(pair[1])

    # every column returns the same image: an expanded view, of which the first copy is taken
    images, V = vmap(along, in_dims=2)(Q)
    return rows(images, 0), V.movedim(0, 2)


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


def advance(
    functions: Sequence[Callable[[Any], Any]], z: Any, Q: Float[Tensor, "B N k"]
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
    growth = torch.zeros(Q.shape[0], Q.shape[2], dtype=torch.float64, device=Q.device)
    with exact_arithmetic(Q.device):
        for f in functions:
            z, V = push(f, z, Q)
            Q, step = orthonormalise(V)
            growth = growth + step
    return z, Q, growth


def lyapunov_spectrum(
    system: Any,
    batch: Any = None,
    *,
    segments: int,
    exponents: int = 1,
    z0: Any = None,
    transient: int = 0,
    reorth: Literal["segment", "update"] = "segment",
    seed: int = 0,
    tangents: Float[Tensor, "B N k"] | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """The leading finite-time Lyapunov exponents of every orbit.

    With J the derivative of one segment and Q orthonormal, J Q = Q' R; growth is log |diag R| and an
    exponent is its mean over segments. Finite-time numbers depend a little on the random start of the
    tangents: repeat with other seeds and quote the spread.

    Args:
        system: anything that keeps the `RecursiveSystem` protocol.
        batch: handed to `system.encode`; None for a map without input.
        segments: length of the orbit, T.
        exponents: how many, k.
        z0: start; default `system.initial_state`.
        transient: leading segments left out of `ftle` (they stay in `growth`).
        reorth: re-orthonormalise after every segment, or after every update of a system that offers
            `updates(ctx)`. Needed when k exponents differ by more than about 10 nats per segment.
        seed: of the tangents.
        tangents: orthonormal tangents to start with, instead of random ones.
        progress: show a bar.
    Returns:
        `growth(puzzle, segment, exponent)` in nats per segment, `ftle(puzzle, exponent)` its mean. NaN
        where the orbit left the finite numbers, -inf where a tangent vanished.
    """
    if not 0 <= transient < segments:
        raise UserError(f"transient={transient}: expected 0 to {segments - 1}. Run more segments.")
    with torch.no_grad():
        ctx = system.encode(batch)
        z = system.initial_state(ctx) if z0 is None else z0
    check_state(z)
    functions = segment_functions(system, ctx, reorth)
    Q = orthonormal_start(z, exponents, seed=seed) if tangents is None else tangents
    steps = []
    for _ in tqdm(range(segments), desc="segments", disable=not progress):
        z, Q, growth = advance(functions, z, Q)
        steps.append(growth)
    attrs = {
        "system": type(system).__name__,
        "applications_per_segment": int(system.applications_per_segment),
        "transient": transient,
        "reorthonormalised": f"every {reorth}",
        "seed": seed,
        "state_dtype": str(leaves(z)[0].dtype).removeprefix("torch."),
        "tangent_dtype": str(Q.dtype).removeprefix("torch."),
    }
    return growth_dataset(torch.stack(steps, dim=1).cpu().numpy(), transient, attrs)


def growth_dataset(
    growth: Float[np.ndarray, "B T k"], transient: int = 0, attrs: dict[str, Any] | None = None
) -> xr.Dataset:
    """Label raw growth and add its mean, the exponents."""
    B, T, k = growth.shape
    nats = {"units": "nats per segment"}
    data = {
        "growth": (
            ("puzzle", "segment", "exponent"),
            growth,
            {**nats, "long_name": "growth of the i-th tangent direction"},
        ),
        "ftle": (
            ("puzzle", "exponent"),
            growth[:, transient:].mean(axis=1),
            {**nats, "long_name": f"finite-time Lyapunov exponent, segments {transient + 1} to {T}"},
        ),
    }
    coords = {
        "puzzle": ("puzzle", np.arange(B), {"units": "1", "long_name": "puzzle, 0-based"}),
        "segment": ("segment", np.arange(1, T + 1), {"units": "segments", "long_name": "segment, 1-based"}),
        "exponent": ("exponent", np.arange(1, k + 1), {"units": "1", "long_name": "QR position, 1-based"}),
    }
    return xr.Dataset(data, coords, attrs)


def kaplan_yorke_dimension(exponents: Float[np.ndarray, " k"]) -> float:
    """Dimension of the attractor conjectured from its exponents.

    D = j + (l_1 + ... + l_j) / |l_{j+1}| with j the last index whose partial sum is not negative; 0
    when the first exponent is negative. When no partial sum of the k given exponents is negative the
    formula does not close and D is at least k: the return value is then k itself, a lower bound.

    Source: Kaplan and Yorke, Lect. Notes Math. 730 (1979) 204.
    """
    ordered = np.sort(np.asarray(exponents, dtype=float))[::-1]
    if np.isnan(ordered).any():
        return float("nan")
    sums = np.cumsum(ordered)
    j = int(np.argmax(sums < 0)) if (sums < 0).any() else len(ordered)
    if j in (0, len(ordered)):
        return float(j)
    return float(j + sums[j - 1] / abs(ordered[j]))


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


def segment_functions(system: Any, ctx: Any, reorth: str) -> list[Callable[[Any], Any]]:
    """One segment as the functions between which tangents are re-orthonormalised, for `advance`.

    Raises:
        UserError: `reorth` is neither "segment" nor "update", or the system offers no updates.
    """
    if reorth == "segment":
        return [lambda z: system.segment(z, ctx)]
    if reorth != "update":
        raise UserError(f"reorth={reorth!r}: expected 'segment' or 'update'. Choose one.")
    if not hasattr(system, "updates"):
        raise UserError(
            f"reorth='update': {type(system).__name__} has no method updates(ctx). Use reorth='segment', "
            "or offer the segment as a list of functions latent -> latent."
        )
    return list(system.updates(ctx))


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
