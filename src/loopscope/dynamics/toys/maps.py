"""Closed maps whose exponents are known exactly, or to many digits.

In float32 the logistic map at r = 4 collapses onto 0 within a few thousand steps; use float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor


class ToyReadout(NamedTuple):
    """The read-out of a toy: one cell with two values, wrong and right."""

    logits: Float[Tensor, "B L V"]
    halt_logit: Float[Tensor, " B"]


class Map:
    """A map without input: the batch holds the starts (B, N) in float64, None gives one start."""

    applications_per_segment = 1
    start: tuple[float, ...] = (0.3,)

    def encode(self, batch: Float[Tensor, "B N"] | None) -> Float[Tensor, "B N"]:
        return torch.tensor([self.start], dtype=torch.float64) if batch is None else batch

    def initial_state(self, ctx: Float[Tensor, "B N"]) -> Float[Tensor, "B N"]:
        return ctx

    def segment(self, z: Float[Tensor, "B N"], ctx: Any) -> Float[Tensor, "B N"]:
        raise NotImplementedError

    def readout(self, z: Float[Tensor, "B N"], ctx: Any) -> ToyReadout:
        """No cells: a map without input has no answer."""
        return ToyReadout(z.new_zeros(len(z), 0, 2), z.new_zeros(len(z)))


class LinearMap(Map):
    """z' = A z."""

    def __init__(self, matrix: Float[Tensor, "N N"]) -> None:
        self.matrix = matrix.double()
        self.start = (1.0,) * len(matrix)

    def segment(self, z: Float[Tensor, "B N"], ctx: Any) -> Float[Tensor, "B N"]:
        return z @ self.matrix.T


class MatrixProduct:
    """One segment multiplies by n matrices in turn; the batch holds them, (B, n, N, N)."""

    def __init__(self, num_matrices: int) -> None:
        self.applications_per_segment = num_matrices

    def encode(self, batch: Float[Tensor, "B n N N"]) -> Float[Tensor, "B n N N"]:
        return batch

    def initial_state(self, ctx: Float[Tensor, "B n N N"]) -> Float[Tensor, "B N"]:
        return torch.ones_like(ctx[:, 0, 0])

    def updates(self, ctx: Float[Tensor, "B n N N"]) -> list[Callable[[Tensor], Tensor]]:
        """One function per matrix."""
        return [lambda z, A=A: (A @ z[..., None])[..., 0] for A in ctx.unbind(1)]  # type: ignore[misc]

    def segment(self, z: Float[Tensor, "B N"], ctx: Float[Tensor, "B n N N"]) -> Float[Tensor, "B N"]:
        for update in self.updates(ctx):
            z = update(z)
        return z

    readout = Map.readout


class Logistic(Map):
    """x' = r x (1 - x)."""

    def __init__(self, r: float) -> None:
        self.r = r

    def segment(self, z: Float[Tensor, "B 1"], ctx: Any) -> Float[Tensor, "B 1"]:
        return self.r * z * (1 - z)


class Henon(Map):
    """(x, y)' = (1 - a x^2 + y, b x)."""

    start = (0.1, 0.1)

    def __init__(self, a: float = 1.4, b: float = 0.3) -> None:
        self.a, self.b = a, b

    def segment(self, z: Float[Tensor, "B 2"], ctx: Any) -> Float[Tensor, "B 2"]:
        x, y = z.unbind(1)
        return torch.stack((1 - self.a * x**2 + y, self.b * x), dim=1)


class CatMap(Map):
    """(x, y)' = (2x + y, x + y) mod 1; exponents +- ln((3 + sqrt 5) / 2)."""

    start = (0.1, 0.2)

    def segment(self, z: Float[Tensor, "B 2"], ctx: Any) -> Float[Tensor, "B 2"]:
        x, y = z.unbind(1)
        return torch.remainder(torch.stack((2 * x + y, x + y), dim=1), 1.0)


class TanhNet(Map):
    """x' = W tanh x, a random recurrent network."""

    def __init__(self, weights: Float[Tensor, "N N"]) -> None:
        self.weights = weights.double()
        self.start = (0.5,) * len(weights)

    def segment(self, z: Float[Tensor, "B N"], ctx: Any) -> Float[Tensor, "B N"]:
        return torch.tanh(z) @ self.weights.T


class LogisticRing(Map):
    """x_i' = (1 - e) f(x_i) + e/2 (f(x_{i-1}) + f(x_{i+1})), f the logistic map at r = 4, on a ring of N.

    Started in synchrony it stays there, equal inputs being rounded equally; then the exponents are
    ln 2 + ln |1 - e + e cos(2 pi j / N)|, j = 0..N-1.
    """

    def __init__(self, coupling: float = 0.7) -> None:
        self.coupling = coupling

    def segment(self, z: Float[Tensor, "B N"], ctx: Any) -> Float[Tensor, "B N"]:
        image = 4 * z * (1 - z)
        neighbours = image.roll(1, dims=1) + image.roll(-1, dims=1)
        return (1 - self.coupling) * image + 0.5 * self.coupling * neighbours


class Lorenz(Map):
    """The Lorenz flow (10, 28, 8/3): a segment is `steps` Runge-Kutta steps of .01, `time` units long."""

    start = (1.0, 1.0, 25.0)
    step = 0.01

    def __init__(self, steps: int = 10) -> None:
        self.applications_per_segment = steps

    @property
    def time(self) -> float:
        """Length of a segment; exponents per unit of time are those per segment divided by it."""
        return self.step * self.applications_per_segment

    def segment(self, z: Float[Tensor, "B 3"], ctx: Any) -> Float[Tensor, "B 3"]:
        h = self.step
        for _ in range(self.applications_per_segment):
            k1 = self.velocity(z)
            k2 = self.velocity(z + 0.5 * h * k1)
            k3 = self.velocity(z + 0.5 * h * k2)
            k4 = self.velocity(z + h * k3)
            z = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
        return z

    def velocity(self, z: Tensor) -> Tensor:
        """dz/dt, (B, 3)."""
        x, y, w = z.unbind(1)
        return torch.stack((10 * (y - x), x * (28 - w) - y, x * y - 8 / 3 * w), dim=1)
