"""Helpers for latents: one tensor, or a (named) tuple of tensors, each with a leading batch axis.

They also serve contexts and batches, which have the same form. `None` passes through, for maps
without input.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

Tree = TypeVar("Tree")


def leaves(z: Any) -> list[Tensor]:
    """The tensors of `z`, in order."""
    if z is None:
        return []
    if isinstance(z, Tensor):
        return [z]
    return [leaf for part in z for leaf in leaves(part)]


def tree_map(f: Callable[..., Any], z: Tree, *others: Tree) -> Tree:
    """Apply `f` to matching tensors of one or several latents of the same form."""
    if z is None:
        return None  # type: ignore[return-value]
    if isinstance(z, Tensor):
        return f(z, *others)
    parts = [tree_map(f, *columns) for columns in zip(z, *others, strict=True)]  # type: ignore[call-overload]
    return type(z)(*parts) if hasattr(z, "_fields") else type(z)(parts)  # type: ignore[call-arg]


def rows(z: Tree, index: Any) -> Tree:
    """The given rows of the batch axis: a slice, an index tensor or a mask."""
    return tree_map(lambda t: t[index], z)


def where(mask: Tensor, a: Tree, b: Tree) -> Tree:
    """Row-wise choice: `a` where `mask` (B,) is true, else `b`."""
    return tree_map(lambda x, y: torch.where(mask.view(-1, *[1] * (x.ndim - 1)), x, y), a, b)


def concat(parts: Sequence[Tree]) -> Tree:
    """Join latents along the batch axis."""
    return tree_map(lambda *ts: torch.cat(ts), parts[0], *parts[1:])


def repeat(z: Tree, times: int) -> Tree:
    """Repeat every row `times` times, neighbours together: rows 0 0 0 1 1 1 ..."""
    return tree_map(lambda t: t.repeat_interleave(times, dim=0), z)


def flatten(z: Any) -> Tensor:
    """Latent to one matrix (B, N), parts side by side in order."""
    return torch.cat([t.flatten(1) for t in leaves(z)], dim=1)


def unflatten(flat: Tensor, like: Tree) -> Tree:
    """Inverse of `flatten`: (B, N) back to the form of `like` (whose batch size may differ)."""
    sizes = [t[0].numel() for t in leaves(like)]
    chunks = iter(flat.split(sizes, dim=1))
    return tree_map(lambda t: next(chunks).reshape(flat.shape[0], *t.shape[1:]), like)


def batch_size(z: Any) -> int:
    """Length of the leading axis."""
    return leaves(z)[0].shape[0]


def norm(z: Any) -> Tensor:
    """Euclidean norm over everything but the batch axis, (B,) float64."""
    return torch.stack([t.detach().double().flatten(1).square().sum(1) for t in leaves(z)]).sum(0).sqrt()


def distance(a: Any, b: Any) -> Tensor:
    """Euclidean distance of two latents of the same form, row by row, (B,) float64."""
    return norm(tree_map(lambda x, y: x.detach().double() - y.detach().double(), a, b))
