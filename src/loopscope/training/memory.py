"""What a training run keeps in memory, counted without running it."""

from __future__ import annotations

import torch
from torch import Tensor

from loopscope.config import TrainSettings
from loopscope.latent import leaves
from loopscope.models import RecursiveModel
from loopscope.tasks import Batch


def state_bytes(model: RecursiveModel, t: TrainSettings) -> int:
    """Bytes that stay from step to step: weights, gradients, moments, averages, puzzle table, slots."""
    s = model.settings
    copies = 4 + t.ema  # weights, gradients, two moments; averages
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    latent = s.num_tokens * s.hidden_size * len(model.state_names) * model.dtype.itemsize
    puzzle = 2 * 8 * s.seq_len
    return copies * 4 * model.num_parameters + buffers + t.batch_size * (latent + puzzle)


def activation_bytes(model: RecursiveModel, rows: int, recompute: bool = False) -> int:
    """Bytes that the uncompiled training segment keeps for its backward pass, for `rows` puzzles.

    Counted without memory or time: a model on the meta device runs one segment, and every storage that
    autograd asks to keep is counted once. Compiled blocks keep less, since they compute pointwise
    results again.

    Args:
        model: on the meta device.
        rows: puzzles in a micro batch.
        recompute: with `activation_checkpointing`: the states between the updates of the tail, and what
            one of them keeps while it is computed again.
    """
    weights = {_storage(p) for p in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}  # holds the tensors, so that no storage is freed and counted anew

    def keep(t: Tensor) -> Tensor:
        if _storage(t) not in weights:
            kept[_storage(t)] = t
        return t

    s = model.settings
    inputs = torch.zeros(rows, s.seq_len, dtype=torch.int32, device="meta")
    batch = Batch(inputs, torch.zeros(rows, dtype=torch.int32, device="meta"))
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        ctx = model.encode(batch)
        z = model._latent([torch.zeros_like(ctx.x) for _ in model.state_names])
        out = model.readout(model.training_segment(z, ctx))
        assert leaves(out)[0].requires_grad
    total = sum(t.untyped_storage().nbytes() for t in kept.values())
    if not recompute:
        return total
    states = model.grad_tail * len(model.state_names) * ctx.x.numel() * ctx.x.element_size()
    return states + total // model.grad_tail


def _storage(t: Tensor) -> int:
    return t.untyped_storage()._cdata
