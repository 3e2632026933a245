"""Finite-time Lyapunov exponents: how fast nearby latents part, in nats per segment.

With J the derivative of one segment and Q orthonormal, J Q = Q' R; growth is log |diag R|, and an
exponent is its mean over segments. The exponents are sorted by QR position, not re-sorted per puzzle.
The raw growth is kept: what follows from it is in `dynamics.exponents`. How tangents are pushed and
made orthonormal again is in `dynamics.tangents`.

A larger run streams: `orthonormal_start` once, then `advance` per segment, with any z between.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm

from loopscope.dynamics.tangents import (
    Function,
    advance,
    advance_each,
    check_state,
    orthonormal_start,
    segment_functions,
    tangent_twin,
)
from loopscope.errors import UserError
from loopscope.latent import leaves

NATS = "nats per segment"
Record = Callable[[Any, Any], dict[str, Tensor]]  # latent, context -> named numbers (B,)


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
    tangent_seeds: int = 1,
    tangent_dtype: str | None = None,
    tangents: Float[Tensor, "B N k"] | None = None,
    record: Record | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """The leading finite-time Lyapunov exponents of every orbit.

    Finite-time numbers depend a little on the random start of the tangents: with `tangent_seeds` of 3
    or more the result says how much. All sets of tangents travel along one orbit.

    Args:
        system: anything that keeps the `RecursiveSystem` protocol.
        batch: handed to `system.encode`; None for a map without input.
        segments: length of the orbit, T.
        exponents: how many, k.
        z0: start; default `system.initial_state`.
        transient: leading segments left out of `ftle` (they stay in `growth`, and in `ftle_whole`).
        reorth: re-orthonormalise after every segment, or after every update of a system that offers
            `updates(ctx)`. Needed when k exponents differ by more than about 10 nats per segment, and
            for `growth_by_update`.
        seed: of the tangents; the further sets take the seeds that follow.
        tangent_seeds: independent sets of tangents, S.
        tangent_dtype: float32 or float64, where the orbit runs in another dtype, bfloat16 for one: the
            map is then linearised in this dtype at the very latents of the orbit, update by update.
        tangents: orthonormal tangents to start with, instead of random ones.
        record: a function of the latent after a segment and of the context that returns named numbers
            (B,); they come back over (puzzle, segment), from the very same orbit.
        progress: show a bar.
    Returns:
        `growth(puzzle, segment, exponent)` in nats per segment, `ftle(puzzle, exponent)` its mean. NaN
        where the orbit left the finite numbers, -inf where a tangent vanished. With a transient
        `ftle_whole`, over all segments. With several seeds `growth_by_seed(..., tangent_seed, exponent)`
        and `ftle_spread`, the standard deviation of `ftle` over them. With `reorth="update"`
        `growth_by_update(puzzle, segment, update, exponent)`: the growth summed over the updates of
        one name in the model's schedule; they add up to `growth`. An update leaves part of the latent
        as it is, so such a sum says where growth comes from and is no contraction rate.
    """
    if not 0 <= transient < segments:
        raise UserError(f"transient={transient}: expected 0 to {segments - 1}. Run more segments.")
    if tangent_seeds < 1 or (tangents is not None and tangent_seeds > 1):
        raise UserError(f"tangent_seeds={tangent_seeds}: expected 1 or more, and 1 with given tangents.")
    with torch.no_grad():
        ctx = system.encode(batch)
        z = system.initial_state(ctx) if z0 is None else z0
        functions, like = tangent_path(system, batch, ctx, z, reorth, tangent_dtype)
    Q = tangent_starts(like, exponents, tangent_seeds, seed) if tangents is None else tangents
    steps, records = [], []
    for _ in tqdm(range(segments), desc="segments", disable=not progress):
        z, Q, growth = advance_each(functions, z, Q, tangent_seeds)
        steps.append(growth)
        with torch.no_grad():
            records.append({} if record is None else record(z, ctx))
    attrs = {
        "system": type(system).__name__,
        "applications_per_segment": int(system.applications_per_segment),
        "transient": transient,
        "reorthonormalised": f"every {reorth}",
        "seed": seed,
        "tangent_seeds": tangent_seeds,
        "traj_dtype": str(leaves(z)[0].dtype).removeprefix("torch."),
        "tangent_dtype": str(Q.dtype).removeprefix("torch."),
    }
    raw = torch.stack(steps, dim=1).unflatten(3, (tangent_seeds, -1)).cpu().numpy()  # (B, T, U, S, k)
    table = growth_dataset(raw[:, :, :, 0].sum(2), transient, attrs)
    if tangent_seeds > 1:
        table = table.assign(over_seeds(raw.sum(2), transient))
    if reorth == "update":
        table = table.assign(by_update(raw[:, :, :, 0], system))
    return table.assign(_recorded(records))


def tangent_path(
    system: Any, batch: Any, ctx: Any, z: Any, reorth: str, tangent_dtype: str | None = None
) -> tuple[list[Function], Any]:
    """How tangents travel beside an orbit, for `advance_each`.

    Args:
        system: whose orbit is followed.
        batch: what it encoded.
        ctx: the encoded input.
        z: start of the orbit.
        reorth: "segment" or "update".
        tangent_dtype: of the tangents; None or empty for that of the orbit.
    Returns:
        The functions of a segment, and a latent in the dtype of the tangents.
    Raises:
        UserError: tangents mean nothing in the dtype, or the system cannot be switched to it.
    """
    if not tangent_dtype or tangent_dtype == str(leaves(z)[0].dtype).removeprefix("torch."):
        check_state(z)
        return segment_functions(system, ctx, reorth), z
    twin = tangent_twin(system, tangent_dtype)
    wide = twin.encode(batch)
    return segment_functions(system, ctx, reorth, twin, wide), twin.initial_state(wide)


def tangent_starts(
    like: Any, exponents: int, sets: int, seed: int, puzzle_index: Int[np.ndarray, " B"] | None = None
) -> Float[Tensor, "B N k"]:
    """Independent sets of orthonormal tangents side by side, of the seeds `seed`, `seed` + 1, ..."""
    seeds = range(seed, seed + sets)
    return torch.cat(
        [orthonormal_start(like, exponents, seed=s, puzzle_index=puzzle_index) for s in seeds], 2
    )


def growth_dataset(
    growth: Float[np.ndarray, "B T k"], transient: int = 0, attrs: dict[str, Any] | None = None
) -> xr.Dataset:
    """Label raw growth and add its mean, the exponents."""
    B, T, k = growth.shape
    by_exponent = ("puzzle", "exponent")
    data = {
        "growth": (
            ("puzzle", "segment", "exponent"),
            growth,
            {"units": NATS, "long_name": "growth of the i-th tangent direction"},
        ),
        "ftle": (
            by_exponent,
            growth[:, transient:].mean(axis=1),
            {"units": NATS, "long_name": f"finite-time Lyapunov exponent, segments {transient + 1} to {T}"},
        ),
    }
    if transient:
        whole = f"finite-time Lyapunov exponent, segments 1 to {T}"
        data["ftle_whole"] = (by_exponent, growth.mean(axis=1), {"units": NATS, "long_name": whole})
    coords = {
        "puzzle": ("puzzle", np.arange(B), {"units": "1", "long_name": "puzzle, 0-based"}),
        "segment": ("segment", np.arange(1, T + 1), {"units": "segments", "long_name": "segment, 1-based"}),
        "exponent": ("exponent", np.arange(1, k + 1), {"units": "1", "long_name": "QR position, 1-based"}),
    }
    return xr.Dataset(data, coords, attrs)


def over_seeds(raw: Float[np.ndarray, "B T S k"], transient: int = 0) -> dict[str, Any]:
    """Growth by set of tangents, and how much the exponents differ between them, as xarray variables."""
    means = raw[:, transient:].mean(axis=1)
    with np.errstate(invalid="ignore"):  # -inf - -inf: the spread is NaN
        spread = means.std(axis=1, ddof=1)
    return {
        "growth_by_seed": (
            ("puzzle", "segment", "tangent_seed", "exponent"),
            raw,
            {"units": NATS, "long_name": "growth, by start of the tangents"},
        ),
        "ftle_spread": (
            ("puzzle", "exponent"),
            spread,
            {"units": NATS, "long_name": "standard deviation of ftle over tangent seeds"},
        ),
    }


def by_update(raw: Float[np.ndarray, "B T U k"], system: Any) -> dict[str, Any]:
    """Growth summed over the updates of one name, as xarray variables; by position without a schedule."""
    count = raw.shape[2]
    schedule = getattr(system, "schedule", None) or [str(i + 1) for i in range(count)]
    assert len(schedule) == count, "a schedule names every update"
    names = list(dict.fromkeys(schedule))
    sums = [raw[:, :, [n == name for n in schedule]].sum(axis=2) for name in names]
    label = {"units": NATS, "long_name": "growth summed over the updates of one name"}
    return {
        "growth_by_update": (("puzzle", "segment", "update", "exponent"), np.stack(sums, axis=2), label),
        "update": ("update", names, {"units": "1", "long_name": "name of the update in the schedule"}),
    }


def _recorded(records: list[dict[str, Tensor]]) -> dict[str, Any]:
    """What `record` returned, over (puzzle, segment)."""
    return {
        name: (
            ("puzzle", "segment"),
            torch.stack([row[name] for row in records], dim=1).cpu().numpy(),
            {"units": "1", "long_name": f"{name} after the segment"},
        )
        for name in records[0]
    }


__all__ = [
    "advance",
    "check_state",
    "growth_dataset",
    "lyapunov_spectrum",
    "orthonormal_start",
    "segment_functions",
]
