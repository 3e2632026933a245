"""Noise on the latents of the slots: perturbed starts, and kicks to what a slot carries on.

Trajectory augmentation leaves the puzzle and its answer as they are and moves the start, z0 + eps, so
that the model learns to solve from a neighbourhood of it. A share of clean starts can stay among them: the
loss is then in the mean that of clean and perturbed copies of every puzzle, without running the copies.
Kicks to what is carried on reach orbits that are under way, with `carry_noise_from` only late ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from loopscope.config import TrainSettings
from loopscope.errors import UserError
from loopscope.latent import leaves
from loopscope.models.noise import CHOICE, KICK, normal, uniform
from loopscope.training.halting import Carry


def check_parts(settings: TrainSettings, state_names: Sequence[str]) -> None:
    """Insist that the model has the part that the noise shall move.

    Raises:
        UserError: it has not.
    """
    if settings.noise_on not in ("both", *state_names) and (settings.start_noise or settings.carry_noise):
        raise UserError(
            f"train.noise_on={settings.noise_on}, but this model's latent is {' and '.join(state_names)}. "
            "Set train.noise_on=both."
        )


def start_sigma(settings: TrainSettings, step: int) -> float:
    """Standard deviation of the noise on starts at a step (0-based), after its schedule."""
    if settings.start_noise_schedule == "constant":
        return settings.start_noise
    done = min(1.0, step / settings.start_noise_steps)
    return settings.start_noise * (done if settings.start_noise_schedule == "rise" else 1 - done)


@torch.no_grad()
def perturb(
    carry: Carry, keys: Int[Tensor, " B"], settings: TrainSettings, step: int, state_names: Sequence[str]
) -> Carry:
    """Move the latents of some slots: fresh starts by `start_noise`, the others by `carry_noise`.

    Args:
        carry: all slots, after the halted ones were refilled; a slot is fresh where `steps` is 0.
        keys: noise keys of the slots.
        settings: which noise, how much and how often.
        step: optimiser steps done.
        state_names: names of the parts of the latent, in order.
    """
    if not (settings.start_noise or settings.carry_noise):
        return carry
    sigma = _sigmas(carry, keys, settings, step)
    parts = []
    for i, (name, part) in enumerate(zip(state_names, leaves(carry.z), strict=True)):
        if settings.noise_on in ("both", name):
            noise = normal(keys, (KICK, i), tuple(part.shape[1:]))
            part = part + (sigma.view(-1, *[1] * (part.ndim - 1)) * noise).to(part.dtype)
        parts.append(part)
    return carry._replace(z=parts[0] if isinstance(carry.z, Tensor) else type(carry.z)(*parts))


def _sigmas(carry: Carry, keys: Tensor, settings: TrainSettings, step: int) -> Float[Tensor, " B"]:
    """Standard deviation of the noise of every slot, zero where it gets none."""
    draw = uniform(keys, (CHOICE,))
    start = (draw < settings.start_noise_share) * start_sigma(settings, step)
    if settings.start_noise_least:
        start = start * settings.start_noise_least ** uniform(keys, (CHOICE, 0))
    late = carry.steps >= settings.carry_noise_from
    kick = (late & (draw < settings.carry_noise_prob)) * settings.carry_noise
    return torch.where(carry.steps == 0, start, kick)
