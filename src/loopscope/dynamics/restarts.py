"""Restarted orbits: where kicked states end, and how far the kick really moved them.

A kick at the start asks for the basin of the solution, a kick in the middle of a run whether a stuck orbit
can be freed. Kicks may move all of the latent or only named parts of it; the units are those of
`perturbed_start`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.errors import UserError
from loopscope.evaluation.metrics import cells_right
from loopscope.evaluation.starts import perturbed_start
from loopscope.latent import distance, norm


class Kicked(NamedTuple):
    """What became of kicked orbits: B puzzles, S sizes, R restarts.

    `first` is the first segment after the kick with a right answer, 1-based, -1 for never; `final` whether
    the last answer is right; `answer` numbers the different last answers of a puzzle from 0 on, over all
    sizes; `displacement` is the distance to the orbit without kick after one segment, relative to its norm.
    """

    first: Int[np.ndarray, "B S R"]
    final: Bool[np.ndarray, "B S R"]
    answer: Int[np.ndarray, "B S R"]
    displacement: Float[np.ndarray, "B S R"]


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
    """Follow every puzzle from kicked starts, for a measurement.

    Args:
        system, ctx, z0, labels, sigmas, restarts, segments, seed, puzzle_index: as for `follow_kicks`.
    Returns:
        `basin_solved` (right at some segment), `basin_final` (right at the last) and
        `basin_displacement`, each over (puzzle, sigma, restart), as xarray variables.
    """
    found = follow_kicks(
        system,
        ctx,
        z0,
        labels,
        sigmas=sigmas,
        restarts=restarts,
        segments=segments,
        seed=seed,
        puzzle_index=puzzle_index,
    )
    dims = ("puzzle", "sigma", "restart")
    return {
        "basin_solved": (dims, found.first > 0),
        "basin_final": (dims, found.final),
        "basin_displacement": (dims, found.displacement),
    }


@torch.no_grad()
def follow_kicks(
    system: Any,
    ctx: Any,
    z: Any,
    labels: Int[Tensor, "B L"],
    *,
    sigmas: Sequence[float],
    restarts: int,
    segments: int,
    seed: int,
    puzzle_index: Int[np.ndarray, " B"],
    parts: Sequence[str] | None = None,
) -> Kicked:
    """Follow every puzzle from kicked copies of a state.

    Args:
        system: keeps the `RecursiveSystem` protocol.
        ctx: its context for B puzzles.
        z: the state that is kicked, of the start or of any segment.
        labels: expected tokens.
        sigmas: sizes of the kick, S.
        restarts: kicks of each size, R; the same noise, scaled, for every size.
        segments: length of each orbit.
        seed: of the noise.
        puzzle_index: number of each puzzle in the whole set.
        parts: fields of the latent to kick, such as ("z_H",); default all.
    """
    plain = system.segment(z, ctx)
    shape = (len(puzzle_index), len(sigmas), restarts)
    first, final = np.zeros(shape, int), np.zeros(shape, bool)
    moved, answers = np.zeros(shape, "f4"), np.zeros((*shape, labels.shape[1]), np.int16)
    for i, sigma in enumerate(sigmas):
        for r in range(restarts):
            start = kick(z, sigma, parts=parts, seed=seed, restart=r, puzzle_index=puzzle_index)
            right, answers[:, i, r], after = _run(system, ctx, start, labels, segments)
            first[:, i, r] = np.where(right.any(1), right.argmax(1) + 1, -1)
            final[:, i, r] = right[:, -1]
            moved[:, i, r] = (distance(after, plain) / norm(plain)).cpu().numpy()
    flat = answers.reshape(len(answers), -1, answers.shape[-1])
    numbers = [np.unique(of_one, axis=0, return_inverse=True)[1] for of_one in flat]
    return Kicked(first, final, np.reshape(numbers, shape).astype(int), moved)


def kick(
    z: Any,
    sigma: float,
    *,
    parts: Sequence[str] | None = None,
    seed: int,
    restart: int,
    puzzle_index: Int[np.ndarray, " B"],
) -> Any:
    """A latent moved by `perturbed_start`, whole or in the named parts only."""
    moved = perturbed_start(z, sigma, seed=seed, restart=restart, puzzle_index=puzzle_index)
    if parts is None:
        return moved
    fields = getattr(z, "_fields", ())
    wrong = [part for part in parts if part not in fields]
    if wrong or not parts:
        known = ", ".join(fields) or "none: it is one tensor"
        raise UserError(f"parts={list(parts)}: expected fields of the latent ({known}). Name some of them.")
    return z._replace(**{part: getattr(moved, part) for part in parts})


def _run(
    system: Any, ctx: Any, z: Any, labels: Int[Tensor, "B L"], segments: int
) -> tuple[Bool[np.ndarray, "B T"], Int[np.ndarray, "B L"], Any]:
    """Follow one restart: right after every segment, the last answer, and the state after the first."""
    exact, after, answer = [], z, labels
    for t in range(segments):
        z = system.segment(z, ctx)
        after = z if t == 0 else after
        answer = system.readout(z, ctx).logits.argmax(-1)
        exact.append(cells_right(answer, labels)[1])
    return torch.stack(exact, 1).cpu().numpy(), answer.cpu().numpy(), after
