"""Small systems that several test files run: a random TRM, and a map whose every number is known."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from loopscope.config import ModelSettings
from loopscope.models import RecursiveModel, build_model
from loopscope.tasks import PuzzleSet, Sudoku
from loopscope.tasks.sudoku.generate import generate

BOARD = Sudoku(2, 2)


def tiny_puzzles(count: int = 10, givens: int = 6) -> PuzzleSet:
    """Sudoku puzzles of 4x4 cells."""
    return generate(BOARD, count, givens, np.random.default_rng(0))


def tiny_model(arch: str = "trm", **settings: Any) -> RecursiveModel:
    """A random model for them, heads included; 24,802 parameters, 4 segments of training budget."""
    given = {
        "seq_len": 16,
        "vocab_size": 6,
        "hidden_size": 16,
        "num_heads": 2,
        "L_layers": 1,
        "H_layers": 1,
        "H_cycles": 2,
        "L_cycles": 2,
        "mlp_t": True,
        "pos_encodings": "none",
        "halt_max_steps": 4,
        "forward_dtype": "float32",
    }
    model = build_model(ModelSettings(arch=arch, **(given | settings)), seed=0)
    torch.nn.init.normal_(model.q_head.weight, generator=torch.Generator().manual_seed(0))
    return model


class Readout(NamedTuple):
    logits: Tensor
    halt_logit: Tensor


class Pair(NamedTuple):
    z_H: Tensor
    z_L: Tensor


class Approach:
    """z' = target + rate (z - target) from z = 0, the target being the solution tokens themselves.

    The answer is z rounded: a puzzle with largest token m is solved once rate^t m < 1/2. All exponents
    are ln rate. With two rates the latent has two parts, of which z_H is read.
    """

    applications_per_segment = 1

    def __init__(self, *rates: float) -> None:
        self.rates = rates

    def encode(self, batch: Any) -> Tensor:
        return batch.labels.clamp(min=0).double()

    def initial_state(self, ctx: Tensor) -> Any:
        start = torch.zeros_like(ctx)
        return start if len(self.rates) == 1 else Pair(start, start.clone())

    def segment(self, z: Any, ctx: Tensor) -> Any:
        parts = [ctx + rate * (part - ctx) for part, rate in zip(self.parts(z), self.rates, strict=True)]
        return parts[0] if len(parts) == 1 else Pair(*parts)

    def readout(self, z: Any, ctx: Tensor) -> Readout:
        z = self.parts(z)[0]
        logits = -((torch.arange(6.0) - z[..., None]) ** 2)
        return Readout(logits, z[:, 0] - 2.5)

    def parts(self, z: Any) -> list[Tensor]:
        return [z] if isinstance(z, Tensor) else list(z)
