"""Noise that is a function of a key per row: no generator state, so no order in which to draw.

What a row gets depends neither on the other rows, nor on how a batch is split into micro batches or
over processes, nor on the device (up to the last digit of erfinv); and a recomputed update meets the
noise it met before. The words are those of SplitMix64 started at the key.

Source: Steele, Lea and Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014).
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor

Stream = tuple[int, ...]  # which noise of a row: its purpose, then numbers within that
CHOICE, KICK, TANGENT, UPDATE = range(4)  # the purposes


def _signed(n: int) -> int:
    """The signed number with the 64 lowest bits of `n`; torch has no other arithmetic on 64 bits."""
    return (n + 2**63) % 2**64 - 2**63


GOLDEN = _signed(0x9E3779B97F4A7C15)
FIRST, SECOND = _signed(0xBF58476D1CE4E5B9), _signed(0x94D049BB133111EB)


def draw_keys(size: int, generator: torch.Generator) -> Int[Tensor, " B"]:
    """A key for each of `size` rows, int64, on the device of the generator."""
    return torch.randint(-(2**62), 2**62, (size,), generator=generator, device=generator.device)


def normal(keys: Int[Tensor, " B"], stream: Stream, shape: tuple[int, ...]) -> Float[Tensor, "B ..."]:
    """Standard normal numbers (B, *shape), float32, on the device of the keys; none beyond 5.5.

    Args:
        keys: one per row.
        stream: rows with equal keys get equal numbers in one stream, independent ones in another.
        shape: of the numbers of a row.
    """
    size = math.prod(shape)
    counter = torch.arange(1, -(-size // 2) + 1, device=keys.device)
    words = mix(_start(keys, stream)[:, None] + GOLDEN * counter)
    halves = words.view(torch.int32)[:, :size] >> 8  # two numbers of 24 bits to a word
    return torch.erfinv((2 * halves + 1) * 2.0**-24).mul_(2**0.5).view(-1, *shape)


def uniform(keys: Int[Tensor, " B"], stream: Stream) -> Float[Tensor, " B"]:
    """One number per row, evenly spread over [0, 1), float32."""
    return ((mix(_start(keys, stream) + GOLDEN) >> 40) + 2**23) * 2.0**-24


def mix(x: Int[Tensor, "..."]) -> Int[Tensor, "..."]:
    """The output function of SplitMix64, element by element on int64 bit patterns."""
    x = (x ^ _shift(x, 30)) * FIRST
    x = (x ^ _shift(x, 27)) * SECOND
    return x ^ _shift(x, 31)


def _start(keys: Tensor, stream: Stream) -> Tensor:
    for number in stream:
        keys = mix(keys + _signed(GOLDEN * (number + 1)))
    return keys


def _shift(x: Tensor, bits: int) -> Tensor:
    """Shift right and fill with zeros; torch's own shift repeats the sign."""
    return (x >> bits) & (2 ** (64 - bits) - 1)
