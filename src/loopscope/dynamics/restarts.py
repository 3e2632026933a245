"""Restarted orbits: whether they reach the solution, and how far the kick really moved them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.evaluation.metrics import cells_right
from loopscope.latent import leaves, norm, tree_map


@torch.no_grad()
def run_restart(
    system: Any, ctx: Any, z: Any, labels: Int[Tensor, "B L"], segments: int
) -> tuple[Bool[np.ndarray, " B"], Bool[np.ndarray, " B"], Any]:
    """Follow one restart: solved at some segment, solved at the last one, and the state after the first."""
    ever = torch.zeros(len(labels), dtype=torch.bool, device=labels.device)
    exact, first = ever, z
    for t in range(segments):
        z = system.segment(z, ctx)
        first = z if t == 0 else first
        exact = cells_right(system.readout(z, ctx).logits.argmax(-1), labels)[1]
        ever = ever | exact
    return ever.cpu().numpy(), exact.cpu().numpy(), first


def displacement(z: Any, reference: Any) -> Float[np.ndarray, " B"]:
    """Distance of two latents relative to the norm of the second."""
    difference = tree_map(lambda a, b: a - b, z, reference)
    assert leaves(z), "a latent has at least one part"
    return (norm(difference) / norm(reference)).cpu().numpy()
