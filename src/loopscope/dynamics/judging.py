"""Outcomes of a network's orbit, for the tools that ask what a state has become.

Edge tracking, final-state sensitivity, sprinkler and stagger-and-step take a function of latent and
context. They cut and drop rows, so it must not hold the labels of a whole set: here the expected answer
travels in the context.

    system = judged(model)
    sprinkler(system, batch, system.unsolved, segments=12)
    edge_track(system, batch, first, second, system.solved, horizon=16, segments=8)
    final_state_sensitivity(system, batch, system.answer, sizes=[0.01, 0.1], segments=16)
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from loopscope.dynamics.interventions import Carrying, With
from loopscope.errors import UserError
from loopscope.evaluation.metrics import cells_right


class Judged(Carrying):
    """A system whose context holds the expected answer; its orbits are those of the system inside."""

    def __init__(self, system: Any) -> None:
        super().__init__(system, "judged")

    def encode(self, batch: Any) -> With:
        if getattr(batch, "labels", None) is None:
            raise UserError("judged: the batch has no labels. Use puzzles with answers.")
        return With(self.inside.encode(batch), batch.labels)

    def solved(self, z: Any, ctx: With) -> Int[Tensor, " B"]:
        """1 where every cell is right, else 0."""
        return cells_right(self._tokens(z, ctx), ctx.more)[1].long()

    def unsolved(self, z: Any, ctx: With) -> Bool[Tensor, " B"]:
        """Whether some cell is wrong: what "alive" means for a search."""
        return self.solved(z, ctx) == 0

    def answer(self, z: Any, ctx: With) -> Int[Tensor, " B"]:
        """A number for the decoded answer: a hash of 64 bits, equal for equal answers."""
        tokens = self._tokens(z, ctx)
        # a polynomial with an odd base, modulo 2^64, as integers wrap
        powers = torch.full_like(tokens[0], 6364136223846793005).cumprod(0)
        return ((tokens + 1) * powers).sum(1)

    def _tokens(self, z: Any, ctx: With) -> Int[Tensor, "B L"]:
        return self.inside.readout(z, ctx.ctx).logits.argmax(-1)


def judged(system: Any) -> Judged:
    """The same system with outcomes `solved`, `unsolved` and `answer`; `encode` needs labels."""
    return Judged(system)
