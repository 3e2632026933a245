"""Exponential moving average of the weights: what is evaluated and shipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


class EMA:
    """Shadow of every *parameter* (buffers, the puzzle table among them, are not averaged).

    Attributes:
        shadow: the averaged weights by name.
    """

    def __init__(self, model: nn.Module, rate: float) -> None:
        self.rate = rate
        self.weights = dict(model.named_parameters())
        self.shadow = {name: p.detach().clone() for name, p in self.weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """shadow <- rate * shadow + (1 - rate) * weights; call after every optimiser step."""
        shadow = [self.shadow[name] for name in self.weights]
        torch._foreach_mul_(shadow, self.rate)
        torch._foreach_add_(shadow, list(self.weights.values()), alpha=1 - self.rate)

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
        for name, weight in self.weights.items():
            raw = weight.detach().clone()
            weight.copy_(self.shadow[name])
            self.shadow[name].copy_(raw)
