"""Gradient flossing: a loss on the finite-time Lyapunov exponents of one segment.

Tangents pushed through a segment, J Q = Q' R, grow by log |diag R| nats. That number is differentiable,
and holding it near zero keeps gradients along the orbit from exploding or vanishing. With a bound only
exponents above it count, and only those of slots whose answer is right: contraction around a wrong
answer would make it a fixed point. The orbit is cut at the segment, as in all of training.

Source: Engelken, "Gradient Flossing: Improving Gradient Descent through Dynamic Control of Jacobians"
(NeurIPS 2023, 2312.17306).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.func import jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from loopscope.config import TrainSettings
from loopscope.latent import flatten, leaves, tree_map, unflatten
from loopscope.models import RecursiveModel
from loopscope.models.noise import TANGENT, normal
from loopscope.tasks.base import IGNORE, Batch
from loopscope.training.halting import Carry


def flossed_slots(settings: TrainSettings, first: int, size: int) -> slice:
    """The slots of one process that are looked at: evenly spaced over the whole batch.

    Args:
        settings: how many, and the size of the whole batch.
        first: number of this process's first slot in the whole batch.
        size: slots of this process.
    """
    stride = settings.batch_size // settings.flossing_slots
    start = -first % stride
    wanted = settings.flossing_slots * stride - first  # where the batch is no multiple: leave out the rest
    return slice(start, max(start, min(size, wanted)), stride)


def flossing_loss(
    model: RecursiveModel, carry: Carry, keys: Int[Tensor, " B"], settings: TrainSettings
) -> Tensor:
    """The loss summed over slots and averaged over exponents, float64, with gradients for the weights.

    Always eager and in float32 or wider: tangents in bfloat16 tell nothing. The puzzle table is held.

    Args:
        model: the model.
        carry: the chosen slots, before their segment.
        keys: their noise keys, for the tangents.
        settings: how many exponents, and the bound.
    """
    with _derivable():
        ctx = tree_map(_wide, model.encode(carry.data))
        z = tree_map(lambda t: _wide(t).contiguous(), carry.z)
        Q = start_tangents(z, keys, settings.flossing_exponents)
        z, exponents = segment_exponents(lambda state: model.segment(state, ctx), z, Q)
    if settings.flossing_bound is None:
        return exponents.square().mean(1).sum()
    excess = (exponents - settings.flossing_bound).clamp(min=0).mean(1)
    return torch.where(_right(model, z, ctx, carry.data), excess, 0.0).sum()


@torch.no_grad()
def start_tangents(z: Any, keys: Int[Tensor, " B"], k: int) -> Float[Tensor, "B N k"]:
    """k random orthonormal tangents per row, in the dtype of the latent."""
    size = sum(part[0].numel() for part in leaves(z))
    draw = normal(keys, (TANGENT,), (k, size)).double().transpose(1, 2)
    factor = torch.linalg.cholesky_ex(draw.mT @ draw)[0]  # the plain form waits for the GPU to check
    Q = torch.linalg.solve_triangular(factor.mT, draw, upper=True, left=False)
    return Q.to(leaves(z)[0].dtype)


def segment_exponents(
    f: Callable[[Any], Any], z: Any, Q: Float[Tensor, "B N k"]
) -> tuple[Any, Float[Tensor, "B k"]]:
    """Image of a latent, and the growth log |diag R| of its tangents in nats, differentiable, float64.

    R is the Cholesky factor of the Gram matrix of J Q, whose columns are brought to unit length first.
    A row whose tangents have become dependent counts as growth 0, without gradient.
    """

    def along(column: Tensor) -> tuple[Any, Tensor]:
        pair = jvp(f, (z,), (unflatten(column, z),))
        return pair[0], flatten(pair[1])

    images, V = vmap(along, in_dims=2)(Q)
    V = V.movedim(0, 2).double()
    lengths = torch.linalg.vector_norm(V, dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    unit = V / lengths[:, None]
    gram = unit.mT @ unit
    usable = torch.linalg.cholesky_ex(gram.detach())[1] == 0
    instead = torch.eye(Q.shape[2], dtype=gram.dtype, device=gram.device)
    gram = torch.where(usable[:, None, None], gram, instead)
    diagonal = torch.linalg.cholesky_ex(gram)[0].diagonal(dim1=1, dim2=2)
    growth = torch.where(usable[:, None], lengths.log() + diagonal.log(), 0.0)
    return tree_map(lambda t: t[0], images), growth


@torch.no_grad()
def _right(model: RecursiveModel, z: Any, ctx: Any, data: Batch) -> Bool[Tensor, " B"]:
    assert data.labels is not None
    answer = model.readout(z, ctx).logits.argmax(-1)
    return ((answer == data.labels) | (data.labels == IGNORE)).all(1)


def _wide(t: Tensor) -> Tensor:
    return t.to(torch.promote_types(t.dtype, torch.float32))


@contextmanager
def _derivable() -> Iterator[None]:
    """Blocks run eager, with the attention kernel that has a forward derivative; fused ones have none."""
    with sdpa_kernel(SDPBackend.MATH), torch.compiler.set_stance("force_eager"):
        yield
