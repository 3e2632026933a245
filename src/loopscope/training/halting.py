"""Carry slots: every row of a training batch is a slot that works on one puzzle until it halts.

An optimiser step is one segment. A slot that halted takes the next incoming puzzle and a fresh start;
the others keep theirs and ignore the incoming row, as in the official loop.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.config import ModelSettings
from loopscope.latent import batch_size, rows, tree_map, where
from loopscope.models import Readout, RecursiveModel
from loopscope.tasks.base import Batch


class Carry(NamedTuple):
    """State of the slots between optimiser steps.

    Attributes:
        z: latent, detached.
        steps: segments spent on the current puzzle, (B,) int32.
        halted: whether the slot takes a new puzzle next, (B,) bool.
        data: the puzzles the slots work on.
    """

    z: Any
    steps: Int[Tensor, " B"]
    halted: Bool[Tensor, " B"]
    data: Batch


@torch.no_grad()
def empty_carry(model: RecursiveModel, batch: Batch) -> Carry:
    """As many slots as `batch` has rows, all halted, so that the first step fills every one."""
    z = model.initial_state(model.encode(batch))
    steps = torch.zeros(len(batch.inputs), dtype=torch.int32, device=batch.inputs.device)
    return Carry(z, steps, torch.ones_like(steps, dtype=torch.bool), batch)


@torch.no_grad()
def refill(
    model: RecursiveModel,
    carry: Carry,
    incoming: Batch,
    generator: torch.Generator | None,
    share: slice = slice(None),
    num_slots: int = 0,
) -> Carry:
    """Give the halted slots the incoming puzzles and a fresh start.

    Args:
        model: gives the start; with `random_init` it is drawn from `generator` for every slot, halted
            or not, of all processes, so that what a slot gets does not depend on the others.
        carry: the slots of this process.
        incoming: one puzzle per slot; those of slots that go on are ignored.
        generator: source of the random starts.
        share: which of all slots are those of this process.
        num_slots: slots of all processes together; 0 when there is one.
    """
    size = num_slots or batch_size(incoming)
    # A start looks at the shapes of its context only, so one row stands for all.
    ctx = tree_map(lambda t: t[:1].expand(size, *t.shape[1:]), model.encode(rows(incoming, slice(1))))
    start = rows(model.initial_state(ctx, generator), share)
    return Carry(
        where(carry.halted, start, carry.z),
        carry.steps.masked_fill(carry.halted, 0),
        torch.zeros_like(carry.halted),
        where(carry.halted, incoming, carry.data),
    )


def exploration_steps(size: int, settings: ModelSettings, generator: torch.Generator) -> Int[Tensor, " B"]:
    """Minimum segments per slot: with the exploration probability uniform in 2..max, else 0.

    Drawn anew for every step, as officially: a slot that explores now may halt at the next segment.
    """
    if settings.halt_max_steps < 2:
        return torch.zeros(size, dtype=torch.int32, device=generator.device)
    device = generator.device
    explore = torch.rand(size, generator=generator, device=device) < settings.halt_exploration_prob
    minimum = torch.randint(2, settings.halt_max_steps + 1, (size,), generator=generator, device=device)
    return torch.where(explore, minimum, 0).to(torch.int32)


@torch.no_grad()
def halt(
    settings: ModelSettings, out: Readout, steps: Int[Tensor, " B"], min_steps: Int[Tensor, " B"]
) -> Bool[Tensor, " B"]:
    """Which slots halt after a segment: at the budget, or when the model says so and may."""
    last = steps >= settings.halt_max_steps
    threshold = torch.zeros_like(out.halt_logit) if settings.no_ACT_continue else out.continue_logit
    return last | ((out.halt_logit > threshold) & (steps >= min_steps))


@torch.no_grad()
def continue_target(model: RecursiveModel, z: Any, ctx: Any, steps: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Bootstrapped target of the continue head, in (0, 1): what the halting heads say one segment later."""
    out = model.readout(model.segment(z, ctx), ctx)
    last = steps >= model.settings.halt_max_steps
    return torch.sigmoid(torch.where(last, out.halt_logit, torch.maximum(out.halt_logit, out.continue_logit)))
