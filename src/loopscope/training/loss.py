"""Deep-supervision loss of one segment: cross-entropy of the cells, halting, optional continue target.

stablemax replaces exp in the softmax by s(x) = x + 1 for x >= 0, 1 / (1 - x) below. It is computed in
float64, as officially. Source: "Grokking at the Edge of Numerical Stability" (2501.04697).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.models import Readout
from loopscope.tasks.base import IGNORE


def stablemax(x: Tensor) -> Tensor:
    """s(x), written without `where`: that form has NaN gradients at x = 1 in float32."""
    return 1 / (1 - x.clamp(max=0) + 1e-30) + F.relu(x)  # gradient 1 at 0: relu has 0 there, clamp 1


def log_stablemax(x: Float[Tensor, "... V"]) -> Float[Tensor, "... V"]:
    """log of s(x) / sum s(x) over the last axis."""
    s = stablemax(x)
    return torch.log(s / s.sum(dim=-1, keepdim=True))


def cell_cross_entropy(
    logits: Float[Tensor, "B L V"], labels: Int[Tensor, "B L"], kind: str = "stablemax"
) -> Float[Tensor, "B L"]:
    """Cross-entropy per cell, 0 where the label is -100; float64 for stablemax, float32 for softmax."""
    valid = labels != IGNORE
    index = labels.where(valid, 0).long().unsqueeze(-1)
    if kind == "stablemax":
        log_p = log_stablemax(logits.double())
    else:
        log_p = F.log_softmax(logits.float(), dim=-1)
    return -log_p.gather(-1, index).squeeze(-1) * valid


class SegmentLoss(NamedTuple):
    """Sums over rows, before division by the batch size; `cell`, `halt`, `continue_` are parts of `total`.

    `row_accuracy`, `row_exact` and `row_halt_right` are per row, (B,), without gradient.
    """

    total: Tensor
    cell: Tensor
    halt: Tensor
    continue_: Tensor
    row_accuracy: Float[Tensor, " B"]
    row_exact: Bool[Tensor, " B"]
    row_halt_right: Bool[Tensor, " B"]


def segment_loss(
    out: Readout,
    labels: Int[Tensor, "B L"],
    kind: str = "stablemax",
    continue_target: Float[Tensor, " B"] | None = None,
) -> SegmentLoss:
    """Loss of one segment: cells + 0.5 * (halt + continue), summed over rows.

    Args:
        out: heads of the new state.
        labels: expected tokens, -100 where unsupervised; a row without labels counts as exact.
        kind: "stablemax" or "softmax".
        continue_target: bootstrapped target in (0, 1); None leaves the continue head untrained.
    """
    valid = labels != IGNORE
    num_valid = valid.sum(1)
    right = (out.logits.detach().argmax(-1) == labels) & valid
    exact = right.sum(1) == num_valid
    cell = (cell_cross_entropy(out.logits, labels, kind) / num_valid.clamp(min=1).unsqueeze(1)).sum()
    halt = F.binary_cross_entropy_with_logits(out.halt_logit, exact.to(out.halt_logit.dtype), reduction="sum")
    continue_ = torch.zeros_like(halt)
    if continue_target is not None:
        continue_ = F.binary_cross_entropy_with_logits(out.continue_logit, continue_target, reduction="sum")
    accuracy = right.sum(1) / num_valid.clamp(min=1)
    halt_right = (out.halt_logit.detach() >= 0) == exact
    return SegmentLoss(
        cell + 0.5 * (halt + continue_),
        cell.detach(),
        halt.detach(),
        continue_.detach(),
        accuracy,
        exact,
        halt_right,
    )
