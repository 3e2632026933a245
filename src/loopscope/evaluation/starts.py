"""Starts and kicks: where restarts begin, and noise on the latent before a segment.

z0' = z0 + sigma * std(z0) * N(0, 1), part by part. Post-norm models project some of the noise away at
their first application, so quote the relative displacement after one segment beside sigma. What a row gets
depends on the seed and on its own numbers, never on the rows beside it.
"""

from __future__ import annotations

from itertools import count
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from loopscope.latent import concat, rows, tree_map
from loopscope.models.noise import GOLDEN, KICK, mix, normal


def perturbed_start(
    z0: Any,
    sigma: float,
    *,
    seed: int,
    restart: int | Int[np.ndarray, " B"],
    puzzle_index: Int[np.ndarray, " B"],
) -> Any:
    """A start moved by noise; every (puzzle, restart) draws from a generator of its own.

    Args:
        z0: the unperturbed start, B rows.
        sigma: size of the noise in units of the standard deviation of each part of z0, row by row; in
            units of 1 where a part is constant, such as a start of zeros.
        seed: of the draw; the same noise serves every sigma, so that curves over sigma are paired.
        restart: number of the restart, of all rows or of each.
        puzzle_index: number of each puzzle in the whole set; makes the draw independent of batching.
    """
    draws = _draws(z0, seed, restart, puzzle_index)
    return tree_map(lambda part, noise: part + (sigma * _scale(part) * noise).to(part.dtype), z0, draws)


def random_start(
    system: Any,
    ctx: Any,
    z0: Any,
    *,
    seed: int,
    restart: Int[np.ndarray, " B"],
    puzzle_index: Int[np.ndarray, " B"],
) -> Any:
    """A start drawn anew for every (puzzle, restart).

    A model with `random_init` draws it as it does in training; for any other the numbers are normal, with
    the mean and the standard deviation that each part of z0 has, row by row.

    Args:
        system: whose starts.
        ctx: its context, B rows.
        z0: its own start.
        seed, restart, puzzle_index: as for `perturbed_start`.
    """
    if getattr(getattr(system, "settings", None), "random_init", False):
        pairs = zip(puzzle_index, restart, strict=True)
        seeds = [np.random.default_rng((seed, 9, int(i), int(r))).integers(2**63) for i, r in pairs]
        draws = [torch.Generator().manual_seed(int(number)) for number in seeds]
        return concat([system.initial_state(rows(ctx, slice(i, i + 1)), g) for i, g in enumerate(draws)])
    noises = _draws(z0, seed, restart, puzzle_index)

    def draw(part: Tensor, noise: Tensor) -> Tensor:
        mean = part.float().flatten(1).mean(1).view(-1, *[1] * (part.ndim - 1))
        return (mean + _scale(part) * noise).to(part.dtype)

    return tree_map(draw, z0, noises)


def kicked(z: Any, sigma: float, keys: Int[Tensor, " B"]) -> Any:
    """A latent moved by noise in the units of `perturbed_start`; equal keys get equal noise."""
    place = count()

    def move(part: Tensor) -> Tensor:
        noise = normal(keys, (KICK, next(place)), tuple(part.shape[1:]))
        return part + (sigma * _scale(part) * noise).to(part.dtype)

    return tree_map(move, z)


def row_keys(keys: Int[Tensor, " B"], *numbers: Int[Tensor, " B"]) -> Int[Tensor, " B"]:
    """Keys for noise that belongs to a row and to some numbers of it, such as puzzle, rollout, segment."""
    for number in numbers:
        keys = mix(keys + GOLDEN * (number + 1))
    return keys


def _draws(z0: Any, seed: int, restart: int | np.ndarray, puzzle_index: np.ndarray) -> Any:
    """Standard normal numbers of the form of z0, float32."""
    pairs = zip(puzzle_index, np.broadcast_to(restart, puzzle_index.shape), strict=True)
    generators = [np.random.default_rng((seed, 7, int(i), int(r))) for i, r in pairs]

    def draw(part: Tensor) -> Tensor:
        noise = np.stack([g.standard_normal(part.shape[1:], dtype=np.float32) for g in generators])
        return torch.from_numpy(noise).to(part.device)

    return tree_map(draw, z0)


def _scale(part: Tensor) -> Float[Tensor, "B ..."]:
    """Standard deviation of each row, to be multiplied with the rows; 1 where a row is constant."""
    scale = part.float().flatten(1).std(dim=1, correction=0)
    return torch.where(scale > 0, scale, 1.0).view(-1, *[1] * (part.ndim - 1))
