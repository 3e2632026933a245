"""The derivative written by hand: equal to forward mode, along the very orbit, and never out of its depth."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from loopscope.dynamics.bench import bench_lyapunov
from loopscope.dynamics.system import exact_arithmetic
from loopscope.dynamics.tangents import orthonormal_start, push, push_by_jvp, segment_functions
from loopscope.errors import UserError
from loopscope.latent import flatten
from loopscope.models.tangents import Stacked, stacked_segment, stacked_updates, stacks_tangents
from loopscope.models.trm import TRM
from tiny import tiny_model, tiny_puzzles

KINDS: list[dict[str, Any]] = [
    {},
    {"mlp_t": False, "pos_encodings": "rope"},
    {"mlp_t": False, "pos_encodings": "learned", "damping": 0.7, "L_layers": 2},
]


def at_work(model: Any, k: int = 3) -> tuple[Any, Any, Tensor]:
    """Context, a latent one segment on, and tangents there."""
    ctx = model.encode(tiny_puzzles(3).batch())
    z = model.segment(model.initial_state(ctx), ctx)
    return ctx, z, orthonormal_start(z, k, seed=0)


@pytest.mark.parametrize("kind", KINDS, ids=["mixer", "rope", "damped"])
@pytest.mark.parametrize("arch", ["trm", "trm-singlez", "hrm", "transformer"])
def test_equals_forward_mode(arch: str, kind: dict[str, Any]) -> None:
    model = tiny_model(arch, **kind).compute_in("float64")
    with exact_arithmetic():
        ctx, z, Q = at_work(model)
        assert isinstance(segment_functions(model, ctx, "segment")[0], Stacked)
        image, V = stacked_segment(model, ctx).push(z, Q)
        expected = push_by_jvp(lambda s: model.segment(s, ctx), z, Q)[1]
        by_update = z, Q
        for f in stacked_updates(model, ctx):
            by_update = push(f, *by_update)
        assert torch.equal(flatten(image), flatten(model.segment(z, ctx)))
    torch.testing.assert_close(V, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(by_update[1], V, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS[:2], ids=["mixer", "rope"])
def test_the_orbit_in_float32_is_that_of_the_plain_model(kind: dict[str, Any]) -> None:
    """Bit for bit, so outcome and exponents belong together."""
    model = tiny_model(**kind)
    with exact_arithmetic():
        ctx, z, Q = at_work(model)
        pushed = plain = z
        for _ in range(6):
            pushed, plain = stacked_segment(model, ctx).push(pushed, Q)[0], model.segment(plain, ctx)
    assert torch.equal(flatten(pushed), flatten(plain))


def test_a_variant_is_left_to_forward_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    class Variant(TRM):
        def update(self, which: str, z: Any, x: Tensor) -> Any:
            z = super().update(which, z, x)
            return type(z)(torch.tanh(z.z_H), z.z_L)

    model = tiny_model()
    variant = Variant(model.settings)
    ctx = variant.encode(tiny_puzzles(2).batch())
    assert stacks_tangents(model)
    assert not stacks_tangents(variant)
    assert not isinstance(segment_functions(variant, ctx, "segment")[0], Stacked)
    original = TRM.update
    monkeypatch.setattr(TRM, "update", lambda self, *args: original(self, *args))
    assert not stacks_tangents(model)


def test_bench_counts_in_plain_forwards(monkeypatch: pytest.MonkeyPatch) -> None:
    found = bench_lyapunov(tiny_model(), exponents=(1, 2), rounds=2)
    assert [row["ideal"] for row in found["rows"]] == [2, 3]
    assert all(row["stacked"] > 0 and row["jvp"] > 0 and row["rest"] > 0 for row in found["rows"])
    monkeypatch.setattr(TRM, "update", TRM.read)
    with pytest.raises(UserError, match="no stacked tangents"):
        bench_lyapunov(tiny_model())
