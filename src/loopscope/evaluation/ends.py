"""What is kept of rollouts: how each ended, and on request the whole of the plain one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from loopscope.evaluation.levers import Levers
from loopscope.evaluation.rollouts import Jobs, Slots, follow
from loopscope.evaluation.subject import dtype_name
from loopscope.evaluation.views import Views
from loopscope.latent import rows
from loopscope.tasks.base import PuzzleSet


class Ends(NamedTuple):
    """How rollouts ended.

    Attributes:
        tokens: answers, turned back from their views.
        halt: logit.
        residual: relative change of the latent, late mean.
        logit_change: change of the logits, late mean.
        segments: run.
    """

    tokens: UInt8[np.ndarray, "*J L"]
    halt: Float[np.ndarray, "*J"]
    residual: Float[np.ndarray, "*J"]
    logit_change: Float[np.ndarray, "*J"]
    segments: Int[np.ndarray, "*J"]


@dataclass(frozen=True)
class Trace:
    """The plain rollout of every puzzle, segment by segment."""

    tokens: UInt8[np.ndarray, "N T L"]
    halt: Float[np.ndarray, "N T"]
    residual: Float[np.ndarray, "N T"]

    @classmethod
    def empty(cls, num: int, segments: int, cells: int) -> Trace:
        """Room for so many puzzles."""
        size = (num, segments)
        return cls(np.zeros((*size, cells), np.uint8), np.zeros(size, np.float32), np.full(size, np.nan))

    def note(self, slots: Slots, jobs: Jobs) -> None:
        """Write down a segment, and into all later ones, too, in case it was the last."""
        job = slots.job.cpu().numpy()
        plain = np.flatnonzero((jobs.rollout[job] == 0) & (jobs.view[job] == 0))
        columns = (slots.tokens, slots.halt, slots.residual[:, -1], slots.segments)
        values = [rows(column.cpu(), plain).numpy() for column in columns]
        for puzzle, tokens, halt, residual, t in zip(jobs.puzzle[job[plain]], *values, strict=True):
            self.tokens[puzzle, t - 1 :] = tokens
            self.halt[puzzle, t - 1 :] = halt
            self.residual[puzzle, t - 1] = residual


def run_jobs(
    model: Any,
    puzzles: PuzzleSet,
    jobs: Jobs,
    levers: Levers,
    views: Views | None,
    batch_size: int,
    trace: Trace | None,
    done: Callable[[int], object],
) -> tuple[Ends, str]:
    """Run jobs to their ends.

    Args:
        model, puzzles, jobs, levers, views, batch_size: as for `rollouts.follow`.
        trace: where to write the plain rollouts, if anywhere.
        done: told how many jobs have ended.
    Returns:
        Their ends, a row per job, and the dtype of the latent.
    """
    num, dtype = len(jobs.puzzle), ""
    numbers = (np.zeros(num, np.float32), np.zeros(num), np.zeros(num, np.float32), np.zeros(num, np.int64))
    kept = Ends(np.zeros((num, puzzles.task.seq_len), np.uint8), *numbers)
    for slots, ends in follow(model, puzzles, jobs, levers, views, batch_size):
        if trace is not None:
            trace.note(slots, jobs)
        if ends.any():
            dtype = dtype_name(slots.z)
            _keep(kept, rows(slots._replace(z=None, ctx=None), ends), jobs, views)
            done(int(ends.sum()))
    return kept, dtype


def _keep(kept: Ends, slots: Slots, jobs: Jobs, views: Views | None) -> None:
    """Note down slots that end."""
    job, tokens, segments = (x.cpu().numpy() for x in (slots.job, slots.tokens, slots.segments))
    if views is not None:
        tokens = views.undo(tokens, jobs.puzzle[job], jobs.view[job])
    kept.tokens[job], kept.segments[job] = tokens, segments
    kept.halt[job] = slots.halt.cpu().numpy()
    kept.residual[job] = late_mean(slots.residual.cpu().numpy(), segments)
    kept.logit_change[job] = late_mean(slots.logit_change.cpu().numpy(), segments)


def late_mean(window: Float[np.ndarray, "J W"], segments: Int[np.ndarray, " J"]) -> Float[np.ndarray, " J"]:
    """Mean over the newest entries of a window, as many as there were segments, W at most."""
    width = window.shape[1]
    means = np.stack([window[:, width - count :].mean(1) for count in range(1, width + 1)], axis=1)
    return means[np.arange(len(window)), np.minimum(segments, width) - 1]
