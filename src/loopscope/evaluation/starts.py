"""Starts moved by noise, for restarts: z0' = z0 + sigma * std(z0) * N(0, 1), part by part.

Post-norm models project some of the noise away at their first application, so quote the relative
displacement after one segment beside sigma.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from loopscope.latent import tree_map


def perturbed_start(
    z0: Any, sigma: float, *, seed: int, restart: int, puzzle_index: Int[np.ndarray, " B"]
) -> Any:
    """A start moved by noise; every (puzzle, restart) draws from a generator of its own.

    Args:
        z0: the unperturbed start, B rows.
        sigma: size of the noise in units of the standard deviation of each part of z0, row by row; in
            units of 1 where a part is constant, such as a start of zeros.
        seed: of the draw; the same noise serves every sigma, so that curves over sigma are paired.
        restart: number of the restart.
        puzzle_index: number of each puzzle in the whole set; makes the draw independent of batching.
    """
    generators = [np.random.default_rng((seed, 7, int(i), restart)) for i in puzzle_index]

    def move(part: Tensor) -> Tensor:
        draws = np.stack([g.standard_normal(part.shape[1:], dtype=np.float32) for g in generators])
        noise = torch.from_numpy(draws).to(part.device)
        scale = part.float().flatten(1).std(dim=1, correction=0)
        scale = torch.where(scale > 0, scale, 1.0).view(-1, *[1] * (part.ndim - 1))
        return part + (sigma * scale * noise).to(part.dtype)

    return tree_map(move, z0)
