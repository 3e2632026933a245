"""Score a model on a puzzle set after one or several numbers of segments, with or without restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from loopscope.errors import UserError
from loopscope.evaluation.intervals import Estimate, bootstrap_mean, wilson
from loopscope.evaluation.metrics import by_rating, cells_right, scores
from loopscope.evaluation.solve import Answers, solve
from loopscope.evaluation.subject import batches, check_fits, check_numbers, dtype_name, identity
from loopscope.provenance import provenance
from loopscope.tasks.base import IGNORE, PAD, PuzzleSet


@dataclass(frozen=True)
class Evaluation:
    """Scores by number of segments.

    Attributes:
        scores: segments -> exact_accuracy, cell_accuracy, halt_accuracy; with restarts also pass_at_k
            (an oracle: any rollout right) and mean_at_k (one rollout at random).
        bands: segments -> difficulty band -> exact accuracy; empty without ratings.
        applications: segments -> block applications spent per puzzle, all rollouts together.
        facts: what was evaluated: model, data, dtype, n, rollouts and rule; versions and command.
    """

    scores: dict[int, dict[str, Estimate]]
    bands: dict[int, dict[str, Estimate]]
    applications: dict[int, int]
    facts: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        return {
            **self.facts,
            "segments": _plain(self.scores),
            "exact_accuracy_by_rating": _plain(self.bands),
            "applications_per_puzzle": self.applications,
        }


def _plain(table: dict[int, dict[str, Estimate]]) -> dict[int, dict[str, dict[str, float | int]]]:
    return {t: {name: e.to_dict() for name, e in row.items()} for t, row in table.items()}


@torch.no_grad()
def evaluate(
    model: Any,
    puzzles: PuzzleSet,
    *,
    segments: int | Sequence[int] = 16,
    batch_size: int = 64,
    progress: bool = False,
) -> Evaluation:
    """Run every puzzle for max(segments) segments from the model's own start and score along the way.

    Args:
        model: anything that keeps the `RecursiveSystem` protocol; computes in its own dtype.
        puzzles: with labels.
        segments: one or several numbers of segments at which to score.
        batch_size: puzzles per batch.
        progress: show a progress bar with an estimate.
    Raises:
        UserError: no labels, no puzzles, puzzles of another size than the model's, a bad number.
    """
    wanted = _wanted(segments)
    check_numbers(batch_size)
    check_fits(model, puzzles, labels=True)
    seen: dict[int, list[Tensor]] = {t: [] for t in wanted}
    for _, batch in batches(model, puzzles, batch_size, progress):
        assert batch.labels is not None
        ctx = model.encode(batch)
        z = model.initial_state(ctx)
        for t in range(1, wanted[-1] + 1):
            z = model.segment(z, ctx)
            if t in seen:
                seen[t].append(_outcome(model.readout(z, ctx), batch.labels))
    columns = {t: torch.cat(parts, dim=1).cpu().numpy() for t, parts in seen.items()}
    return Evaluation(
        {t: scores(accuracy, exact > 0, halt) for t, (accuracy, exact, halt) in columns.items()},
        {t: by_rating(exact > 0, puzzles.facts) for t, (_, exact, _) in columns.items()},
        {t: t * model.applications_per_segment for t in wanted},
        _facts(model, puzzles, dtype_name(z)),
    )


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
    wanted = _wanted(segments)
    check_fits(model, puzzles, labels=True)
    settings = {"restarts": restarts, "noise": noise, "select": select, "seed": seed}
    table, bands, dtype = {}, {}, ""
    for t in wanted:
        answers = solve(
            model,
            puzzles,
            segments=t,
            batch_size=batch_size,
            progress=progress,
            **settings,  # type: ignore[arg-type]
        )
        table[t], exact = _restart_scores(answers, puzzles)
        bands[t], dtype = by_rating(exact, puzzles.facts), answers.dtype
    spent = {t: t * restarts * model.applications_per_segment for t in wanted}
    return Evaluation(table, bands, spent, _facts(model, puzzles, dtype) | settings)


def _restart_scores(answers: Answers, puzzles: PuzzleSet) -> tuple[dict[str, Estimate], np.ndarray]:
    """Scores of the chosen answers and of the rollouts they were chosen from; which answers are exact."""
    assert puzzles.labels is not None
    labels = torch.from_numpy(puzzles.labels.astype(np.int64))
    labels = labels.masked_fill(labels == PAD, IGNORE)
    right = [
        cells_right(torch.from_numpy(a.astype(np.int64)), labels) for a in answers.rollouts.swapaxes(0, 1)
    ]
    accuracy, exact = (np.stack([part.numpy() for part in parts], 1) for parts in zip(*right, strict=True))
    n, chosen = np.arange(len(exact)), answers.rollout
    rows = scores(accuracy[n, chosen], exact[n, chosen], answers.halt_logit)
    rows["pass_at_k"] = wilson(int(exact.any(1).sum()), len(exact))
    rows["mean_at_k"] = bootstrap_mean(exact.mean(1), resamples=2000)
    return rows, exact[n, chosen]


def _wanted(segments: int | Sequence[int]) -> list[int]:
    wanted = sorted({segments} if isinstance(segments, int) else set(segments))
    if not wanted or wanted[0] < 1:
        raise UserError(f"segments={wanted}: expected positive numbers, for example --segments 16,64.")
    return wanted


def _outcome(out: Any, labels: Tensor) -> Float[Tensor, "3 B"]:
    """Cell accuracy, exactness and halt logit of a batch, float64."""
    accuracy, exact = cells_right(out.logits.argmax(-1), labels)
    return torch.stack([accuracy.double(), exact.double(), out.halt_logit.double()])


def _facts(model: Any, puzzles: PuzzleSet, dtype: str) -> dict[str, Any]:
    data = {"data": puzzles.name, "data_hash": puzzles.content_hash, "n": len(puzzles), "dtype": dtype}
    return {**identity(model), **data, **provenance()}
