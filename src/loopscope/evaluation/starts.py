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
        sigma: size of the noise in units of the standard deviation of each part of z0.
        seed: of the draw; the same noise serves every sigma, so that curves over sigma are paired.
        restart: number of the restart.
        puzzle_index: number of each puzzle in the whole set; makes the draw independent of batching.
    """
    generators = [np.random.default_rng((seed, 7, int(i), restart)) for i in puzzle_index]

    def move(part: Tensor) -> Tensor:
        draws = np.stack([g.standard_normal(part.shape[1:], dtype=np.float32) for g in generators])
        noise = torch.from_numpy(draws).to(part.device, part.dtype)
        return part + sigma * part[:1].float().std().to(part.dtype) * noise

    return tree_map(move, z0)
