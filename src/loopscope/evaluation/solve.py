"""Answer puzzles: one orbit each, or several from perturbed starts with a rule that picks the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from loopscope.errors import UserError
from loopscope.evaluation.starts import perturbed_start
from loopscope.evaluation.subject import batches, check_fits, check_numbers, dtype_name
from loopscope.latent import distance, norm
from loopscope.tasks.base import PuzzleSet

RULES = ("halt", "residual", "majority", "verified")
WORST = -1e30  # stands for a halt logit that is NaN
LATE = 4  # segments over which settling is judged


@dataclass(frozen=True)
class Answers:
    """Answers to N puzzles, chosen among K rollouts of T segments each.

    Attributes:
        tokens: chosen answers.
        halt_logit: of the chosen rollout; from 0 up the model calls its answer right.
        residual: relative change of the latent, mean over the last 4 segments of the chosen rollout.
        verified: whether the answer obeys the rules and keeps the givens.
        rollout: which rollout was chosen, 0 the plain start.
        rollouts: all answers.
        dtype: in which the orbits were computed.
        trace: answers after every segment of the plain start; None unless asked for, as the next two.
        trace_halt_logit: halt logit after every segment.
        trace_residual: relative change over every segment.
    """

    tokens: UInt8[np.ndarray, "N L"]
    halt_logit: Float[np.ndarray, " N"]
    residual: Float[np.ndarray, " N"]
    verified: Bool[np.ndarray, " N"]
    rollout: Int[np.ndarray, " N"]
    rollouts: UInt8[np.ndarray, "N K L"]
    dtype: str
    trace: UInt8[np.ndarray, "N T L"] | None = None
    trace_halt_logit: Float[np.ndarray, "N T"] | None = None
    trace_residual: Float[np.ndarray, "N T"] | None = None


class Orbit(NamedTuple):
    """One rollout of B puzzles, after every segment."""

    tokens: UInt8[np.ndarray, "B T L"]
    halt_logit: Float[np.ndarray, "B T"]
    residual: Float[np.ndarray, "B T"]


@torch.no_grad()
def solve(
    model: Any,
    puzzles: PuzzleSet,
    *,
    segments: int = 16,
    restarts: int = 1,
    noise: float = 0.3,
    select: str = "halt",
    seed: int = 0,
    batch_size: int = 64,
    trace: bool = False,
    progress: bool = False,
) -> Answers:
    """Answer puzzles; labels are not looked at.

    Args:
        model: anything that keeps the `RecursiveSystem` protocol; computes in its own dtype.
        puzzles: N puzzles.
        segments: length of each orbit.
        restarts: orbits per puzzle, K; the first from the plain start, the others from perturbed ones.
        noise: size of the perturbation (`starts.perturbed_start`).
        select: which rollout answers: highest "halt" logit, smallest "residual", "majority" of whole
            answers (ties by mean halt logit), or the first "verified" by the rules (else by halt logit).
        seed: of the perturbations.
        batch_size: puzzles per batch.
        trace: keep the answer after every segment of the plain orbit.
        progress: show a progress bar.
    Raises:
        UserError: unknown rule, a number out of range, or puzzles of another size than the model's.
    """
    _check(segments, restarts, noise, select)
    check_numbers(batch_size, seed)
    check_fits(model, puzzles)
    ends, traces, dtype = [], [], ""
    for index, batch in batches(model, puzzles, batch_size, progress):
        ctx = model.encode(batch)
        z0 = model.initial_state(ctx)
        dtype, orbits = dtype_name(z0), []
        for r in range(restarts):
            start = perturbed_start(z0, noise, seed=seed, restart=r, puzzle_index=index) if r else z0
            orbit = _follow(model, ctx, start, segments)
            orbits.append((orbit.tokens[:, -1], orbit.halt_logit[:, -1], orbit.residual[:, -LATE:].mean(1)))
            if trace and r == 0:
                traces.append(orbit)
        ends.append([np.stack(column, axis=1) for column in zip(*orbits, strict=True)])
    answers, halt, residual = (np.concatenate(parts) for parts in zip(*ends, strict=True))
    passed = np.stack([puzzles.task.verify(puzzles.inputs, a) for a in answers.swapaxes(0, 1)], axis=1)
    chosen, n = choose(select, answers, halt, residual, passed), np.arange(len(puzzles))
    plain: list[Any] = [np.concatenate(parts) for parts in zip(*traces, strict=True)] or [None] * 3
    return Answers(
        tokens=answers[n, chosen],
        halt_logit=halt[n, chosen],
        residual=residual[n, chosen],
        verified=passed[n, chosen],
        rollout=chosen,
        rollouts=answers,
        dtype=dtype,
        trace=plain[0],
        trace_halt_logit=plain[1],
        trace_residual=plain[2],
    )


def choose(
    rule: str,
    answers: UInt8[np.ndarray, "N K L"],
    halt: Float[np.ndarray, "N K"],
    residual: Float[np.ndarray, "N K"],
    passed: Bool[np.ndarray, "N K"],
) -> Int[np.ndarray, " N"]:
    """The rollout that answers, per puzzle; the first of equals, and NaN only where nothing else is.

    Args:
        rule: one of `RULES`.
        answers: of every rollout.
        halt: halt logits at the end.
        residual: late residuals.
        passed: whether an answer keeps the rules.
    """
    halt = np.nan_to_num(halt, nan=WORST)
    if rule == "residual":
        return np.nan_to_num(residual, nan=-WORST).argmin(1)
    if rule == "verified":
        return np.where(passed.any(1), passed.argmax(1), halt.argmax(1))
    if rule == "majority":
        whole = np.unique(answers.reshape(-1, answers.shape[-1]), axis=0, return_inverse=True)[1]
        whole = whole.reshape(halt.shape)  # a number for each different answer
        same = whole[:, :, None] == whole[:, None]
        votes = same.sum(-1)
        mean = np.where(same, halt[:, None], 0.0).sum(-1) / votes
        return np.where(votes == votes.max(1, keepdims=True), mean, -np.inf).argmax(1)
    assert rule == "halt", rule
    return halt.argmax(1)


def _follow(model: Any, ctx: Any, z: Any, segments: int) -> Orbit:
    """Answer, halt logit and relative change after every segment."""
    tokens, halt, residual = [], [], []
    for _ in range(segments):
        before, z = z, model.segment(z, ctx)
        out = model.readout(z, ctx)
        tokens.append(out.logits.argmax(-1).to(torch.uint8))
        halt.append(out.halt_logit.float())
        residual.append(distance(z, before) / norm(z))
    return Orbit(*(torch.stack(values, 1).cpu().numpy() for values in (tokens, halt, residual)))


def _check(segments: int, restarts: int, noise: float, select: str) -> None:
    if select not in RULES:
        raise UserError(f"select={select}: unknown rule. Choose one of {', '.join(RULES)}.")
    if segments < 1:
        raise UserError(f"segments={segments}: expected at least 1.")
    if restarts < 1:
        raise UserError(f"restarts={restarts}: expected at least 1, the plain start.")
    if not 0 <= noise < float("inf"):
        raise UserError(f"noise={noise}: expected 0 or more.")
