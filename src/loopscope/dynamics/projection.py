"""How many directions an orbit uses, and what a picture of two of them hides.

Two orbits that meet in a plane may be far apart outside it, and one that stands still there may move.
So every projection tells the share of variance and of motion that it does not show.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class Projection(NamedTuple):
    """Principal components of B clouds of T points.

    Attributes:
        coordinates: of the points, around their mean.
        axes: orthonormal, by falling variance.
        variance_shown: share of the variance along the axes; NaN when all points are equal.
        speed_shown: share of the squared steps between neighbouring points; NaN when none moves.
    """

    coordinates: Float[Tensor, "B T k"]
    axes: Float[Tensor, "B N k"]
    variance_shown: Float[Tensor, " B"]
    speed_shown: Float[Tensor, " B"]

    @property
    def warning(self) -> str:
        """What the picture hides, in one sentence; of several clouds the one that hides most."""
        k = self.coordinates.shape[2]
        hidden = [
            1 - float(share.nan_to_num(1.0).amin()) for share in (self.variance_shown, self.speed_shown)
        ]
        return (
            f"{k} principal components hide {hidden[0]:.0%} of the variance and {hidden[1]:.0%} of the "
            "squared speed: orbits that meet here may be far apart, and one that stands still here may move."
        )


def participation_ratio(states: Float[Tensor, "B T N"]) -> Float[Tensor, " B"]:
    """Number of directions that share the variance: (sum v)^2 / sum v^2 over the variances v.

    1 for points on a line, n for n equal variances, at most T - 1; NaN when all points are equal.
    """
    variances = _decompose(states)[1].square()
    return variances.sum(1).square() / variances.square().sum(1)


def principal_components(states: Float[Tensor, "B T N"], k: int = 2) -> Projection:
    """Project every cloud on its own leading axes.

    Args:
        states: B orbits of T points in order. The late states of T puzzles are one cloud, (1, T, N); its
            `speed_shown` then compares neighbours in the set and says nothing about motion.
        k: axes; at most min(T, N).
    """
    centred, sizes, axes = _decompose(states)
    axes = axes[:, :, :k]
    steps = centred.diff(dim=1)
    shown = (steps @ axes).square().sum((1, 2)) / steps.square().sum((1, 2))
    variance = sizes[:, :k].square().sum(1) / sizes.square().sum(1)
    return Projection(centred @ axes, axes, variance, shown)


def _decompose(states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centred points (B, T, N), singular values (B, r) and right singular vectors (B, N, r), float64."""
    centred = states.double() - states.double().mean(1, keepdim=True)
    _, sizes, axes = torch.linalg.svd(centred, full_matrices=False)
    return centred, sizes, axes.mT
