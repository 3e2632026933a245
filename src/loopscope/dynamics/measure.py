"""The protocol: follow every puzzle's orbit and write one labelled result.

The outcome, the drift and the exponents of a puzzle come from the very same float32 trajectory.
Results stream to Zarr, a block of puzzles at a time; `measured(puzzle)` is written last, so that an
interrupted run resumes at the first block that is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from tqdm.auto import tqdm

from loopscope.dynamics.lyapunov import advance, orthonormal_start
from loopscope.dynamics.restarts import displacement, run_restart
from loopscope.dynamics.system import exact_arithmetic, own_memory
from loopscope.errors import UserError
from loopscope.evaluation.evaluate import check_fits
from loopscope.evaluation.metrics import cells_right
from loopscope.evaluation.starts import perturbed_start
from loopscope.files import written_whole
from loopscope.latent import leaves, norm, tree_map
from loopscope.models import RecursiveModel
from loopscope.provenance import provenance
from loopscope.tasks.base import PuzzleSet

FORMAT = "loopscope-measurement-1"
LABELS = {  # variable -> (units, long name)
    "solved": ("1", "every cell right after the segment"),
    "cell_accuracy": ("1", "share of supervised cells right"),
    "halt_logit": ("logit", "halt logit: above 0 the model calls its answer right"),
    "drift": ("norm", "change of the latent over the segment"),
    "drift_H": ("norm", "change of z_H over the segment"),
    "drift_L": ("norm", "change of z_L over the segment"),
    "residual": ("1", "change of the joint latent relative to its norm"),
    "growth": ("nats per segment", "growth of the i-th tangent direction"),
    "ftle": ("nats per segment", "finite-time Lyapunov exponent"),
    "first_solved": ("segments", "first segment with every cell right, -1 never"),
    "basin_solved": ("1", "restart solved at some segment"),
    "basin_final": ("1", "restart solved at its last segment"),
    "basin_displacement": ("1", "distance to the plain orbit after one segment, relative to its norm"),
    "inputs": ("token", "puzzle"),
    "labels": ("token", "solution"),
    "answer": ("token", "answer at the training budget"),
    "givens": ("cells", "givens"),
    "rating": ("guesses", "difficulty rating"),
    "measured": ("1", "block complete"),
}


@dataclass(frozen=True)
class Plan:
    """What is measured; two results with equal plans, models and data are equal.

    Attributes:
        segments: length of the orbits.
        exponents: leading Lyapunov exponents per puzzle; 0 measures none.
        exponent_segments: how many segments, from the first, the exponents cover.
        sigmas: sizes of the perturbation of restarts; empty runs none.
        restarts: restarts per sigma.
        restart_segments: length of a restarted orbit.
        reorth: re-orthonormalise the tangents after every "segment" or every "update".
        seed: of tangents and perturbations.
    """

    segments: int
    exponents: int
    exponent_segments: int
    sigmas: tuple[float, ...]
    restarts: int
    restart_segments: int
    reorth: str
    seed: int


def measure(
    model: RecursiveModel,
    puzzles: PuzzleSet,
    *,
    segments: int | None = None,
    exponents: int = 0,
    exponent_segments: int | None = None,
    sigmas: Sequence[float] = (),
    restarts: int = 8,
    restart_segments: int | None = None,
    reorth: str = "segment",
    batch_size: int = 32,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = False,
) -> xr.Dataset:
    """Measure a model on puzzles with known solutions.

    Args:
        model: computes in float32 while it is measured.
        puzzles: with labels.
        segments: length of the orbits; default the training budget.
        exponents: leading finite-time Lyapunov exponents per puzzle.
        exponent_segments: segments they cover; default the training budget or `segments`, if shorter.
        sigmas: perturbation sizes of the restarts; none by default.
        restarts: restarts per sigma.
        restart_segments: their length; default the training budget.
        reorth: "segment" or "update".
        batch_size: puzzles per block; bounds the memory and is the chunk of the file. Results do not
            depend on it beyond rounding.
        seed: of tangents and perturbations.
        out: a `.zarr` folder to stream to; an interrupted run with the same plan is continued.
        progress: show a bar with an estimate.
    Returns:
        The result: variables over (puzzle, segment, exponent, sigma, restart), each with units.
    Raises:
        UserError: no labels, wrong size, a plan that cannot be, or `out` holds another measurement.
    """
    check_fits(model, puzzles)
    if puzzles.labels is None:
        raise UserError(f"{puzzles.name}: no answers, so outcomes are unknown. Use a file with answers.")
    plan = _plan(model, segments, exponents, exponent_segments, sigmas, restarts, restart_segments, reorth, seed)
    dtype = model.dtype
    try:
        model.compute_in(torch.float32)
        attrs = _attributes(model, puzzles, plan)
        blocks = [slice(i, min(i + batch_size, len(puzzles))) for i in range(0, len(puzzles), batch_size)]
        make = lambda block: _measure_block(model, puzzles, block, plan)  # noqa: E731
        if out is None:
            parts = [make(block) for block in tqdm(blocks, disable=not progress, unit="block")]
            return xr.concat(parts, "puzzle", data_vars="all", join="exact").assign_attrs(attrs)
        _stream(Path(out), blocks, make, attrs, len(puzzles), progress)
        return open_measurement(out)
    finally:
        model.compute_in(dtype)


def open_measurement(path: str | Path) -> xr.Dataset:
    """Open a result written by `measure`, complete or not; blocks not yet measured are left out.

    Raises:
        UserError: no such folder, or something else.
    """
    try:
        runs = xr.open_zarr(path, consolidated=False, chunks=None)
    except (FileNotFoundError, KeyError, ValueError, TypeError):
        raise UserError(f"{path}: not a measurement. Expected a .zarr folder written by loopscope measure.") from None
    if runs.attrs.get("format") != FORMAT:
        raise UserError(f"{path}: not a measurement (format {runs.attrs.get('format')!r}). Expected {FORMAT}.")
    measured = runs["measured"].to_numpy().astype(bool)
    return runs if measured.all() else runs.isel(puzzle=np.flatnonzero(measured))


# -- one block of puzzles


def _measure_block(model: RecursiveModel, puzzles: PuzzleSet, block: slice, plan: Plan) -> xr.Dataset:
    part, index = puzzles[block], np.arange(block.start, block.stop)
    batch = part.batch(model.device)
    assert batch.labels is not None
    with exact_arithmetic(model.device):
        ctx = model.encode(batch)
        z0 = own_memory(model.initial_state(ctx))
        variables, first_state = _orbit(model, ctx, z0, batch.labels, index, plan)
        if plan.sigmas:
            variables |= _restarts(model, ctx, z0, batch.labels, index, plan, first_state)
    assert part.labels is not None
    variables |= {"inputs": (("puzzle", "cell"), part.inputs), "labels": (("puzzle", "cell"), part.labels)}
    variables["measured"] = ("puzzle", np.ones(len(index), bool))
    coords: dict[str, Any] = {"puzzle": index, "segment": np.arange(1, plan.segments + 1)}
    coords |= {k: ("puzzle", np.asarray(v)) for k, v in part.facts.items() if v.dtype.kind in "iuf"}
    if plan.exponents:
        coords["exponent"] = np.arange(1, plan.exponents + 1)
    if plan.sigmas:
        coords |= {"sigma": list(plan.sigmas), "restart": np.arange(1, plan.restarts + 1)}
    runs = xr.Dataset(variables, coords)
    for name in runs.variables:
        if name in LABELS:
            units, long_name = LABELS[str(name)]
            runs[name].attrs.update(units=units, long_name=long_name)
    return runs


def _orbit(
    model: RecursiveModel, ctx: Any, z0: Any, labels: torch.Tensor, index: np.ndarray, plan: Plan
) -> tuple[dict[str, Any], Any]:
    """The plain orbit of one block; also returns the state after the first segment."""
    series: dict[str, list[torch.Tensor]] = {}
    growth = np.full((len(index), plan.segments, plan.exponents), np.nan)
    tangents = orthonormal_start(z0, plan.exponents, seed=plan.seed, puzzle_index=index) if plan.exponents else None
    functions = model.updates(ctx) if plan.reorth == "update" else [lambda z: model.segment(z, ctx)]
    answer, z, first_state = None, z0, None
    for t in range(1, plan.segments + 1):
        before = z
        if tangents is not None and t <= plan.exponent_segments:
            z, tangents, rates = advance(functions, z, tangents)
            growth[:, t - 1] = rates.cpu().numpy()
        else:
            z = model.segment(z, ctx)
        out = model.readout(z, ctx)
        tokens = out.logits.argmax(-1)
        accuracy, exact = cells_right(tokens, labels)
        answer = tokens if t <= model.settings.halt_max_steps else answer
        first_state = z if t == 1 else first_state
        values = {"solved": exact, "cell_accuracy": accuracy, "halt_logit": out.halt_logit, **_motion(z, before)}
        for name, value in values.items():
            series.setdefault(name, []).append(value)
    assert answer is not None
    variables: dict[str, Any] = {
        name: (("puzzle", "segment"), torch.stack(values, 1).cpu().numpy().astype("bool" if name == "solved" else "f4"))
        for name, values in series.items()
    }
    solved = variables["solved"][1]
    variables["first_solved"] = ("puzzle", np.where(solved.any(1), solved.argmax(1) + 1, -1))
    variables["answer"] = (("puzzle", "cell"), answer.cpu().numpy().astype("u1"))
    if plan.exponents:
        covered = growth[:, : plan.exponent_segments]
        variables["growth"] = (("puzzle", "segment", "exponent"), growth)
        variables["ftle"] = (("puzzle", "exponent"), covered.mean(1))
    return variables, first_state


def _motion(z: Any, before: Any) -> dict[str, torch.Tensor]:
    """Drift of every part of the latent and the relative joint change."""
    change = tree_map(lambda a, b: a - b, z, before)
    names = [f"drift_{name.removeprefix('z_')}" for name in getattr(z, "_fields", ())] or ["drift"]
    drifts = {name: norm(part) for name, part in zip(names, leaves(change), strict=True)}
    return {**drifts, "residual": norm(change) / norm(z)}


def _restarts(
    model: RecursiveModel, ctx: Any, z0: Any, labels: torch.Tensor, index: np.ndarray, plan: Plan, first_state: Any
) -> dict[str, Any]:
    shape = (len(index), len(plan.sigmas), plan.restarts)
    solved, final, moved = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape, "f4")
    for i, sigma in enumerate(plan.sigmas):
        for r in range(plan.restarts):
            z = perturbed_start(z0, sigma, seed=plan.seed, restart=r, puzzle_index=index)
            solved[:, i, r], final[:, i, r], first = run_restart(model, ctx, z, labels, plan.restart_segments)
            moved[:, i, r] = displacement(first, first_state)
    dims = ("puzzle", "sigma", "restart")
    return {"basin_solved": (dims, solved), "basin_final": (dims, final), "basin_displacement": (dims, moved)}


# -- the file


def _stream(
    path: Path, blocks: list[slice], make: Callable[[slice], xr.Dataset], attrs: dict[str, Any], total: int, progress: bool
) -> None:
    """Measure the blocks that `path` does not hold yet and write each as it is done."""
    done = np.zeros(total, bool)
    if path.exists():
        done = _resumable(path, attrs)
    missing = [block for block in blocks if not done[block].all()]
    bar = tqdm(total=len(blocks), initial=len(blocks) - len(missing), disable=not progress, unit="block")
    for block in missing:
        runs = make(block)
        if not path.exists():
            _create(path, runs, attrs, total)
        for names in (set(map(str, runs.data_vars)) - {"measured"}, {"measured"}):
            part = runs[sorted(names)]
            part = part.drop_vars([c for c in part.coords if "puzzle" not in part[c].dims])
            part.to_zarr(path, region={"puzzle": block}, consolidated=False)
        bar.update()
    bar.close()


def _create(path: Path, block: xr.Dataset, attrs: dict[str, Any], total: int) -> None:
    """An empty result of the full size, in chunks of one block; appears whole or not at all."""
    size = block.sizes["puzzle"]
    rows = np.zeros(total, int)
    empty = block.isel(puzzle=rows).assign_coords(puzzle=np.arange(total)).assign_attrs(attrs)
    empty["measured"] = empty["measured"] & False
    for name in empty.variables:
        if "puzzle" in empty[name].dims:
            empty[name].encoding["chunks"] = (size, *empty[name].shape[1:])
    with written_whole(path) as beside:
        empty.to_zarr(beside, mode="w", consolidated=False)


def _resumable(path: Path, attrs: dict[str, Any]) -> np.ndarray:
    """Which puzzles `path` already holds, if it is the same measurement."""
    try:
        runs = xr.open_zarr(path, consolidated=False, chunks=None)
    except (FileNotFoundError, KeyError, ValueError, TypeError):
        raise UserError(f"{path}: exists and is not a measurement. Choose another --out.") from None
    for key in ("format", "plan", "model_hash", "data_hash", "n"):
        if runs.attrs.get(key) != attrs[key]:
            raise UserError(f"{path}: holds another measurement (its {key} differs). Choose another --out or remove it.")
    return runs["measured"].to_numpy().astype(bool)


def _plan(
    model: RecursiveModel,
    segments: int | None,
    exponents: int,
    exponent_segments: int | None,
    sigmas: Sequence[float],
    restarts: int,
    restart_segments: int | None,
    reorth: str,
    seed: int,
) -> Plan:
    budget = model.settings.halt_max_steps
    segments = budget if segments is None else segments
    if segments < 1:
        raise UserError(f"segments={segments}: expected at least 1.")
    if exponents < 0:
        raise UserError(f"exponents={exponents}: expected 0 or more.")
    if sigmas and (restarts < 1 or min(sigmas) < 0):
        raise UserError(f"restarts={restarts}, sigmas={list(sigmas)}: expected at least one restart and sigmas >= 0.")
    if reorth not in ("segment", "update"):
        raise UserError(f"reorth={reorth!r}: expected segment or update.")
    covered = min(segments, budget if exponent_segments is None else exponent_segments) if exponents else 0
    return Plan(
        segments,
        exponents,
        covered,
        tuple(float(s) for s in sigmas),
        restarts if sigmas else 0,
        (restart_segments or budget) if sigmas else 0,
        reorth,
        seed,
    )


def _attributes(model: RecursiveModel, puzzles: PuzzleSet, plan: Plan) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "plan": json.dumps(asdict(plan)),
        "model": str(model.facts.get("name", model.settings.arch)),
        "model_hash": model.content_hash,
        "num_parameters": model.num_parameters,
        "data": puzzles.name,
        "data_hash": puzzles.content_hash,
        "task": puzzles.task.name,
        "n": len(puzzles),
        "seed": plan.seed,
        "budget": model.settings.halt_max_steps,
        "applications_per_segment": model.applications_per_segment,
        "exponent_segments": plan.exponent_segments,
        "restart_segments": plan.restart_segments,
        "traj_dtype": "float32",
        "tangent_dtype": "float32",
        **provenance(),
    }
