"""Restarted orbits: whether they reach the solution, and how far the kick really moved them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from loopscope.evaluation.metrics import cells_right
from loopscope.evaluation.starts import perturbed_start
from loopscope.latent import distance, norm


def restart_variables(
    system: Any,
    ctx: Any,
    z0: Any,
    labels: Int[Tensor, "B L"],
    *,
    sigmas: Sequence[float],
    restarts: int,
    segments: int,
    seed: int,
    puzzle_index: Int[np.ndarray, " B"],
) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Follow every puzzle from kicked starts.

    Args:
        system: keeps the `RecursiveSystem` protocol.
        ctx: its context for B puzzles.
        z0: their plain start.
        labels: expected tokens.
        sigmas: sizes of the kick, S.
        restarts: kicks of each size, R; the same noise, scaled, for every size.
        segments: length of each orbit.
        seed: of the noise.
        puzzle_index: number of each puzzle in the whole set.
    Returns:
        `basin_solved` (right at some segment), `basin_final` (right at the last) and
        `basin_displacement` (distance to the plain orbit after one segment, relative to its norm),
        each over (puzzle, sigma, restart), as xarray variables.
    """
    plain = system.segment(z0, ctx)
    shape = (len(puzzle_index), len(sigmas), restarts)
    solved, final, moved = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape, "f4")
    for i, sigma in enumerate(sigmas):
        for r in range(restarts):
            start = perturbed_start(z0, sigma, seed=seed, restart=r, puzzle_index=puzzle_index)
            solved[:, i, r], final[:, i, r], first = run_restart(system, ctx, start, labels, segments)
            moved[:, i, r] = (distance(first, plain) / norm(plain)).cpu().numpy()
    dims = ("puzzle", "sigma", "restart")
    return {
        "basin_solved": (dims, solved),
        "basin_final": (dims, final),
        "basin_displacement": (dims, moved),
    }


@torch.no_grad()
def run_restart(
    system: Any, ctx: Any, z: Any, labels: Int[Tensor, "B L"], segments: int
) -> tuple[Bool[np.ndarray, " B"], Bool[np.ndarray, " B"], Any]:
    """Follow one restart: solved at some segment, solved at the last one, and the state after the first."""
    exact, first = [], z
    for t in range(segments):
        z = system.segment(z, ctx)
        first = z if t == 0 else first
        exact.append(cells_right(system.readout(z, ctx).logits.argmax(-1), labels)[1])
    right = torch.stack(exact)
    return right.any(0).cpu().numpy(), right[-1].cpu().numpy(), first
