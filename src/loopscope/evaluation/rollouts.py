"""The engine: orbits of many puzzles, rollouts and views through one batch of slots.

A job is one orbit. A stop rule ends orbits at different segments; one that has ended leaves the batch at once
and a waiting job takes its slot, so segments are spent on running orbits only and the batch stays full.
No job sees another, so answers do not depend on which of them share a batch (beyond rounding).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from loopscope.evaluation.levers import Levers, may_stop
from loopscope.evaluation.starts import kicked, perturbed_start, random_start, row_keys
from loopscope.evaluation.subject import device_of
from loopscope.evaluation.views import Views
from loopscope.latent import concat, distance, norm, rows, tree_map
from loopscope.tasks.base import PuzzleSet, make_batch

LATE = 4  # segments over which settling of the latent is judged
LATE_LOGITS = 3  # the same for logits, as EqR has it
NO_TOKEN = 255


class Jobs(NamedTuple):
    """Orbits to follow: of which puzzle, from which start, in which view; (J,) each.

    `number` is that of the puzzle in the whole set, of which `puzzle` may count a part: noise goes by it.
    """

    puzzle: Int[np.ndarray, " J"]
    rollout: Int[np.ndarray, " J"]
    view: Int[np.ndarray, " J"]
    number: Int[np.ndarray, " J"]


class Slots(NamedTuple):
    """Running orbits, a row each.

    Attributes:
        job: number of the job.
        key: of the noise.
        segments: run so far.
        ctx, z: context and latent.
        tokens: the answer, (B, L), in the view of the job.
        unchanged: segments since the answer last changed.
        halt: logit.
        logits: (B, L, V) float32; before the first segment those of the start.
        residual: relative change of the latent over the last segments, the newest last; NaN before any.
        logit_change: the same of the logits: norm over V, mean over cells.
    """

    job: Int[Tensor, " B"]
    key: Int[Tensor, " B"]
    segments: Int[Tensor, " B"]
    ctx: Any
    z: Any
    tokens: UInt8[Tensor, "B L"]
    unchanged: Int[Tensor, " B"]
    halt: Float[Tensor, " B"]
    logits: Float[Tensor, "B L V"]
    residual: Float[Tensor, "B 4"]
    logit_change: Float[Tensor, "B 3"]


def all_jobs(puzzles: int, levers: Levers, first: int = 0) -> Jobs:
    """Every rollout and view of every puzzle: those of one puzzle side by side, the plain one first.

    `first` is the number of the first puzzle in the whole set.
    """
    shape = (puzzles, levers.restarts, levers.views)
    puzzle, rollout, view = (axis.ravel() for axis in np.indices(shape))
    return Jobs(puzzle, rollout, view, puzzle + first)


def follow(
    model: Any, puzzles: PuzzleSet, jobs: Jobs, levers: Levers, views: Views | None, batch_size: int
) -> Iterator[tuple[Slots, Bool[Tensor, " B"]]]:
    """Run all jobs, at most `batch_size` at a time; the slots after every segment, and which of them end.

    Args:
        model: keeps the `RecursiveSystem` protocol.
        puzzles: the set that the jobs number.
        jobs: in the order in which they enter.
        levers: length, starts, noise and stop rule of the orbits.
        views: of the puzzles; None when every job shows the puzzle itself.
        batch_size: slots.
    """
    entered, slots = 0, None
    while slots is not None or entered < len(jobs.puzzle):
        free = batch_size - (0 if slots is None else len(slots.job))
        if free and entered < len(jobs.puzzle):
            number = np.arange(entered, min(entered + free, len(jobs.puzzle)))
            new = enter(model, puzzles, jobs, number, levers, views)
            slots = new if slots is None else concat([slots, new])
            entered += len(number)
        assert slots is not None
        slots = advance(model, slots, levers)
        late = may_stop(levers.stop, slots.halt, slots.residual[:, -1], slots.unchanged)
        ends = late | (slots.segments >= levers.segments)
        yield slots, ends
        if ends.any():
            slots = None if ends.all() else rows(slots, ~ends)


def enter(
    model: Any,
    puzzles: PuzzleSet,
    jobs: Jobs,
    number: Int[np.ndarray, " B"],
    levers: Levers,
    views: Views | None,
) -> Slots:
    """Slots at the start of the numbered jobs."""
    puzzle, rollout, view, whole = (column[number] for column in jobs)
    boards = [puzzles.inputs[puzzle], None if puzzles.labels is None else puzzles.labels[puzzle]]
    if views is not None:
        boards = [None if b is None else views.show(b, puzzle, view) for b in boards]
    device = device_of(model)
    ctx = model.encode(make_batch(boards[0], boards[1], puzzles.puzzle_ids[puzzle], device))
    z = _starts(model, ctx, whole, rollout, levers)
    size, cells = len(number), puzzles.task.seq_len
    index = [torch.from_numpy(x.astype(np.int64)).to(device) for x in (number, whole, rollout)]
    return Slots(
        job=index[0],
        key=row_keys(torch.full_like(index[0], levers.seed), *index[1:]),
        segments=torch.zeros_like(index[0]),
        ctx=ctx,
        z=z,
        tokens=torch.full((size, cells), NO_TOKEN, dtype=torch.uint8, device=device),
        unchanged=torch.zeros_like(index[0]),
        halt=torch.full((size,), torch.nan, device=device),
        logits=model.readout(z, ctx).logits.float(),
        residual=torch.full((size, LATE), torch.nan, dtype=torch.float64, device=device),
        logit_change=torch.full((size, LATE_LOGITS), torch.nan, device=device),
    )


def advance(model: Any, slots: Slots, levers: Levers) -> Slots:
    """One segment of every slot, with noise before it where there is any."""
    z = slots.z
    if levers.segment_noise:
        z = kicked(z, levers.segment_noise, row_keys(slots.key, slots.segments))
    z = model.segment(z, slots.ctx)
    out = model.readout(z, slots.ctx)
    tokens, logits = out.logits.argmax(-1).to(torch.uint8), out.logits.float()
    same = (tokens == slots.tokens).all(1)
    moved = torch.linalg.vector_norm(logits - slots.logits, dim=-1).mean(-1)
    return slots._replace(
        segments=slots.segments + 1,
        z=z,
        tokens=tokens,
        unchanged=torch.where(same, slots.unchanged + 1, 0),
        halt=out.halt_logit.float(),
        logits=logits,
        residual=_appended(slots.residual, distance(z, slots.z) / norm(z)),
        logit_change=_appended(slots.logit_change, moved),
    )


def _appended(window: Float[Tensor, "B W"], newest: Float[Tensor, " B"]) -> Float[Tensor, "B W"]:
    return torch.cat([window[:, 1:], newest[:, None]], dim=1)


def _starts(
    model: Any, ctx: Any, puzzle: Int[np.ndarray, " B"], rollout: Int[np.ndarray, " B"], levers: Levers
) -> Any:
    """The model's own start for the first rollout of each puzzle, another one for the others."""
    z0 = model.initial_state(ctx)
    others = np.flatnonzero(rollout)
    if not len(others):
        return z0
    at = torch.from_numpy(others).to(device_of(model))
    which: dict[str, Any] = {
        "seed": levers.seed,
        "restart": rollout[others],
        "puzzle_index": puzzle[others],
    }
    if levers.start == "random":
        new = random_start(model, rows(ctx, at), rows(z0, at), **which)
    else:
        new = perturbed_start(rows(z0, at), levers.noise, **which)
    return tree_map(lambda old, moved: old.clone().index_copy_(0, at, moved), z0, new)
