"""Score a model on a puzzle set after one or several numbers of segments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from loopscope.errors import UserError
from loopscope.evaluation.intervals import Estimate
from loopscope.evaluation.metrics import by_rating, cells_right, scores
from loopscope.models import RecursiveModel
from loopscope.tasks.base import Batch, PuzzleSet


@dataclass(frozen=True)
class Evaluation:
    """Scores by number of segments.

    Attributes:
        scores: segments -> exact_accuracy, cell_accuracy, halt_accuracy.
        bands: segments -> difficulty band -> exact accuracy; empty without ratings.
        applications: segments -> block applications spent per puzzle.
        facts: what was evaluated: model, data, dtype, n.
    """

    scores: dict[int, dict[str, Estimate]]
    bands: dict[int, dict[str, Estimate]]
    applications: dict[int, int]
    facts: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        plain = lambda table: {t: {k: v.to_dict() for k, v in row.items()} for t, row in table.items()}  # noqa: E731
        return {
            **self.facts,
            "segments": plain(self.scores),
            "exact_accuracy_by_rating": plain(self.bands),
            "applications_per_puzzle": self.applications,
        }


@torch.no_grad()
def evaluate(
    model: RecursiveModel,
    puzzles: PuzzleSet,
    *,
    segments: int | Sequence[int] = 16,
    batch_size: int = 64,
    progress: bool = False,
) -> Evaluation:
    """Run every puzzle for max(segments) segments from the model's own start and score along the way.

    Args:
        model: computes in its own dtype (`model.compute_in` changes it).
        puzzles: with labels.
        segments: one or several numbers of segments at which to score.
        batch_size: puzzles per batch.
        progress: show a progress bar with an estimate.
    Raises:
        UserError: no labels, no puzzles, or puzzles of another size than the model's.
    """
    wanted = sorted({segments} if isinstance(segments, int) else set(segments))
    if not wanted or wanted[0] < 1:
        raise UserError(f"segments={list(wanted)}: expected positive numbers, for example --segments 16,64.")
    if puzzles.labels is None:
        raise UserError(f"{puzzles.name}: no answers to score against. Use solve, or a file with answers.")
    check_fits(model, puzzles)
    seen: dict[int, list[Tensor]] = {t: [] for t in wanted}
    for batch in batches(model, puzzles, batch_size, progress):
        ctx = model.encode(batch)
        z = model.initial_state(ctx)
        for t in range(1, wanted[-1] + 1):
            z = model.segment(z, ctx)
            if t in seen:
                out = model.readout(z, ctx)
                assert batch.labels is not None
                accuracy, exact = cells_right(out.logits.argmax(-1), batch.labels)
                seen[t].append(torch.stack([accuracy, exact.float(), out.halt_logit]).cpu())
    columns = {t: torch.cat(parts, dim=1).double().numpy() for t, parts in seen.items()}
    return Evaluation(
        {t: scores(c[0], c[1] > 0, c[2]) for t, c in columns.items()},
        {t: by_rating(c[1] > 0, puzzles.facts) for t, c in columns.items()},
        {t: t * model.applications_per_segment for t in wanted},
        {"n": len(puzzles), "data": puzzles.name, "data_hash": puzzles.content_hash, "dtype": str(model.dtype)[6:]},
    )


def batches(
    model: RecursiveModel, puzzles: PuzzleSet, batch_size: int, progress: bool = False
) -> Iterator[Batch]:
    """The puzzles in order, in batches on the model's device."""
    starts = range(0, len(puzzles), batch_size)
    for start in tqdm(starts, disable=not progress, unit="batch", leave=False):
        yield puzzles[start : start + batch_size].batch(model.device)


def check_fits(model: RecursiveModel, puzzles: PuzzleSet) -> None:
    """Whether the model was made for puzzles of this size.

    Raises:
        UserError: saying both sizes.
    """
    s = model.settings
    if len(puzzles) == 0:
        raise UserError(f"{puzzles.name}: no puzzles. Check the file and --limit.")
    if (puzzles.task.seq_len, puzzles.task.vocab_size) != (s.seq_len, s.vocab_size):
        raise UserError(
            f"{puzzles.name}: puzzles of {puzzles.task.seq_len} cells and {puzzles.task.vocab_size} tokens, "
            f"but the model was made for {s.seq_len} and {s.vocab_size}. Use a model or data set of the same size."
        )
