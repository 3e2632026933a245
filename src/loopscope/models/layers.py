"""The building blocks of TRM and HRM, with the official initialisation and rounding.

Tensors run **sequence first**, (M, B, D): the token mixer is then one matrix product over the B*D
columns, the channel mixer one over the M*B rows, and nothing is transposed in between. Weights are
float32 masters, cast to the dtype of the input at each use, or once for many uses (`Linear.kept`).
Parameter names are the official ones.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

ALIGNED = 8  # numbers of 16 bits in the 16 bytes that a GPU loads at once


def trunc_normal(shape: tuple[int, ...], std: float, generator: torch.Generator | None = None) -> Tensor:
    """Normal numbers cut at two standard deviations, rescaled so that the *result* has `std`.

    torch's own `trunc_normal_` does not rescale. Returns float32 of the given shape, on the device of
    the generator.
    Source: JAX's `truncated_normal` initialiser, as the official code uses it.
    """
    if std == 0:
        return torch.zeros(shape)
    upper = math.erf(math.sqrt(2))
    density = math.exp(-2.0) / math.sqrt(2 * math.pi)  # standard normal density at 2
    scale = std / math.sqrt(1 - 4 * density / upper)
    device = None if generator is None else generator.device
    u = torch.empty(shape, device=device)
    if u.is_meta:  # only the shape is asked for, and torch would load two seconds of Python for the rest
        return u
    return (
        u.uniform_(-upper, upper, generator=generator)
        .erfinv_()
        .mul_(math.sqrt(2) * scale)
        .clip_(-2 * scale, 2 * scale)
    )


def rms_norm(x: Tensor, eps: float, dim: int = -1) -> Tensor:
    """x divided by its root mean square along `dim`, computed in float32, without a gain."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    return (wide * torch.rsqrt(wide.square().mean(dim, keepdim=True) + eps)).to(x.dtype)


def swiglu_width(n: int, expansion: float) -> int:
    """Inner width of a SwiGLU on n features: expansion * n * 2/3, rounded up to a multiple of 256."""
    return -(-round(expansion * n * 2 / 3) // 256) * 256


class Linear(nn.Module):
    """x W^T + b with W (out, in), truncated normal of std 1/sqrt(in); b, where there is one, zero."""

    def __init__(self, fan_in: int, fan_out: int, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(trunc_normal((fan_out, fan_in), fan_in**-0.5))
        self.bias = nn.Parameter(torch.zeros(fan_out)) if bias else None
        self.kept: Tensor | None = None  # the cast weight, while `RecursiveModel.casts_kept` lasts

    def forward(self, x: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(x.dtype)
        return F.linear(x, self.weight_in(x.dtype), bias)

    def weight_in(self, dtype: torch.dtype) -> Tensor:
        """The weight in the dtype of a product."""
        return self.cast(dtype) if self.kept is None or self.kept.dtype != dtype else self.kept

    def cast(self, dtype: torch.dtype) -> Tensor:
        """The weight in a dtype, in a layout that suits the device; equal numbers in any."""
        if self.weight.is_cuda and dtype.itemsize == 2 and self.weight.shape[1] % ALIGNED:
            return by_columns(self.weight, dtype)
        return self.weight.to(dtype)


def by_columns(weight: Float[Tensor, "out in"], dtype: torch.dtype) -> Float[Tensor, "out in"]:
    """A cast that lies in memory column by column.

    A token mixer has rows of 97 or 81 numbers, which begin at odd addresses; the tensor cores of a GPU
    load from multiples of 16 bytes. Its columns, as long as the inner width, begin there, and so do
    those of the gradient. Nothing is padded, and the other operand stays as it is.
    """
    return weight.t().to(dtype).contiguous().t()


class Embedding(nn.Module):
    """A table (rows, D), truncated normal of std 1/sqrt(D)."""

    def __init__(self, num_rows: int, width: int) -> None:
        super().__init__()
        self.embedding_weight = nn.Parameter(trunc_normal((num_rows, width), width**-0.5))

    def forward(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        return F.embedding(index, self.embedding_weight.to(dtype))


class SwiGLU(nn.Module):
    """W_down(silu(gate) * up) over the last axis, or over the first with `over_tokens`."""

    def __init__(self, width: int, expansion: float, over_tokens: bool = False) -> None:
        super().__init__()
        inner = swiglu_width(width, expansion)
        self.over_tokens = over_tokens
        self.gate_up_proj = Linear(width, 2 * inner)
        self.down_proj = Linear(inner, width)

    def forward(self, x: Float[Tensor, "M B D"]) -> Float[Tensor, "M B D"]:
        if not self.over_tokens:
            gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
            return self.down_proj(F.silu(gate) * up)
        columns = x.reshape(x.shape[0], -1)  # (M, B*D): a view, because the sequence comes first
        gate, up = (self.gate_up_proj.weight_in(x.dtype) @ columns).chunk(2, dim=0)
        return (self.down_proj.weight_in(x.dtype) @ (F.silu(gate) * up)).view(x.shape)


def rope_tables(num_tokens: int, head_dim: int, theta: float) -> tuple[Tensor, Tensor]:
    """Cosines and sines (num_tokens, head_dim) float32 of the rotary position encoding, on the CPU."""
    even = torch.arange(0, head_dim, 2, dtype=torch.float32, device="cpu")
    frequency = 1.0 / theta ** (even / head_dim)
    angle = torch.outer(torch.arange(num_tokens, dtype=torch.float32, device="cpu"), frequency)
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary encoding of x (..., M, head_dim), halves paired (not interleaved), in float32."""
    wide = x.to(cos.dtype)
    first, second = wide.chunk(2, dim=-1)
    return (wide * cos + torch.cat((-second, first), dim=-1) * sin).to(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention without mask, bias or dropout; one fused q, k, v projection."""

    def __init__(self, width: int, num_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.head_dim = num_heads, head_dim
        self.qkv_proj = Linear(width, 3 * num_heads * head_dim)
        self.o_proj = Linear(num_heads * head_dim, width)

    def forward(
        self, x: Float[Tensor, "M B D"], rope: tuple[Tensor, Tensor] | None
    ) -> Float[Tensor, "M B D"]:
        num_tokens, batch, _ = x.shape
        heads = self.qkv_proj(x).view(num_tokens, batch, 3, self.num_heads, self.head_dim)
        q, k, v = heads.permute(2, 1, 3, 0, 4)  # each (B, heads, M, head_dim)
        if rope is not None:
            q, k = rotate(q, *rope), rotate(k, *rope)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return self.o_proj(mixed.permute(2, 0, 1, 3).reshape(num_tokens, batch, -1))


class Block(nn.Module):
    """One post-norm layer: mix tokens (attention or SwiGLU over tokens), then mix channels."""

    def __init__(
        self,
        width: int,
        expansion: float,
        eps: float,
        *,
        mix_tokens: int = 0,
        num_heads: int = 0,
        head_dim: int = 0,
    ) -> None:
        super().__init__()
        self.eps = eps
        if mix_tokens:
            self.mlp_t = SwiGLU(mix_tokens, expansion, over_tokens=True)
        else:
            self.self_attn = Attention(width, num_heads, head_dim)
        self.mlp = SwiGLU(width, expansion)

    def forward(
        self, h: Float[Tensor, "M B D"], rope: tuple[Tensor, Tensor] | None
    ) -> Float[Tensor, "M B D"]:
        if hasattr(self, "mlp_t"):
            h = rms_norm(h + self.mlp_t(h), self.eps, dim=0)  # over tokens: the official code norms there
        else:
            h = rms_norm(h + self.self_attn(h, rope), self.eps)
        return rms_norm(h + self.mlp(h), self.eps)


class ReasoningModule(nn.Module):
    """The recursive block f(h, injection): add the injection, then the layers."""

    def __init__(self, layers: Sequence[nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(
        self,
        h: Float[Tensor, "M B D"],
        injection: Float[Tensor, "M B D"] | None,
        rope: tuple[Tensor, Tensor] | None,
    ) -> Float[Tensor, "M B D"]:
        h = h if injection is None else h + injection
        for layer in self.layers:
            h = layer(h, rope)
        return h


class PuzzleEmbedding(nn.Module):
    """The table of puzzle identifiers, (num_ids, ndim), zero at the start.

    A buffer, not a parameter: training updates only the rows of a batch (`training.optim.SignSGD`).
    """

    weights: Tensor

    def __init__(self, num_ids: int, ndim: int) -> None:
        super().__init__()
        self.register_buffer("weights", torch.zeros(num_ids, ndim))

    def forward(self, ids: Tensor) -> Tensor:
        return self.weights[ids]
