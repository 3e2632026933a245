"""Measure a network that is not ours: four methods make it a system.

python examples/my_reasoner.py
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

import loopscope as ls
from loopscope.dynamics.system import check_system, require


class Readout(NamedTuple):
    logits: Tensor
    halt_logit: Tensor


class MyReasoner(nn.Module):
    """One GRU cell that looks at the whole board again and again."""

    applications_per_segment = 1

    def __init__(self, cells: int = 81, tokens: int = 11, width: int = 64) -> None:
        super().__init__()
        self.look, self.cell = nn.Linear(cells * tokens, width), nn.GRUCell(width, width)
        self.answer, self.tokens = nn.Linear(width, cells * tokens), tokens

    def encode(self, batch: ls.Batch) -> Tensor:
        return self.look(nn.functional.one_hot(batch.inputs.long(), self.tokens).float().flatten(1))

    def initial_state(self, ctx: Tensor) -> Tensor:
        return torch.zeros_like(ctx)

    def segment(self, z: Tensor, ctx: Tensor) -> Tensor:
        return self.cell(ctx, z)

    def readout(self, z: Tensor, ctx: Tensor) -> Readout:
        return Readout(self.answer(z).unflatten(1, (-1, self.tokens)), z[:, 0])


def main() -> None:
    torch.manual_seed(0)
    mine, puzzles = MyReasoner(), ls.read_puzzles("sudoku9-demo", limit=8)
    require(check_system(mine, puzzles.batch()))  # pure, no detach, tangents equal differences
    table = ls.lyapunov_spectrum(mine, puzzles.batch(), segments=32, exponents=3)
    print("exponents, nats per segment:", table.ftle.mean("puzzle").values.round(3))
    runs = ls.measure(mine, puzzles, segments=32, exponents=3)
    print(
        "late drift:",
        float(runs.drift[:, -1].mean()),
        "solved:",
        int(runs.solved[:, -1].sum()),
        "of",
        runs.attrs["n"],
    )


if __name__ == "__main__":
    main()
