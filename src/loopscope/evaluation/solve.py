"""Answer puzzles: one orbit each, or several from perturbed starts with a rule that picks the answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from loopscope.errors import UserError
from loopscope.evaluation.evaluate import batches, check_fits
from loopscope.evaluation.starts import perturbed_start
from loopscope.latent import norm, tree_map
from loopscope.models import RecursiveModel
from loopscope.tasks.base import Batch, PuzzleSet

RULES = ("halt", "residual", "majority", "verified")
LATE = 4  # segments over which settling is judged


@dataclass(frozen=True)
class Answers:
    """Answers to N puzzles, chosen among K rollouts of T segments each.

    Attributes:
        tokens: chosen answers.
        halt_logit: of the chosen rollout; above 0 the model calls its answer right.
        residual: relative change of the latent, mean over the last 4 segments of the chosen rollout.
        verified: whether the answer obeys the rules and keeps the givens.
        rollout: which rollout was chosen, 0 the plain start.
        rollouts: all answers.
        trace: answers after every segment of the plain start; None unless asked for.
        trace_halt_logit: halt logit after every segment; None unless asked for.
        trace_residual: relative change over every segment; None unless asked for.
    """

    tokens: UInt8[np.ndarray, "N L"]
    halt_logit: Float[np.ndarray, " N"]
    residual: Float[np.ndarray, " N"]
    verified: Bool[np.ndarray, " N"]
    rollout: np.ndarray
    rollouts: UInt8[np.ndarray, "N K L"]
    trace: UInt8[np.ndarray, "N T L"] | None = None
    trace_halt_logit: Float[np.ndarray, "N T"] | None = None
    trace_residual: Float[np.ndarray, "N T"] | None = None


@torch.no_grad()
def solve(
    model: RecursiveModel,
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
        model: computes in its own dtype.
        puzzles: N puzzles.
        segments: length of each orbit.
        restarts: orbits per puzzle, K; the first from the plain start, the others from perturbed ones.
        noise: size of the perturbation (`starts.perturbed_start`).
        select: which rollout answers: highest "halt" logit, smallest "residual", "majority" of whole
            answers (ties by halt logit), or the first "verified" by the rules (else by halt logit).
        seed: of the perturbations.
        batch_size: puzzles per batch.
        trace: keep the answer after every segment of the plain orbit.
        progress: show a progress bar.
    Raises:
        UserError: unknown rule, a number out of range, or puzzles of another size than the model's.
    """
    if select not in RULES:
        raise UserError(f"select={select}: unknown rule. Choose one of {', '.join(RULES)}.")
    if segments < 1 or restarts < 1 or noise < 0:
        raise UserError(f"segments={segments}, restarts={restarts}, noise={noise}: expected at least 1, 1 and 0.")
    check_fits(model, puzzles)
    rollouts: list[list[dict[str, np.ndarray]]] = [[] for _ in range(restarts)]
    start = 0
    for batch in batches(model, puzzles, batch_size, progress):
        index = np.arange(start, start := start + len(batch.inputs))
        for r in range(restarts):
            rollouts[r].append(_orbit(model, batch, segments, r, noise, seed, index))
    tables = [{k: np.concatenate([part[k] for part in parts]) for k in parts[0]} for parts in rollouts]
    answers = np.stack([t["tokens"][:, -1] for t in tables], axis=1)
    halt = np.stack([t["halt"][:, -1] for t in tables], axis=1)
    residual = np.stack([t["residual"][:, -LATE:].mean(1) for t in tables], axis=1)
    passed = np.stack([puzzles.task.verify(puzzles.inputs, answers[:, r]) for r in range(restarts)], axis=1)
    chosen, n = _choose(select, answers, halt, residual, passed), np.arange(len(puzzles))
    plain: dict[str, Any] = tables[0] if trace else {}
    return Answers(
        answers[n, chosen],
        halt[n, chosen],
        residual[n, chosen],
        passed[n, chosen],
        chosen,
        answers,
        plain.get("tokens"),
        plain.get("halt"),
        plain.get("residual"),
    )


def _orbit(
    model: RecursiveModel, batch: Batch, segments: int, restart: int, noise: float, seed: int, index: np.ndarray
) -> dict[str, np.ndarray]:
    """One rollout of a batch: answer, halt logit and relative change after every segment."""
    ctx = model.encode(batch)
    z = model.initial_state(ctx)
    if restart:
        z = perturbed_start(z, noise, seed=seed, restart=restart, puzzle_index=index)
    tokens, halt, residual = [], [], []
    for _ in range(segments):
        before, z = z, model.segment(z, ctx)
        out = model.readout(z, ctx)
        tokens.append(out.logits.argmax(-1).to(torch.uint8))
        halt.append(out.halt_logit)
        residual.append(norm(tree_map(lambda a, b: a.float() - b.float(), z, before)) / norm(z))
    values = {"tokens": tokens, "halt": halt, "residual": residual}
    return {key: torch.stack(value, 1).cpu().numpy() for key, value in values.items()}


def _choose(
    rule: str, answers: np.ndarray, halt: np.ndarray, residual: np.ndarray, passed: np.ndarray
) -> np.ndarray:
    """The rollout that answers, per puzzle, (N,)."""
    if rule == "residual":
        return residual.argmin(1)
    if rule == "verified":
        return np.where(passed.any(1), passed.argmax(1), halt.argmax(1))
    if rule == "majority":
        votes = (answers[:, :, None] == answers[:, None]).all(-1).sum(-1)
        return np.where(votes == votes.max(1, keepdims=True), halt, -np.inf).argmax(1)
    return halt.argmax(1)
