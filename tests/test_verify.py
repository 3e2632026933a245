"""The checks pass for the real estimators and fail for broken ones; adapters with a flaw are caught."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from loopscope.config import ModelSettings
from loopscope.dynamics import covariant, edge, exponents, local_growth, tangents, toys
from loopscope.dynamics.escape import EscapeRate, escape_rate
from loopscope.dynamics.known import escape as known_escape
from loopscope.dynamics.known import exponents as known
from loopscope.dynamics.known import networks
from loopscope.dynamics.system import Check, RecursiveSystem, check_system, compare, require
from loopscope.dynamics.verify import _digits, verify_model
from loopscope.errors import UserError
from loopscope.latent import flatten
from loopscope.models import build_model
from loopscope.models import tangents as by_hand
from loopscope.tasks.base import Batch

REAL = tangents.orthonormalise


def failed(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if not check.passed]


@pytest.mark.slow
def test_all_estimators_pass() -> None:
    """In a process of its own: here the checks of every shape would take minutes."""
    command = [sys.executable, "-m", "loopscope", "verify"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    passed = re.search(r"(\d+) of (\d+) checks passed", found.stdout)
    assert passed, found.stderr
    assert passed[1] == passed[2], found.stdout
    assert int(passed[1]) > 60
    assert found.returncode == 0


# -- broken on purpose


def in_bits(V: Tensor) -> tuple[Tensor, Tensor]:
    Q, growth = REAL(V)
    return Q, growth / torch.log(torch.tensor(2.0))


def only_normalised(V: Tensor) -> tuple[Tensor, Tensor]:
    lengths = V.norm(dim=1).double()
    return V / lengths[:, None].to(V), lengths.log()


def never_reset(V: Tensor) -> tuple[Tensor, Tensor]:
    return V, REAL(V)[1]


def swapped(V: Tensor) -> tuple[Tensor, Tensor]:
    Q, growth = REAL(V)
    return Q.flip(2), growth


@pytest.mark.parametrize(
    ("broken", "caught"),
    [
        (in_bits, "rotation times .9, first"),
        (only_normalised, "diag(1.1, .8), second"),
        (never_reset, "rotation times .9, first"),
        (swapped, "Henon, first"),
    ],
)
def test_a_broken_qr_is_caught(
    broken: Callable[..., Any], caught: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tangents, "orthonormalise", broken)
    names = failed([*known.linear(), *known.planar(np.random.default_rng(0))])
    assert caught in names


def test_a_stale_jacobian_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tangents pushed at the image instead of at the state."""
    real = tangents.push

    def late(f: Any, z: Any, Q: Tensor) -> tuple[Any, Tensor]:
        image = f(z)
        return image, real(f, image, Q)[1]

    monkeypatch.setattr(tangents, "push", late)
    names = failed(known.logistic(np.random.default_rng(0), n=2000))
    assert "logistic 4, error of identity, 99 %" in names


def test_a_detach_in_a_map_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def segment(self: toys.Henon, z: Tensor, ctx: Any) -> Tensor:
        x, y = z.unbind(1)
        return torch.stack((1 - self.a * x**2 + y, self.b * x.detach()), dim=1)

    monkeypatch.setattr(toys.Henon, "segment", segment)
    assert "Henon, sum" in failed(known.planar(np.random.default_rng(0)))


def drop_censored(solved_at: Any, *, start: int, stop: int) -> EscapeRate:
    return escape_rate(solved_at[solved_at > 0], start=start, stop=stop)


def linear_rate(solved_at: Any, *, start: int, stop: int) -> EscapeRate:
    rate = escape_rate(solved_at, start=start, stop=stop)
    return EscapeRate(**{**rate.to_dict(), "value": rate.events / rate.exposure})


@pytest.mark.parametrize("broken", [drop_censored, linear_rate])
def test_a_broken_escape_rate_is_caught(broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known_escape, "escape_rate", broken)
    assert "doubling map, hole [0/8, 1/8)" in failed(
        known_escape.open_maps(np.random.default_rng(0), n=200_000)
    )


def test_a_gram_matrix_in_float32_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def single_precision(V: Tensor) -> tuple[Tensor, Tensor]:  # one Cholesky round, Gram in float32
        factor = torch.linalg.cholesky_ex((V.float().mT @ V.float()).cpu())[0]
        Q = torch.linalg.solve_triangular(factor.mT, V.float(), upper=True, left=False)
        return Q.to(V), factor.diagonal(dim1=1, dim2=2).log().double()

    monkeypatch.setattr(tangents, "orthonormalise", single_precision)
    assert "QR, condition 1e4: orthogonality" in failed(networks.qr_precision(np.random.default_rng(0)))


def test_a_wrong_dimension_and_entropy_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    bound = exponents.Bound
    alone = lambda pair: bound(1 + pair[0] / (pair[0] - pair[1]), True)  # noqa: E731
    monkeypatch.setattr(known, "kaplan_yorke_dimension", alone)
    monkeypatch.setattr(known, "entropy_bound", lambda pair: bound(float(pair.sum()), True))
    names = failed(known.planar(np.random.default_rng(0)))
    assert {"Henon, Kaplan-Yorke dimension", "cat map, entropy"} <= set(names)


def test_coefficients_that_are_not_pulled_back_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    real = covariant._pull_back
    monkeypatch.setattr(
        covariant, "_pull_back", lambda R, n, seed: real([r.triu().inverse() for r in R], n, seed)
    )
    assert "covariant vectors, angle" in failed(known.other_ways(np.random.default_rng(0)))


def test_two_orbits_that_are_not_pulled_back_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local_growth, "distance", lambda a, b: 2 * (a - b).norm(dim=1))
    names = failed(known.other_ways(np.random.default_rng(0)))
    assert "Henon, two orbits minus tangents" in names


@pytest.mark.parametrize(
    ("change", "caught"),
    [
        ("norm_of_sum", "TRM, mixer: tangents - Jacobian"),
        ("attention", "TRM, attention: tangents - Jacobian"),
    ],
)
def test_a_wrong_derivative_by_hand_is_caught(
    change: str, caught: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = getattr(by_hand, change)

    def off(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        return by_hand.Dual(found.value, 1.001 * found.tangents)

    monkeypatch.setattr(by_hand, change, off)
    assert caught in failed(networks.jacobians())


def test_a_norm_that_keeps_what_is_along_the_token_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    def flat(h: Any, branch: Any, eps: float, dim: int) -> Any:
        x = h.value + branch.value
        r = torch.rsqrt(x.square().mean(dim, keepdim=True) + eps)
        return by_hand.Dual(x * r, (h.tangents + branch.tangents) * r[:, None])

    monkeypatch.setattr(by_hand, "norm_of_sum", flat)
    assert failed(networks.post_norm())


def test_an_edge_that_is_not_bisected_again_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not failed(known_escape.border())
    monkeypatch.setattr(edge, "_close", lambda a, b, *how: (a, b))
    assert "edge of 2x - x^3, distance" in failed(known_escape.border())


def test_nan_never_passes() -> None:
    assert not compare("x", 1.0, float("nan"), 10.0).passed
    assert not compare("x", float("nan"), 1.0, 10.0).passed
    assert compare("x", 1.0, 1.5, 0.5).passed


# -- adapters


class State(NamedTuple):
    z_H: Tensor
    z_L: Tensor


class MyAdapter(nn.Module):
    """A correct adapter around a small network; the flawed ones below change one line."""

    applications_per_segment = 2

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.low = nn.Parameter(0.5 * torch.randn(6, 6, generator=generator))
        self.high = nn.Parameter(0.5 * torch.randn(6, 6, generator=generator))

    def encode(self, batch: Tensor) -> Tensor:
        return batch.to(self.low.dtype)

    def initial_state(self, ctx: Tensor) -> State:
        return State(torch.zeros_like(ctx), torch.ones_like(ctx))

    def segment(self, z: State, ctx: Tensor) -> State:
        z_L = torch.tanh((z.z_L + z.z_H + ctx) @ self.low)
        return State(torch.tanh((z.z_H + z_L) @ self.high), z_L)

    def readout(self, z: State, ctx: Tensor) -> Any:
        raise NotImplementedError


class Detached(MyAdapter):
    def segment(self, z: State, ctx: Tensor) -> State:
        z = super().segment(z, ctx)
        return State(z.z_H.detach(), z.z_L)


class InnerNoGrad(MyAdapter):
    def segment(self, z: State, ctx: Tensor) -> State:
        with torch.no_grad():
            z = super().segment(z, ctx)
        return super().segment(z, ctx)


class PartlyDetached(MyAdapter):
    def segment(self, z: State, ctx: Tensor) -> State:
        image = super().segment(z, ctx)
        return State(torch.tanh((z.z_H + image.z_L.detach()) @ self.high), image.z_L)


class Noisy(MyAdapter):
    def segment(self, z: State, ctx: Tensor) -> State:
        return State(*(t + 1e-3 * torch.randn_like(t) for t in super().segment(z, ctx)))


class MixesRows(MyAdapter):
    def segment(self, z: State, ctx: Tensor) -> State:
        return super().segment(z, ctx - ctx.mean(dim=0))


class InPlace(MyAdapter):
    def segment(self, z: State, ctx: Tensor) -> State:
        image = super().segment(z, ctx)
        z.z_L.mul_(0.5)
        return image


class Autocast(MyAdapter):
    def segment(self, z: State, ctx: Tensor) -> State:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return State(*(t.to(ctx.dtype) for t in super().segment(z, ctx)))


class Rounded(MyAdapter):
    def segment(self, z: State, ctx: Tensor) -> State:
        z = super().segment(z, ctx)
        return State(z.z_H.half().to(z.z_H.dtype), z.z_L)


class Narrow(MyAdapter):
    def initial_state(self, ctx: Tensor) -> State:
        z = super().initial_state(ctx)
        return State(z.z_H.double(), z.z_L.float())


BATCH = torch.linspace(-1, 1, 18).reshape(3, 6)


def test_a_correct_adapter_passes() -> None:
    assert isinstance(MyAdapter(), RecursiveSystem)
    checks = verify_model(MyAdapter(), BATCH)
    assert not failed(checks), [str(check) for check in checks]
    assert any("Jacobian" in check.name for check in checks)
    require(checks)


@pytest.mark.parametrize(
    ("adapter", "hint"),
    [
        (Detached, r"Detached.segment: tangent of z_H is 0, finite difference \d.*Is there a detach\(\)\?"),
        (PartlyDetached, r"PartlyDetached.segment: tangent of z_H is .* off a finite difference of"),
        (Noisy, r"Noisy.segment: two calls differ by .*dropout"),
        (MixesRows, r"MixesRows.segment: row 0 moves by .* when alone"),
        (InPlace, r"InPlace.segment: changed its argument"),
    ],
)
def test_a_flawed_adapter_is_named(adapter: type[MyAdapter], hint: str) -> None:
    with pytest.raises(UserError, match=hint):
        require(check_system(adapter(), BATCH))


@pytest.mark.parametrize("adapter", [Autocast, Rounded])
def test_fewer_digits_than_the_dtype_says_are_caught(adapter: type[MyAdapter]) -> None:
    """The dtype of the latent stays float32; an autocast even spares the float64 copy."""
    checks = {check.name: check for check in verify_model(adapter(), BATCH)}
    orbit, pushed = (
        f"{adapter.__name__}.segment: {what} of float32, rounding"
        for what in ("orbit has the digits", "tangents have those")
    )
    assert not checks[orbit].passed
    assert not checks[pushed].passed
    assert "Is there an autocast or a cast inside?" in checks[orbit].hint
    if adapter is Autocast:
        assert failed(list(checks.values())) == [orbit, pushed]  # nothing else sees it


def test_digits_of_a_good_map_are_far_from_the_limit() -> None:
    for checks in (_digits(MyAdapter(), BATCH, 0), _digits(toys.Henon(), None, 0)):
        assert all(check.obtained < check.tolerance / 10 for check in checks), checks


def test_parts_of_different_dtypes_are_named() -> None:
    (check,) = _digits(Narrow(), BATCH, 0)
    assert check.hint.startswith("Narrow.segment: latent of dtype float32, float64, expected")


def test_no_grad_inside_the_map_does_no_harm() -> None:
    """Forward mode goes through it, unlike a detach: official code can be measured as it is."""
    assert not failed(verify_model(InnerNoGrad(), BATCH))


def test_an_adapter_that_cannot_be_cast_is_checked_in_float32() -> None:
    class Plain:
        applications_per_segment = 1

        def __init__(self, inner: MyAdapter) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

    assert not failed(check_system(Plain(MyAdapter()), BATCH))
    assert failed(check_system(Plain(Detached()), BATCH))
    assert failed(check_system(Plain(PartlyDetached()), BATCH))


def test_a_plain_tensor_without_input() -> None:
    assert not failed(verify_model(toys.Henon(), None))
    assert not failed(verify_model(toys.TransientChaos(), toys.toy_puzzles(5, seed=0)))


@pytest.mark.parametrize(
    "settings",
    [
        {"arch": "trm", "mlp_t": True, "pos_encodings": "none"},
        {"arch": "trm", "puzzle_emb_ndim": 8},
        {"arch": "trm-singlez"},
        {"arch": "hrm", "H_layers": 1, "H_cycles": 2},
        {"arch": "transformer", "H_layers": 2},
    ],
    ids=lambda s: "-".join(map(str, s.values())),
)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_models_pass(settings: dict[str, Any], dtype: str) -> None:
    sizes = {
        "seq_len": 6,
        "vocab_size": 5,
        "hidden_size": 16,
        "num_heads": 2,
        "L_layers": 1,
        "H_cycles": 1,
        "L_cycles": 2,
    }
    model = build_model(ModelSettings(**{**sizes, **settings}), seed=0).compute_in(dtype)
    tokens = torch.arange(18).reshape(3, 6) % 5
    checks = verify_model(model, Batch(tokens, torch.zeros(3, dtype=torch.long)))
    assert not failed(checks), [str(check) for check in checks if not check.passed]
    assert (
        flatten(model.initial_state(model.encode(Batch(tokens, torch.zeros(3, dtype=torch.long))))).shape[0]
        == 3
    )
