"""What a training run keeps in memory, counted without running it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from loopscope.config import ModelSettings, TrainSettings
from loopscope.latent import leaves
from loopscope.models import RecursiveModel, build_model
from loopscope.tasks import Batch
from loopscope.training.optim import make_optimizers


def state_bytes(model: RecursiveModel, t: TrainSettings) -> int:
    """Bytes that stay from step to step: weights, gradients, moments, averages, puzzle table, slots."""
    s = model.settings
    copies = (1 + t.ema) * model.num_parameters
    for optimizer in make_optimizers(model, t):  # gradients; two moments, of Muon one
        trained = sum(p.numel() for group in optimizer.param_groups for p in group["params"])
        copies += (2 if type(optimizer).__name__ == "Muon" else 3) * trained
    buffers = sum(b.numel() * b.element_size() for b in model.buffers())
    latent = s.num_tokens * s.hidden_size * len(model.state_names) * model.dtype.itemsize
    puzzle = 2 * 8 * s.seq_len
    return 4 * copies + buffers + t.batch_size * (latent + puzzle)


def activation_bytes(settings: ModelSettings, rows: int, recompute: bool = False) -> int:
    """Bytes that the uncompiled training segment keeps for its backward pass, for `rows` puzzles.

    Counted without memory or time: a model of fake tensors runs one segment, and every storage that
    autograd asks to keep is counted once. Compiled blocks keep less, since they compute pointwise
    results again. (On the meta device attention would keep its score matrix, which no real one does.)

    Args:
        settings: sizes filled in.
        rows: puzzles in a micro batch.
        recompute: with `activation_checkpointing`: the states between the updates of the tail, and what
            one of them keeps while it is computed again.
    """
    kept: dict[int, Tensor] = {}  # holds the tensors, so that no storage is freed and counted anew

    def keep(t: Tensor) -> Tensor:
        if _storage(t) not in weights:
            kept[_storage(t)] = t
        return t

    with FakeTensorMode(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        model = build_model(settings)
        weights = {_storage(p) for p in (*model.parameters(), *model.buffers())}
        batch = Batch(
            torch.zeros(rows, settings.seq_len, dtype=torch.int32), torch.zeros(rows, dtype=torch.int32)
        )
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
