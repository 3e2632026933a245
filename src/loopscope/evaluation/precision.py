"""What a smaller dtype does to the answers of a model."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8

from loopscope.evaluation.bench import answer
from loopscope.evaluation.intervals import Estimate, mean_share, wilson
from loopscope.evaluation.subject import batches, check_fits, check_numbers
from loopscope.models import RecursiveModel
from loopscope.models.recursion import DTYPES
from loopscope.tasks.base import PAD, PuzzleSet


@dataclass(frozen=True)
class Flips:
    """Answers of one model in a small dtype against those in a wide one, n puzzles.

    Attributes:
        small, wide: the dtypes.
        segments: length of the orbits.
        cells: share of cells answered alike, bootstrap over puzzles.
        puzzles: share of puzzles answered alike in every cell, Wilson interval.
        flipped_cells: number of cells answered differently.
        only_small, only_wide: puzzles solved in one dtype only; None where the answers are not known.
    """

    small: str
    wide: str
    segments: int
    cells: Estimate
    puzzles: Estimate
    flipped_cells: int
    only_small: int | None
    only_wide: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        return asdict(self)


def dtype_flips(
    model: RecursiveModel,
    puzzles: PuzzleSet,
    *,
    small: str = "bfloat16",
    wide: str = "float32",
    segments: int = 16,
    batch_size: int = 64,
) -> Flips:
    """Answer the same puzzles in two dtypes and count what differs.

    Args:
        model: computes in its own dtype again afterwards.
        puzzles: at least one; with labels the puzzles solved in one dtype only are counted, too.
        small, wide: names of the dtypes.
        segments: length of each orbit.
        batch_size: puzzles per batch.
    Raises:
        UserError: no puzzles, puzzles of another size than the model's, or a bad number.
    """
    check_numbers(batch_size)
    check_fits(model, puzzles)
    own, answers = model.dtype, {}
    try:
        for name in (small, wide):
            model.compute_in(DTYPES[name])
            answers[name] = _answers(model, puzzles, segments, batch_size)
    finally:
        model.compute_in(own)
    same = answers[small] == answers[wide]
    only_small, only_wide = _solved_in_one(answers[small], answers[wide], puzzles)
    return Flips(
        small=small,
        wide=wide,
        segments=segments,
        cells=mean_share(same.mean(1)),
        puzzles=wilson(int(same.all(1).sum()), len(puzzles)),
        flipped_cells=int((~same).sum()),
        only_small=only_small,
        only_wide=only_wide,
    )


@torch.no_grad()
def _answers(
    model: RecursiveModel, puzzles: PuzzleSet, segments: int, batch_size: int
) -> UInt8[np.ndarray, "N L"]:
    with model.casts_kept():
        parts = [answer(model, batch, segments) for _, batch in batches(model, puzzles, batch_size)]
    return torch.cat(parts).to(torch.uint8).cpu().numpy()


def _solved_in_one(
    small: np.ndarray, wide: np.ndarray, puzzles: PuzzleSet
) -> tuple[int, int] | tuple[None, None]:
    if puzzles.labels is None:
        return None, None
    unsupervised = puzzles.labels == PAD
    solved, by_wide = ((unsupervised | (a == puzzles.labels)).all(1) for a in (small, wide))
    return int((solved & ~by_wide).sum()), int((by_wide & ~solved).sum())
