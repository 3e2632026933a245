"""Exponential moving average of the weights: what is evaluated and shipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class EMA:
    """Shadow of every *parameter* (buffers, the puzzle table among them, are not averaged)."""

    def __init__(self, model: nn.Module, rate: float) -> None:
        self.rate = rate
        self.model = model
        self.shadow = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """shadow <- rate * shadow + (1 - rate) * weights; call after every optimiser step."""
        params = [p.detach() for p in self.model.parameters()]
        shadow = list(self.shadow.values())
        torch._foreach_mul_(shadow, self.rate)
        torch._foreach_add_(shadow, params, alpha=1 - self.rate)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Within the block the model holds the averaged weights; the raw ones come back after it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, p in self.model.named_parameters():
            raw: Tensor = p.detach().clone()
            p.copy_(self.shadow[name])
            self.shadow[name].copy_(raw)
