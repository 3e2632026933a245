"""The protocol: follow every puzzle's orbit and write one labelled result.

The outcome, the drift and the exponents of a puzzle come from the very same trajectory, float32 unless
another dtype is asked for. A result in memory and one streamed to a file are the same.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm.auto import tqdm

from loopscope.dynamics.lyapunov import by_update, over_seeds, tangent_path, tangent_starts
from loopscope.dynamics.measurement_file import FORMAT, OtherMeasurement, open_measurement, stream
from loopscope.dynamics.plan import Plan, plan_for
from loopscope.dynamics.restarts import restart_variables
from loopscope.dynamics.system import exact_arithmetic, own_memory
from loopscope.dynamics.tangents import advance_each
from loopscope.evaluation.metrics import cells_right
from loopscope.evaluation.subject import (
    blocks,
    budget_of,
    check_fits,
    check_numbers,
    device_of,
    dtype_name,
    identity,
)
from loopscope.latent import distance, leaves, norm
from loopscope.provenance import provenance
from loopscope.tasks.base import Batch, PuzzleSet

LABELS = {  # variable -> (units, long name)
    "puzzle": ("1", "puzzle, 0-based position in the set"),
    "segment": ("segments", "segment, 1-based"),
    "exponent": ("1", "QR position, 1-based"),
    "sigma": ("standard deviations of the start", "size of the kick"),
    "restart": ("1", "restart, 1-based"),
    "solved": ("1", "every cell right after the segment"),
    "cell_accuracy": ("1", "share of supervised cells right"),
    "verified": ("1", "answer keeps the givens and the rules of the task"),
    "logit_change": ("logit", "change of the logits of a cell, mean over cells; NaN at segment 1"),
    "halt_logit": ("logit", "halt logit: from 0 up the model calls its answer right"),
    "drift": ("norm", "change of the latent over the segment"),
    "residual": ("1", "change of the joint latent relative to its norm"),
    "growth": ("nats per segment", "growth of the i-th tangent direction"),
    "ftle": ("nats per segment", "finite-time Lyapunov exponent"),
    "update": ("1", "name of the update in the schedule"),
    "growth_by_update": ("nats per segment", "growth summed over the updates of one name"),
    "tangent_seed": ("1", "set of tangents, 1-based"),
    "growth_by_seed": ("nats per segment", "growth, by set of tangents"),
    "ftle_spread": ("nats per segment", "standard deviation of ftle over the sets of tangents"),
    "first_solved": ("segments", "first segment with every cell right, -1 never"),
    "basin_solved": ("1", "restart solved at some segment"),
    "basin_final": ("1", "restart solved at its last segment"),
    "basin_displacement": ("1", "distance to the plain orbit after one segment, relative to its norm"),
    "inputs": ("token", "puzzle"),
    "labels": ("token", "solution"),
    "answer": ("token", "answer at the training budget"),
    "givens": ("cells", "givens"),
    "rating": ("guesses", "difficulty rating"),
}


def measure(
    model: Any,
    puzzles: PuzzleSet,
    *,
    segments: int | None = None,
    exponents: int = 0,
    exponent_segments: int | None = None,
    tangent_seeds: int = 1,
    sigmas: Sequence[float] = (),
    restarts: int = 8,
    restart_segments: int | None = None,
    reorth: str = "segment",
    dtype: str = "float32",
    tangent_dtype: str | None = None,
    batch_size: int = 32,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Measure a model on puzzles with known solutions.

    Args:
        model: anything that keeps the `RecursiveSystem` protocol. `loopscope verify` tells whether its
            tangents can be trusted.
        puzzles: with labels.
        segments: length of the orbits; default the training budget.
        exponents: leading finite-time Lyapunov exponents per puzzle.
        exponent_segments: segments they cover, from the first; default the training budget. At most
            `segments`; the growth beyond is NaN.
        tangent_seeds: independent sets of tangents along the same orbit. The exponents are those of the
            first; from 2 on there is `growth_by_seed`, and `ftle_spread` says how much the start matters.
        sigmas: perturbation sizes of the restarts; none by default.
        restarts: restarts per sigma.
        restart_segments: their length; default the training budget.
        reorth: re-orthonormalise the tangents after every "segment" or every "update"; the latter also
            gives `growth_by_update`, the growth summed over the updates of one name (H, L).
        dtype: in which a model of ours computes its orbit: float32, bfloat16 or float64. The outcome
            comes from that orbit. Any other system computes in the dtype it has.
        tangent_dtype: float32 or float64; default that of the orbit, float32 beside bfloat16.
        batch_size: puzzles per block; bounds the memory and is the chunk of the file. Results do not
            depend on it beyond rounding.
        seed: of tangents and perturbations.
        out: a `.zarr` folder to stream to; an interrupted run with the same plan is continued.
        progress: show a bar with an estimate.
    Returns:
        The result: variables over (puzzle, segment, exponent, sigma, restart), each with `units` and
        `long_name`. Numeric facts of the puzzles are coordinates. Opened lazily when `out` is given.
    Raises:
        UserError: no labels, wrong size, a plan that cannot be, or `out` holds something else.
    """
    check_numbers(batch_size, seed)
    check_fits(model, puzzles, labels=True)
    plan = plan_for(
        model,
        segments=segments,
        exponents=exponents,
        exponent_segments=exponent_segments,
        tangent_seeds=tangent_seeds,
        sigmas=sigmas,
        restarts=restarts,
        restart_segments=restart_segments,
        reorth=reorth,
        dtype=dtype,
        tangent_dtype=tangent_dtype,
        seed=seed,
    )
    with computing_in(model, plan.dtype):
        attrs = _attributes(model, puzzles, plan)
        measure_block = lambda block: _measure_block(model, puzzles, block, plan)  # noqa: E731
        parts = blocks(len(puzzles), batch_size)
        if out is not None:
            stream(Path(out), parts, measure_block, attrs, progress)
            return open_measurement(out)
        done = [measure_block(block) for block in tqdm(parts, disable=not progress, unit="block")]
        return xr.concat(done, "puzzle", data_vars="minimal", coords="minimal", join="exact").assign_attrs(
            attrs
        )


# -- one block of puzzles


def _measure_block(model: Any, puzzles: PuzzleSet, block: slice, plan: Plan) -> xr.Dataset:
    """Everything that the plan asks about one block, labelled."""
    part, index = puzzles[block], np.arange(block.start, block.stop)
    batch = part.batch(device_of(model))
    assert batch.labels is not None
    with exact_arithmetic(device_of(model)):
        ctx = model.encode(batch)
        z0 = own_memory(model.initial_state(ctx))
        variables = _orbit(model, ctx, z0, part, batch, index, plan)
        if plan.sigmas:
            variables |= restart_variables(
                model,
                ctx,
                z0,
                batch.labels,
                sigmas=plan.sigmas,
                restarts=plan.restarts,
                segments=plan.restart_segments,
                seed=plan.seed,
                puzzle_index=index,
            )
    variables |= {"inputs": (("puzzle", "cell"), part.inputs), "labels": (("puzzle", "cell"), part.labels)}
    return _labelled(variables, {"puzzle": index, **_coordinates(part, plan)})


def _orbit(
    model: Any, ctx: Any, z0: Any, part: PuzzleSet, batch: Batch, index: np.ndarray, plan: Plan
) -> dict[str, Any]:
    """The plain orbit of one block: outcome, motion and growth of the same states."""
    series: dict[str, list[Tensor]] = {}
    steps: list[Tensor] = []
    answer, logits = torch.empty(0), None
    assert batch.labels is not None
    before, read_at = z0, budget_of(model) or plan.segments
    for t, (z, rates) in enumerate(_states(model, batch, ctx, z0, index, plan), start=1):
        out = model.readout(z, ctx)
        tokens = out.logits.argmax(-1)
        answer = tokens if t <= read_at else answer
        accuracy, exact = cells_right(tokens, batch.labels)
        values = {
            "solved": exact,
            "cell_accuracy": accuracy,
            "verified": torch.from_numpy(part.task.verify(part.inputs, tokens.cpu().numpy())),
            "halt_logit": out.halt_logit,
            "logit_change": _logit_change(out.logits, logits),
            **_motion(z, before),
        }
        for name, value in values.items():
            series.setdefault(name, []).append(value)
        steps += [] if rates is None else [rates]
        before, logits = z, out.logits
    variables = _series(series)
    variables["answer"] = (("puzzle", "cell"), answer.cpu().numpy().astype("u1"))
    return variables | (_growth(steps, model, plan) if steps else {})


def _states(
    model: Any, batch: Batch, ctx: Any, z: Any, index: np.ndarray, plan: Plan
) -> Iterator[tuple[Any, Tensor | None]]:
    """The state after every segment, with its growth (B, U, S k) as long as exponents are followed."""
    covered = plan.exponent_segments if plan.exponents else 0
    if covered:
        functions, like = tangent_path(model, batch, ctx, z, plan.reorth, plan.tangent_dtype)
        tangents = tangent_starts(like, plan.exponents, plan.tangent_seeds, plan.seed, index)
    for t in range(plan.segments):
        if t < covered:
            z, tangents, growth = advance_each(functions, z, tangents, plan.tangent_seeds)
            yield z, growth
        else:
            z = model.segment(z, ctx)
            yield z, None


def _growth(steps: list[Tensor], model: Any, plan: Plan) -> dict[str, Any]:
    """Growth and exponents, and what several sets of tangents or single updates add; NaN where they end."""
    raw = torch.stack(steps, 1).unflatten(3, (plan.tangent_seeds, -1)).cpu().numpy()  # (B, T, U, S, k)
    first = raw[:, :, :, 0]
    growth = first.sum(2)
    found: dict[str, Any] = {"growth": (("puzzle", "segment", "exponent"), growth)}
    found["ftle"] = (("puzzle", "exponent"), growth.mean(1))
    found |= over_seeds(raw.sum(2)) if plan.tangent_seeds > 1 else {}
    found |= by_update(first, model) if plan.reorth == "update" else {}
    return {name: _to_the_end(plan.segments, *variable) for name, variable in found.items()}


def _to_the_end(segments: int, dims: Any, values: Any, *attrs: Any) -> tuple[Any, ...]:
    """A variable with its segments, the second axis, filled up with NaN."""
    if "segment" not in dims:
        return dims, values, *attrs
    full = np.full((len(values), segments, *values.shape[2:]), np.nan)
    full[:, : values.shape[1]] = values
    return dims, full, *attrs


def _series(series: dict[str, list[Tensor]]) -> dict[str, Any]:
    """What was recorded after every segment as variables (puzzle, segment), and `first_solved`."""
    kinds = {name: "bool" if name in ("solved", "verified") else "f4" for name in series}
    tables = {
        name: torch.stack(values, 1).cpu().numpy().astype(kinds[name]) for name, values in series.items()
    }
    variables: dict[str, Any] = {name: (("puzzle", "segment"), table) for name, table in tables.items()}
    solved = tables["solved"]
    variables["first_solved"] = ("puzzle", np.where(solved.any(1), solved.argmax(1) + 1, -1))
    return variables


def _logit_change(logits: Tensor, before: Tensor | None) -> Tensor:
    """Norm over the tokens, mean over the cells, (B,)."""
    if before is None:
        return torch.full(logits.shape[:1], torch.nan, device=logits.device)
    return torch.linalg.vector_norm((logits - before).float(), dim=2).mean(1)


def _motion(z: Any, before: Any) -> dict[str, Tensor]:
    """Drift of every part of the latent and the relative joint change."""
    fields = getattr(z, "_fields", None) or range(len(leaves(z)))
    names = ["drift"] if isinstance(z, Tensor) else [f"drift_{str(f).removeprefix('z_')}" for f in fields]
    pairs = zip(leaves(z), leaves(before), strict=True)
    drifts = {name: distance(*pair) for name, pair in zip(names, pairs, strict=True)}
    if not {"drift", "drift_H"} & set(drifts):  # no part to follow as published
        drifts["drift"] = distance(z, before)
    return {**drifts, "residual": distance(z, before) / norm(z)}


# -- labels


def _coordinates(part: PuzzleSet, plan: Plan) -> dict[str, Any]:
    """Axes, and the facts of the puzzles that are numbers; words would need a fixed width in the file."""
    facts = {name: np.asarray(fact) for name, fact in part.facts.items()}
    coords: dict[str, Any] = {
        name: ("puzzle", fact) for name, fact in facts.items() if fact.dtype.kind in "biuf"
    }
    if part.puzzle_ids.any():
        coords["puzzle_id"] = ("puzzle", part.puzzle_ids)
    coords["segment"] = np.arange(1, plan.segments + 1)
    if plan.exponents:
        coords["exponent"] = np.arange(1, plan.exponents + 1)
    if plan.exponents and plan.tangent_seeds > 1:
        coords["tangent_seed"] = np.arange(1, plan.tangent_seeds + 1)
    if plan.sigmas:
        coords |= {"sigma": list(plan.sigmas), "restart": np.arange(1, plan.restarts + 1)}
    return coords


def _labelled(variables: dict[str, Any], coords: dict[str, Any]) -> xr.Dataset:
    """A dataset whose every variable says its units and what it is."""
    runs = xr.Dataset(variables, coords)
    for name in map(str, runs.variables):
        state = name.removeprefix("drift_")
        other = ("1", name) if state == name else ("norm", f"change of z_{state} over the segment")
        units, long_name = LABELS.get(name, other)
        runs[name].attrs.update(units=units, long_name=long_name)
    return runs


def _attributes(model: Any, puzzles: PuzzleSet, plan: Plan) -> dict[str, Any]:
    """What the result must tell of its making; a look at the first start checks that it can be made."""
    batch = puzzles[:1].batch(device_of(model))
    with exact_arithmetic(device_of(model)):
        ctx = model.encode(batch)
        z = like = model.initial_state(ctx)
        if plan.exponents:  # refuses what has no tangents, and more exponents than the latent has numbers
            like = tangent_path(model, batch, ctx, z, plan.reorth, plan.tangent_dtype)[1]
            tangent_starts(like, plan.exponents, 1, plan.seed)
    return {
        "format": FORMAT,
        "plan": json.dumps(plan.in_force()),
        **identity(model),
        "data": puzzles.name,
        "data_hash": puzzles.content_hash,
        "task": puzzles.task.name,
        "n": len(puzzles),
        "seed": plan.seed,
        **({"exponent_segments": plan.exponent_segments} if plan.exponents else {}),
        **({"tangent_seeds": plan.tangent_seeds} if plan.exponents else {}),
        **({"restart_segments": plan.restart_segments} if plan.sigmas else {}),
        "traj_dtype": dtype_name(z),
        "tangent_dtype": dtype_name(like),
        **provenance(),
    }


@contextmanager
def computing_in(model: Any, dtype: str) -> Iterator[None]:
    """A model of ours computes in this dtype within the block; an adapter is left as it is."""
    if not hasattr(model, "compute_in"):
        yield
        return
    own = model.dtype
    model.compute_in(dtype)
    try:
        yield
    finally:
        model.compute_in(own)


__all__ = ["LABELS", "OtherMeasurement", "Plan", "measure", "open_measurement"]
