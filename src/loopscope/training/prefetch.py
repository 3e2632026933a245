"""Batches made ready in the background while the model works on those before."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from loopscope.latent import tree_map
from loopscope.tasks.base import Batch


class Prefetch:
    """The batches of a stream, the next ones drawn by one thread ahead of time.

    A batch is a function of its step, so drawing early changes nothing, and what was drawn in vain is
    dropped. For a GPU the batches wait in pinned memory and are copied without the loop waiting.

    Args:
        draw: step -> batch on the CPU; called by one thread, step after step.
        stop: number of batches there are; none is drawn beyond.
        device: where the batches go.
        ahead: how many to keep ready.
    """

    def __init__(self, draw: Callable[[int], Batch], stop: int, device: torch.device, ahead: int = 2) -> None:
        self._draw, self._stop, self._device, self._ahead = draw, stop, device, ahead
        self._thread = ThreadPoolExecutor(1, "batches")
        self._ready: dict[int, Future[Batch]] = {}

    def batch(self, step: int) -> Batch:
        """Batch `step` on the device, and the order to draw those after it."""
        wanted = range(step, max(step + 1, min(step + 1 + self._ahead, self._stop)))
        self._ready = {n: self._ready.get(n) or self._thread.submit(self._prepare, n) for n in wanted}
        return self._ready.pop(step).result().to(self._device)

    def _prepare(self, step: int) -> Batch:
        batch = self._draw(step)
        return tree_map(Tensor.pin_memory, batch) if self._device.type == "cuda" else batch
