"""Answer puzzles: one orbit each, or many with a rule that picks the answer; and what it cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from tqdm.auto import tqdm

from loopscope.errors import UserError
from loopscope.evaluation.ends import Ends, Trace, run_jobs
from loopscope.evaluation.levers import Levers
from loopscope.evaluation.rollouts import all_jobs
from loopscope.evaluation.selection import choose
from loopscope.evaluation.stream import casts_kept
from loopscope.evaluation.subject import check_fits, check_numbers, segments_wanted
from loopscope.evaluation.views import draw_views
from loopscope.tasks.base import PuzzleSet


@dataclass(frozen=True)
class Answers:
    """Answers to N puzzles, chosen among K rollouts of at most T segments each.

    The rollouts of a puzzle are those of the first model, then of the next; within a model restart by
    restart, within a restart view by view. Number 0 is the plain one: first model, own start, the puzzle
    as it is.

    Attributes:
        tokens: chosen answers.
        halt_logit: of the chosen rollout; from 0 up the model calls its answer right.
        residual: relative change of the latent, mean over the last 4 segments of the chosen rollout.
        verified: whether the answer obeys the rules and keeps the givens.
        rollout: which rollout was chosen.
        rollouts: all answers.
        dtype: in which the orbits were computed.
        rollout_halt: halt logits of all rollouts.
        segments: that each rollout ran.
        applications: of a block, all rollouts together.
        flops: in the matrix products of these applications; NaN where a model does not tell.
        seconds: wall time per puzzle, the same for all.
        trace: answers after every segment of the plain rollout, the last one again after it has stopped;
            None unless asked for, as the next two.
        trace_halt_logit: halt logit after every segment; as `trace` after the stop.
        trace_residual: relative change over every segment; NaN after the stop.
    """

    tokens: UInt8[np.ndarray, "N L"]
    halt_logit: Float[np.ndarray, " N"]
    residual: Float[np.ndarray, " N"]
    verified: Bool[np.ndarray, " N"]
    rollout: Int[np.ndarray, " N"]
    rollouts: UInt8[np.ndarray, "N K L"]
    dtype: str
    rollout_halt: Float[np.ndarray, "N K"]
    segments: Int[np.ndarray, "N K"]
    applications: Int[np.ndarray, " N"]
    flops: Float[np.ndarray, " N"]
    seconds: float
    trace: UInt8[np.ndarray, "N T L"] | None = None
    trace_halt_logit: Float[np.ndarray, "N T"] | None = None
    trace_residual: Float[np.ndarray, "N T"] | None = None


@torch.no_grad()
def solve(
    model: Any,
    puzzles: PuzzleSet,
    *,
    segments: int | None = None,
    restarts: int = 1,
    noise: float = 0.3,
    start: str = "perturbed",
    segment_noise: float = 0.0,
    views: int = 1,
    stop: str = "budget",
    select: str = "halt",
    seed: int = 0,
    batch_size: int = 64,
    first: int = 0,
    trace: bool = False,
    progress: bool = False,
) -> Answers:
    """Answer puzzles; labels are not looked at.

    Args:
        model: anything that keeps the `RecursiveSystem` protocol, or a list of such, whose rollouts are put
            together; each computes in its own dtype.
        puzzles: N puzzles.
        segments: length of each orbit, at most; None takes the training budget of the (first) model.
        restarts: orbits per puzzle and view; the first from the plain start.
        noise: size of the perturbation (`starts.perturbed_start`).
        start: from where the other restarts begin: "perturbed" starts, or "random" ones
            (`starts.random_start`).
        segment_noise: size of the noise added to the latent before every segment of every rollout, the first
            of each included (PTRM uses it with `noise=0`); in units of each part's standard deviation.
        views: symmetric views of each puzzle (`views`), the first the puzzle itself. The starts and the
            noise of a restart are the same in all views and models.
        stop: which orbits end early: "budget" none, others as `levers.may_stop` says. They leave the batch,
            waiting ones take their place.
        select: which rollout answers: highest "halt" logit, smallest late "residual" (mean over 4 segments
            of the relative change of the latent) or "logit_change" (mean over 3 segments and the cells of
            the norm over the vocabulary, as EqR), "majority" of whole answers (ties by mean halt logit),
            or the first "verified" by the rules of the puzzle (where none is, by halt logit).
        seed: of the perturbations and views.
        batch_size: orbits per batch.
        first: number of the first puzzle in the whole set of which these are a part; perturbations and views
            go by it, so that parts are answered as the whole is.
        trace: keep the answer after every segment of the plain orbit.
        progress: show a progress bar.
    Raises:
        UserError: unknown rule, a number out of range, puzzles of another size than the model's, a task
            without so many views, or "verified" for one whose rules are not known (ARC).
    """
    began = time.perf_counter()
    models = models_of(model)
    [segments] = segments_wanted(models[0], segments)
    levers = Levers(segments, restarts, noise, start, segment_noise, views, stop, select, seed)
    check_numbers(batch_size, seed)
    for one in models:
        check_fits(one, puzzles)
    if select == "verified" and not getattr(puzzles.task, "rules_known", True):
        raise UserError(f"select=verified: {puzzles.task.name} has no rules to go by. Choose another.")
    shown = draw_views(puzzles.task, views, seed, first + np.arange(len(puzzles))) if views > 1 else None
    jobs = all_jobs(len(puzzles), levers, first)
    kept = Trace.empty(len(puzzles), segments, puzzles.task.seq_len) if trace else None
    total = len(models) * len(jobs.puzzle)
    with casts_kept(models), tqdm(total=total, disable=not progress, unit="orbit", leave=False) as bar:
        ends = [
            run_jobs(one, puzzles, jobs, levers, shown, batch_size, kept if i == 0 else None, bar.update)
            for i, one in enumerate(models)
        ]
    return _chosen(models, puzzles, select, ends, kept, began)


def models_of(model: Any) -> list[Any]:
    """One model, or several, as a list.

    Raises:
        UserError: there is none.
    """
    models = list(model) if isinstance(model, Sequence) else [model]
    if not models:
        raise UserError("model=[]: expected at least one model.")
    return models


def _chosen(
    models: list[Any],
    puzzles: PuzzleSet,
    select: str,
    ends: list[tuple[Ends, str]],
    trace: Trace | None,
    began: float,
) -> Answers:
    """The answers that a rule picks among the rollouts of all models, and what these cost."""
    num = len(puzzles)
    each = [Ends(*(column.reshape(num, -1, *column.shape[1:]) for column in of)) for of, _ in ends]
    pool = Ends(*(np.concatenate(columns, axis=1) for columns in zip(*each, strict=True)))
    passed = np.stack([puzzles.task.verify(puzzles.inputs, a) for a in pool.tokens.swapaxes(0, 1)], axis=1)
    chosen = choose(select, pool.tokens, pool.halt, pool.residual, pool.logit_change, passed)
    spent = [of.segments.sum(1) * one.applications_per_segment for one, of in zip(models, each, strict=True)]
    flops = [n * getattr(one, "application_flops", np.nan) for one, n in zip(models, spent, strict=True)]
    n = np.arange(num)
    return Answers(
        tokens=pool.tokens[n, chosen],
        halt_logit=pool.halt[n, chosen],
        residual=pool.residual[n, chosen],
        verified=passed[n, chosen],
        rollout=chosen,
        rollouts=pool.tokens,
        dtype="+".join(dict.fromkeys(dtype for _, dtype in ends)),
        rollout_halt=pool.halt,
        segments=pool.segments,
        applications=np.sum(spent, axis=0),
        flops=np.sum(flops, axis=0),
        seconds=(time.perf_counter() - began) / num,
        trace=None if trace is None else trace.tokens,
        trace_halt_logit=None if trace is None else trace.halt,
        trace_residual=None if trace is None else trace.residual,
    )
