"""The derivative of a model's updates, written by hand: all tangents of a batch in the same matrix products.

What is unusual: `vmap(jvp)` pushes k tangents through every operation of the model, half of it pointwise
work on temporaries. Here a state travels as a `Dual`, its value (M, B, D) beside k tangents
(M, k, B, D); a linear map takes all tangents in one product, and the derivatives of silu, norm and
softmax are formed once from the value and applied to all tangents. The value goes through the very
operations of `models.layers`, so the orbit is the one of `segment`, bit for bit.

The schedules of `models.trm`, `hrm` and `transformer` are repeated here, in `_update`. A variant with an
`update` or a layer of its own is not `KNOWN`; it is left to `vmap(jvp)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from loopscope.latent import leaves, tree_map
from loopscope.models.equivariant import EquivariantBlock, EquivariantTRM
from loopscope.models.hrm import HRM
from loopscope.models.layers import Attention, Block, ReasoningModule, SwiGLU, rms_norm, rotate
from loopscope.models.recursion import Context, RecursiveModel
from loopscope.models.transformer import Transformer
from loopscope.models.trm import TRM, SingleZTRM

KNOWN = {model: model.update for model in (TRM, SingleZTRM, HRM, Transformer, EquivariantTRM)}
AT_ONCE = 300  # token tangents in one SwiGLU of nodes: 2 MB of gates at 9 x 32, about a cache


@dataclass(frozen=True, eq=False)
class Dual:
    """A state and its tangents, sequence first; D is (n, C) inside a block of nodes."""

    value: Float[Tensor, "M B *D"]
    tangents: Float[Tensor, "M k B *D"]

    def __add__(self, other: Dual | Tensor) -> Dual:
        if isinstance(other, Tensor):  # the input: constant along the orbit
            return Dual(self.value + other, self.tangents)
        return Dual(self.value + other.value, self.tangents + other.tangents)


def stacks_tangents(system: Any) -> bool:
    """Whether `stacked_updates` holds for this system: one of our models, with nothing replaced."""
    kind = type(system)
    return kind in KNOWN and kind.update is KNOWN[kind] and all(map(_known_module, system.modules()))


def stacked_updates(model: RecursiveModel, ctx: Context) -> list[Stacked]:
    """The updates of one segment, in order, each with its derivative.

    Args:
        model: one for which `stacks_tangents` holds, computing in float32 or float64.
        ctx: the encoded puzzles.
    """
    x = ctx.x.transpose(0, 1)
    return [Stacked(model, (place,), x) for place in range(len(model.schedule))]


def stacked_segment(model: RecursiveModel, ctx: Context) -> Stacked:
    """One whole segment with its derivative; arguments as in `stacked_updates`."""
    return Stacked(model, range(len(model.schedule)), ctx.x.transpose(0, 1))


@dataclass(frozen=True, eq=False)
class Stacked:
    """Some updates of a model as a function of public latents (batch first) that can push tangents."""

    model: RecursiveModel
    places: Sequence[int]
    x: Float[Tensor, "M B D"]

    def __call__(self, z: Any) -> Any:
        """The image of a latent."""
        return _swap(self.model._fold(self.places, tree_map(_sequence_first, z), self.x))

    def push(self, z: Any, Q: Float[Tensor, "B N k"]) -> tuple[Any, Float[Tensor, "B N k"]]:
        """The image of a latent and of its tangents, (f(z), J_f(z) Q)."""
        values = [_sequence_first(t) for t in leaves(z)]
        duals = [Dual(v, t) for v, t in zip(values, _unpack(Q, values), strict=True)]
        for place in self.places:
            duals = _advance(self.model, place, duals, self.x)
        image = self.model._latent([dual.value.transpose(0, 1) for dual in duals])
        return image, _pack([dual.tangents for dual in duals])


# -- the layers of `models.layers`, on duals


def reasoning(
    module: ReasoningModule, h: Dual, injection: Dual | Tensor | None, rope: tuple[Tensor, Tensor] | None
) -> Dual:
    """`ReasoningModule.forward`."""
    h = h if injection is None else h + injection
    for layer in module.layers:
        h = nodes_block(layer, h) if isinstance(layer, EquivariantBlock) else block(layer, h, rope)  # type: ignore[arg-type]
    return h


def block(layer: Block, h: Dual, rope: tuple[Tensor, Tensor] | None) -> Dual:
    """`Block.forward`."""
    if hasattr(layer, "mlp_t"):
        h = norm_of_sum(h, swiglu(layer.mlp_t, h), layer.eps, dim=0)
    else:
        h = norm_of_sum(h, attention(layer.self_attn, h, rope), layer.eps, dim=-1)
    return norm_of_sum(h, swiglu(layer.mlp, h), layer.eps, dim=-1)


def nodes_block(layer: EquivariantBlock, h: Dual) -> Dual:
    """`EquivariantBlock.forward`; its sums and maps are linear, so tangents are more columns to them."""
    mixed = layer.mix(h.tangents.flatten(1, 2)).unflatten(1, h.tangents.shape[1:3])
    nodes = norm(Dual(layer.mix(h.value), mixed), layer.eps, dim=-1)
    out = norm_of_sum(nodes, swiglu_of_nodes(layer, nodes), layer.eps, dim=-1)
    return Dual(out.value.flatten(2), out.tangents.flatten(3))


def swiglu_of_nodes(layer: EquivariantBlock, h: Dual) -> Dual:
    """`swiglu` on (..., n, C); tangents of a few tokens at a time, for the cache."""
    gate, up = layer.gate_up_proj(h.value).chunk(2, dim=-1)
    active, slope = F.silu(gate), torch.ops.aten.silu_backward(up, gate)
    few = max(1, AT_ONCE // h.tangents[0, :, :, 0, 0].numel())
    parts = []
    for t, a, s in zip(
        h.tangents.split(few), active[:, None].split(few), slope[:, None].split(few), strict=True
    ):
        dgate, dup = layer.gate_up_proj(t).chunk(2, dim=-1)
        parts.append(layer.down_proj((dup * a).addcmul_(dgate, s)))
    return Dual(layer.down_proj(active * up), torch.cat(parts))


def norm_of_sum(h: Dual, branch: Dual, eps: float, dim: int) -> Dual:
    """rms_norm(h + branch); the tangents of `branch` are used up."""
    return norm(Dual(h.value + branch.value, branch.tangents.add_(h.tangents)), eps, dim)


def norm(x: Dual, eps: float, dim: int) -> Dual:
    """rms_norm(x); the tangents of x are used up.

    With y = x r, r = 1 / rms(x): dy = r (dx - y mean(y dx)), so what is along the token is lost.
    """
    y = rms_norm(x.value, eps, dim)
    r = torch.rsqrt(x.value.square().mean(dim, keepdim=True) + eps)
    over, dx, y_k = dim if dim < 0 else 0, x.tangents, y[:, None]
    along = (dx * y_k).mean(over, keepdim=True)
    return Dual(y, dx.addcmul_(along, y_k, value=-1).mul_(r[:, None]))


def swiglu(f: SwiGLU, h: Dual) -> Dual:
    """`SwiGLU.forward`: d(silu(g) u) = silu(g) du + u silu'(g) dg."""
    if f.over_tokens:
        first, second = (layer.weight_in(h.value.dtype) for layer in (f.gate_up_proj, f.down_proj))
        M, k, B, D = h.tangents.shape
        value, tangents = h.value.reshape(M, B * D), h.tangents.reshape(M, k * B * D)
        gate, up = (first @ value).chunk(2, dim=0)
        dgate, dup = (first @ tangents).view(-1, k, B * D).chunk(2, dim=0)
    else:
        gate, up = f.gate_up_proj(h.value).chunk(2, dim=-1)
        dgate, dup = f.gate_up_proj(h.tangents).chunk(2, dim=-1)
    active = F.silu(gate)
    slope = torch.ops.aten.silu_backward(up, gate)  # up * silu'(gate)
    inner = (dup * active[:, None]).addcmul_(dgate, slope[:, None])
    if f.over_tokens:
        return Dual(
            (second @ (active * up)).view(h.value.shape),
            (second @ inner.view(len(inner), -1)).view(h.tangents.shape),
        )
    return Dual(f.down_proj(active * up), f.down_proj(inner))


def attention(f: Attention, h: Dual, rope: tuple[Tensor, Tensor] | None) -> Dual:
    """`Attention.forward`; one tangent after the other in the small products between tokens."""
    q, k, v = _heads(f, h.value, rope)
    scale = f.head_dim**-0.5
    weights = (q * scale @ k.mT).softmax(-1)
    dq, dk, dv = _heads(f, h.tangents, rope)
    mixed = torch.empty_like(dv)
    for i in range(len(mixed)):
        scores = (dq[i] @ k.mT + q @ dk[i].mT) * scale
        # the Jacobian of softmax is symmetric: its backward pass is its forward derivative too
        dweights = torch.ops.aten._softmax_backward_data(scores, weights, -1, scores.dtype)
        mixed[i] = dweights @ v + weights @ dv[i]
    value = F.scaled_dot_product_attention(q, k, v)
    return Dual(_join(f, value), _join(f, mixed))


def _heads(f: Attention, x: Tensor, rope: tuple[Tensor, Tensor] | None) -> list[Tensor]:
    """Queries, keys and values (..., B, heads, M, head_dim) of x (M, ..., B, D)."""
    heads = f.qkv_proj(x).unflatten(-1, (3, f.num_heads, f.head_dim))
    q, k, v = heads.movedim((-3, 0), (0, -2)).unbind(0)
    return [q, k, v] if rope is None else [rotate(q, *rope), rotate(k, *rope), v]


def _join(f: Attention, mixed: Tensor) -> Tensor:
    """The inverse of `_heads` and the output projection."""
    return f.o_proj(mixed.movedim(-2, 0).flatten(-2))


# -- plumbing


def _advance(model: RecursiveModel, place: int, duals: list[Dual], x: Tensor) -> list[Dual]:
    """`RecursiveModel._advance` on duals, without noise: one update, damped."""
    new, damping = _update(model, model.schedule[place], duals, x), model.settings.damping
    if damping == 1:
        return new
    return [a if a is b else _lerp(a, b, damping) for a, b in zip(duals, new, strict=True)]


def _update(model: Any, which: str, z: list[Dual], x: Tensor) -> list[Dual]:
    """The `update` of the `KNOWN` models on duals."""
    if isinstance(model, Transformer):
        return [reasoning(model.H_level, z[0], x, model.rope)]
    if isinstance(model, SingleZTRM):
        return [reasoning(model.L_level, z[0], x if which == "L" else None, model.rope)]
    z_H, z_L = z
    if which == "L":
        return [z_H, reasoning(model.L_level, z_L, z_H + x, model.rope)]
    slow = model.H_level if isinstance(model, HRM) else model.L_level
    return [reasoning(slow, z_H, z_L, model.rope), z_L]


def _lerp(old: Dual, new: Dual, damping: float) -> Dual:
    return Dual(torch.lerp(old.value, new.value, damping), torch.lerp(old.tangents, new.tangents, damping))


def _known_module(module: nn.Module) -> bool:
    """Not a variant of the layers that are written out here."""
    ours = (ReasoningModule, Block, EquivariantBlock, SwiGLU, Attention)
    return not isinstance(module, ours) or type(module) in ours


def _sequence_first(t: Tensor) -> Tensor:
    return t.transpose(0, 1).contiguous()


def _swap(z: Any) -> Any:
    return tree_map(lambda t: t.transpose(0, 1), z)


def _unpack(Q: Tensor, values: list[Tensor]) -> list[Tensor]:
    """Columns (B, N, k) as tangents (M, k, B, D) of every part."""
    sizes = [v.shape[0] * v.shape[2] for v in values]
    parts = zip(Q.mT.split(sizes, dim=2), values, strict=True)
    return [t.unflatten(2, (v.shape[0], v.shape[2])).permute(2, 1, 0, 3).contiguous() for t, v in parts]


def _pack(tangents: list[Tensor]) -> Tensor:
    """The inverse of `_unpack`; each column lies together in memory."""
    return torch.cat([t.permute(2, 1, 0, 3).flatten(2) for t in tangents], dim=2).mT


__all__ = ["Dual", "Stacked", "stacked_segment", "stacked_updates", "stacks_tangents"]
