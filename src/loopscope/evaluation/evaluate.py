"""Score a model on a puzzle set after one or several numbers of segments, with or without restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from loopscope.errors import UserError
from loopscope.evaluation.intervals import Estimate, bootstrap_mean, wilson
from loopscope.evaluation.metrics import Columns, by_difficulty, cells_right, grade, summary
from loopscope.evaluation.solve import Answers, solve
from loopscope.evaluation.subject import batches, check_fits, check_numbers, dtype_name, identity
from loopscope.provenance import provenance
from loopscope.tasks.base import PAD, Batch, PuzzleSet, Task


@dataclass(frozen=True)
class Evaluation:
    """Scores by number of segments.

    Attributes:
        scores: segments -> score by name; first `exact_accuracy`, `cell_accuracy` and `halt_accuracy`, then
            those of `metrics.summary`; with restarts also `pass_at_k` (an oracle: any rollout right) and
            `mean_at_k` (one rollout at random).
        bands: segments -> fact that tells difficulty -> band -> exact accuracy.
        applications: segments -> block applications spent per puzzle, all rollouts together.
        facts: what was evaluated: model, data, dtype, n, rollouts and rule; versions and command.
        outcomes: segments -> per-puzzle columns (`metrics.grade`), not part of `to_dict`.
    """

    scores: dict[int, dict[str, Estimate]]
    bands: dict[int, dict[str, dict[str, Estimate]]]
    applications: dict[int, int]
    facts: dict[str, Any]
    outcomes: dict[int, Columns] = field(default_factory=dict, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        known = next(iter(self.bands.values()), {})
        bands = {
            f"exact_accuracy_by_{fact}": _plain({t: row[fact] for t, row in self.bands.items()})
            for fact in known
        }
        applications = {"applications_per_puzzle": self.applications}
        return {**self.facts, "segments": _plain(self.scores), **bands, **applications}


def _plain(table: dict[int, dict[str, Estimate]]) -> dict[int, dict[str, dict[str, float | int]]]:
    return {t: {name: e.to_dict() for name, e in row.items()} for t, row in table.items()}


@torch.no_grad()
def evaluate(
    model: Any,
    puzzles: PuzzleSet,
    *,
    segments: int | Sequence[int] = 16,
    batch_size: int = 64,
    answers: bool = False,
    progress: bool = False,
) -> Evaluation:
    """Run every puzzle for max(segments) segments from the model's own start and score along the way.

    Args:
        model: anything that keeps the `RecursiveSystem` protocol; computes in its own dtype.
        puzzles: with labels.
        segments: one or several numbers of segments at which to score.
        batch_size: puzzles per batch.
        answers: keep the answers, too, as the column `answer` (N, L) of the outcomes.
        progress: show a progress bar with an estimate.
    Raises:
        UserError: no labels, no puzzles, puzzles of another size than the model's, a bad number.
    """
    wanted = segments_wanted(segments)
    check_numbers(batch_size)
    check_fits(model, puzzles, labels=True)
    parts: dict[int, list[Columns]] = {t: [] for t in wanted}
    dtype = ""
    for _, batch in batches(model, puzzles, batch_size, progress):
        dtype, graded = _follow(model, puzzles.task, batch, wanted)
        for t, columns in graded.items():
            if not answers:
                del columns["answer"]
            parts[t].append(columns)
    outcomes = {t: joined(columns) for t, columns in parts.items()}
    return Evaluation(
        {t: summary(columns) for t, columns in outcomes.items()},
        {t: by_difficulty(columns["exact"], puzzles.facts) for t, columns in outcomes.items()},
        {t: t * model.applications_per_segment for t in wanted},
        record(model, puzzles, dtype),
        outcomes,
    )


def joined(parts: Sequence[Columns]) -> Columns:
    """The columns of several batches, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _follow(model: Any, task: Task, batch: Batch, wanted: Sequence[int]) -> tuple[str, dict[int, Columns]]:
    """One batch to the last segment wanted, read out at every one; the dtype of its latent."""
    assert batch.labels is not None
    ctx = model.encode(batch)
    z = model.initial_state(ctx)
    right, ends = [], {}
    for t in range(1, wanted[-1] + 1):
        z = model.segment(z, ctx)
        out = model.readout(z, ctx)
        tokens = out.logits.argmax(-1)
        right.append(cells_right(tokens, batch.labels)[1])
        if t in wanted:
            ends[t] = (tokens, out.halt_logit)
    exact, inputs, labels = (x.cpu().numpy() for x in (torch.stack(right, 1), batch.inputs, batch.labels))
    graded = {
        t: _at(t, exact, grade(task, inputs, tokens.cpu().numpy(), labels, halt.double().cpu().numpy()))
        | {"answer": tokens.to(torch.uint8).cpu().numpy()}
        for t, (tokens, halt) in ends.items()
    }
    return dtype_name(z), graded


def _at(t: int, exact: Bool[np.ndarray, "B T"], columns: Columns) -> Columns:
    """The columns at segment t (1-based) with what the whole orbit says."""
    ever, onward = (np.asarray(x) for x in (exact[:, :t].any(1), exact[:, t - 1 :].all(1)))
    return {**columns, "cumulative_accuracy": ever, "absorbed_accuracy": onward}


def evaluate_restarts(
    model: Any,
    puzzles: PuzzleSet,
    *,
    segments: int | Sequence[int] = 16,
    restarts: int = 8,
    noise: float = 0.3,
    select: str = "halt",
    seed: int = 0,
    batch_size: int = 64,
    progress: bool = False,
) -> Evaluation:
    """Score the answers that a rule picks among several rollouts, for each number of segments anew.

    Args as for `evaluate` and `solve`; `halt_accuracy` is that of the chosen rollouts.

    Raises:
        UserError: as `evaluate` and `solve`.
    """
    wanted = segments_wanted(segments)
    check_fits(model, puzzles, labels=True)
    settings = {"restarts": restarts, "noise": noise, "select": select, "seed": seed}
    table, bands, outcomes, dtype = {}, {}, {}, ""
    for t in wanted:
        answers = solve(
            model,
            puzzles,
            segments=t,
            batch_size=batch_size,
            progress=progress,
            **settings,  # type: ignore[arg-type]
        )
        table[t], outcomes[t] = _restart_scores(answers, puzzles)
        bands[t], dtype = by_difficulty(outcomes[t]["exact"], puzzles.facts), answers.dtype
    spent = {t: t * restarts * model.applications_per_segment for t in wanted}
    return Evaluation(table, bands, spent, record(model, puzzles, dtype) | settings, outcomes)


def _restart_scores(answers: Answers, puzzles: PuzzleSet) -> tuple[dict[str, Estimate], Columns]:
    """Scores of the chosen answers and of the rollouts they were chosen from; the chosen ones graded."""
    assert puzzles.labels is not None
    columns = grade(puzzles.task, puzzles.inputs, answers.tokens, puzzles.labels, answers.halt_logit)
    exact = _exact(answers.rollouts, puzzles.labels)[puzzles.labels.any(1)]
    rows = summary(columns)
    rows["pass_at_k"] = wilson(int(exact.any(1).sum()), len(exact))
    rows["mean_at_k"] = bootstrap_mean(exact.mean(1), resamples=2000)
    return rows, columns | {"answer": answers.tokens}


def _exact(rollouts: UInt8[np.ndarray, "N K L"], labels: UInt8[np.ndarray, "N L"]) -> Bool[np.ndarray, "N K"]:
    """Which rollouts are right in every supervised cell, one rollout of all puzzles at a time."""
    return np.stack([((a == labels) | (labels == PAD)).all(1) for a in rollouts.swapaxes(0, 1)], axis=1)


def segments_wanted(segments: int | Sequence[int]) -> list[int]:
    """One or several numbers of segments, ascending.

    Raises:
        UserError: one of them is not positive, or there is none.
    """
    wanted = sorted({segments} if isinstance(segments, int) else set(segments))
    if not wanted or wanted[0] < 1:
        raise UserError(f"segments={wanted}: expected positive numbers, for example --segments 16,64.")
    return wanted


def record(model: Any, puzzles: PuzzleSet, dtype: str) -> dict[str, Any]:
    """What every evaluation says of itself: model, data, dtype, versions, command."""
    data = {"data": puzzles.name, "data_hash": puzzles.content_hash, "n": len(puzzles), "dtype": dtype}
    return {**identity(model), **data, **provenance()}
