"""The one interface of all measurement, and the checks that a new adapter must pass first.

A recursive reasoner is a map on a latent, repeated. Whatever offers `encode`, `initial_state`,
`segment` and `readout` can be measured. What goes wrong most often is silent: a `detach()` inside the
map leaves its values right and its tangents zero. `check_system` compares tangents with differences.
(A `no_grad()` inside does no harm: forward mode goes through it.)
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from loopscope.errors import UserError
from loopscope.latent import batch_size, flatten, leaves, rows, tree_map


@runtime_checkable
class RecursiveSystem(Protocol):
    """A map on a latent, with its input and its read-out; no inheritance needed.

    A latent is one tensor or a NamedTuple of tensors, each with a leading batch axis; a context has
    the same form, or is None for a map without input. A system may also offer
    `updates(ctx) -> list of functions latent -> latent`, whose composition is `segment`.
    """

    @property
    def applications_per_segment(self) -> int:
        """Module evaluations in one segment."""
        ...

    def encode(self, batch: Any) -> Any:
        """The injected input, constant along the orbit."""
        ...

    def initial_state(self, ctx: Any) -> Any:
        """The start of the orbit."""
        ...

    def segment(self, z: Any, ctx: Any) -> Any:
        """The map: pure, deterministic, nothing detached."""
        ...

    def readout(self, z: Any, ctx: Any) -> Any:
        """`logits` (B, L, V) and `halt_logit` (B,). Exponents do not need it."""
        ...


@dataclass(frozen=True)
class Check:
    """One comparison of an obtained number with an expected one.

    Attributes:
        name: what was compared.
        expected, obtained: the two numbers.
        tolerance: allowed distance; absolute.
        passed: whether it held.
        hint: for a failed check, one line that names the next move.
    """

    name: str
    expected: float
    obtained: float
    tolerance: float
    passed: bool
    hint: str = ""

    def __str__(self) -> str:
        verdict = "ok  " if self.passed else "FAIL"
        numbers = f"{self.obtained:.6g}, expected {self.expected:.6g} +- {self.tolerance:.2g}"
        return f"{verdict} {self.name}: {numbers}" + (f". {self.hint}" if self.hint else "")


def compare(name: str, expected: float, obtained: float, tolerance: float, hint: str = "") -> Check:
    """A check that passes when the two numbers are within `tolerance`; NaN never passes."""
    passed = bool(abs(obtained - expected) <= tolerance)
    return Check(name, float(expected), float(obtained), tolerance, passed, "" if passed else hint)


@contextmanager
def exact_arithmetic(device: torch.device | str = "cpu") -> Iterator[None]:
    """How every measurement computes: math attention, no autocast, no TF32, no autograd graph.

    The fused attention kernels have no forward derivative, and TF32 would give tangents of 10 bits.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.no_grad(),
            sdpa_kernel(SDPBackend.MATH),
            torch.autocast(torch.device(device).type, enabled=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def own_memory(z: Any) -> Any:
    """The latent with every number in a place of its own, as forward mode needs.

    Starts are often one vector expanded over batch and tokens; other layouts are left as they are.
    """

    def shares(t: Tensor) -> bool:
        return any(step == 0 and size > 1 for step, size in zip(t.stride(), t.shape, strict=True))

    return tree_map(lambda t: t.contiguous() if shares(t) else t, z)


def in_float64(system: Any, batch: Any) -> Any:
    """A float64 copy of the system if it has one whose states and images really are float64."""
    if hasattr(system, "compute_in"):
        return copy.deepcopy(system).compute_in(torch.float64)
    if not isinstance(system, nn.Module):
        return system
    wide: Any = copy.deepcopy(system).double()
    try:
        ctx = wide.encode(batch)
        z = wide.initial_state(ctx)
        image = wide.segment(z, ctx)
    except RuntimeError:  # mixed dtypes inside: it was written for float32 alone
        return system
    whole = all(t.dtype == torch.float64 for t in [*leaves(z), *leaves(image)])
    return wide if whole else system


def check_system(system: Any, batch: Any, *, seed: int = 0) -> list[Check]:
    """Whether a system keeps the rules that its measurement relies on.

    Purity: two calls agree bit for bit. Batch independence: row 0 alone gives the image it has in the
    batch. Tangents: the forward derivative along a random direction is not zero where the central
    difference is not, and equals it, part by part of the latent. In float64 where the system can be
    cast (`compute_in`, or any `nn.Module`), else in its own precision with a wide tolerance.

    Args:
        system: anything that keeps the `RecursiveSystem` protocol.
        batch: handed to `encode`; a few rows are enough.
        seed: of the random direction.
    Returns:
        The checks, failed ones with a hint. `require` turns the first failure into an error.
    """
    wide = in_float64(system, batch)
    checks = _values(system, batch)
    with exact_arithmetic(_device(wide, batch)):
        ctx = wide.encode(batch)
        return checks + _tangents(wide, own_memory(wide.initial_state(ctx)), ctx, seed)


def require(checks: list[Check]) -> None:
    """Raise a `UserError` with the hint of the first check that failed."""
    for check in checks:
        if not check.passed:
            raise UserError(check.hint or str(check))


def _values(system: Any, batch: Any) -> list[Check]:
    name = type(system).__name__
    ctx = system.encode(batch)
    z0 = system.initial_state(ctx)
    with exact_arithmetic(leaves(z0)[0].device):
        before = tree_map(torch.clone, z0)
        image, again = (flatten(system.segment(z0, ctx)).double() for _ in range(2))
        mutated = _distance(flatten(z0), flatten(before))
        alone = _first_row_alone(system, batch, ctx, z0)
    eps = torch.finfo(leaves(z0)[0].dtype).eps
    scale = float(image[0].abs().max())
    spread, apart = _distance(image, again), float((image[:1] - alone).abs().max())
    return [
        compare(
            f"{name}.segment: latent handed in is unchanged",
            0.0,
            mutated,
            0.0,
            f"{name}.segment: changed its argument by {mutated:.2g}. Do not work in place.",
        ),
        compare(
            f"{name}.segment: two calls agree",
            0.0,
            spread,
            0.0,
            f"{name}.segment: two calls differ by {spread:.2g}. Is there dropout, noise or a hidden state?",
        ),
        compare(
            f"{name}.segment: row 0 alone as in the batch",
            0.0,
            apart,
            1e3 * eps * max(scale, 1.0),
            f"{name}.segment: row 0 moves by {apart:.2g} when alone. Does the map mix rows of the batch?",
        ),
    ]


def _first_row_alone(system: Any, batch: Any, ctx: Any, z0: Any) -> Tensor:
    """Image of row 0 in a batch of one; the batch is cut where it can be, else the context."""
    one = slice(0, 1)
    alone = rows(ctx, one) if batch is None else system.encode(rows(batch, one))
    return flatten(system.segment(rows(z0, one), alone)).double()


def _tangents(system: Any, z: Any, ctx: Any, seed: int) -> list[Check]:
    """Forward derivative against central difference, both applied to one random unit direction."""
    wide = leaves(z)[0].dtype == torch.float64
    step, tolerance = (1e-5, 1e-5) if wide else (1e-2, 0.1)
    v = _unit_direction(z, seed)
    f = lambda state: system.segment(state, ctx)  # noqa: E731
    image = torch.func.jvp(f, (z,), (v,))[1]
    plus, minus = (f(tree_map(lambda a, b, s=sign: a + s * step * b, z, v)) for sign in (1.0, -1.0))
    difference = tree_map(lambda a, b: (a - b) / (2 * step), plus, minus)
    names = getattr(z, "_fields", None) or [f"part {i}" for i in range(len(leaves(z)))]
    names = ["the latent"] if isinstance(z, Tensor) else names
    prefix = f"{type(system).__name__}.segment: tangent of"
    triples = zip(names, leaves(image), leaves(difference), strict=True)
    return [_compare_tangent(f"{prefix} {part}", a, b, tolerance) for part, a, b in triples]


def _compare_tangent(name: str, image: Tensor, difference: Tensor, tolerance: float) -> Check:
    expected, obtained = float(difference.norm()), float(image.norm())
    error = float((image - difference).norm())
    hint = f"{name} is {obtained:.2g}, finite difference {expected:.2g}. Is there a detach()?"
    if obtained > 0:
        hint = f"{name} is {error:.2g} off a finite difference of {expected:.2g}. Is part of it detached?"
    relative = error / max(expected, 1e-3)  # a part that the map sends to a constant has difference 0
    return compare(f"{name}, relative error", 0.0, relative, tolerance, hint)


def _unit_direction(z: Any, seed: int) -> Any:
    generator = torch.Generator().manual_seed(seed)
    draw = tree_map(lambda t: torch.randn(t.shape, generator=generator, dtype=torch.float64), z)
    norms = flatten(draw).norm(dim=1)
    shape = lambda t: norms.view(-1, *[1] * (t.ndim - 1))  # noqa: E731
    unit = tree_map(lambda t: t / shape(t), draw)
    return tree_map(lambda t, like: t.to(like.device, like.dtype), unit, z)


def _device(system: Any, batch: Any) -> torch.device:
    return leaves(system.initial_state(system.encode(batch)))[0].device


def _distance(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max()) if batch_size(a) else 0.0
