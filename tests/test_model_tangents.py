"""The derivative written by hand: equal to forward mode, along the very orbit, and never out of its depth."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import loopscope as ls
from loopscope.dynamics.bench import bench_lyapunov
from loopscope.dynamics.system import exact_arithmetic
from loopscope.dynamics.tangents import orthonormal_start, push, push_by_jvp, segment_functions
from loopscope.errors import UserError
from loopscope.latent import flatten, unflatten
from loopscope.models.tangents import AT_ONCE, Stacked, stacked_segment, stacked_updates, stacks_tangents
from loopscope.models.trm import TRM
from loopscope.tasks.sudoku import Sudoku
from loopscope.tasks.sudoku.generate import generate
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


def equivariant(task: Sudoku) -> tuple[Any, Any, Any]:
    """A model of nodes in float64, its context and a latent one segment on."""
    facts = {"seq_len": task.seq_len, "vocab_size": task.vocab_size, "hidden_size": 8 * task.side}
    more = {"expansion": 2, "pos_encodings": "none", "puzzle_emb_ndim": 0}
    model = tiny_model("trm-equivariant", **facts, **more).double().compute_in("float64")
    ctx = model.encode(generate(task, 2, task.seq_len // 2, np.random.default_rng(0)).batch())
    return model, ctx, model.segment(model.initial_state(ctx), ctx)


@pytest.mark.parametrize("task", [Sudoku(2, 3), Sudoku(3, 3)], ids=lambda task: task.name)
def test_sums_over_groups_equal_forward_mode_and_differences(task: Sudoku) -> None:
    with exact_arithmetic():
        model, ctx, z = equivariant(task)
        Q = orthonormal_start(z, 3, seed=0)
        f = stacked_segment(model, ctx)
        image, V = push(f, z, Q)
        assert isinstance(segment_functions(model, ctx, "segment")[0], Stacked)
        assert torch.equal(flatten(image), flatten(model.segment(z, ctx)))
        torch.testing.assert_close(
            V, push_by_jvp(lambda s: model.segment(s, ctx), z, Q)[1], rtol=0, atol=1e-10
        )
        for i, column in enumerate(Q.unbind(2)):
            ahead, behind = (flatten(f(unflatten(flatten(z) + step * column, z))) for step in (1e-5, -1e-5))
            torch.testing.assert_close((ahead - behind) / 2e-5, V[:, :, i], rtol=0, atol=1e-6)


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


def test_so_is_the_orbit_of_the_shipped_equivariant_model() -> None:
    """With more tangents of a token than go through the SwiGLU together, so that they are split."""
    model = ls.load("sudoku9-equivariant").compute_in("float32")
    with exact_arithmetic():
        ctx = model.encode(generate(Sudoku(3, 3), 2, 40, np.random.default_rng(0)).batch())
        z = model.segment(model.initial_state(ctx), ctx)
        Q = orthonormal_start(z, 4, seed=0)
        f = stacked_updates(model, ctx)[-1]
        assert Q.shape[0] * Q.shape[2] * model.settings.num_tokens > AT_ONCE
        image, V = push(f, z, Q)
        assert torch.equal(flatten(image), flatten(f(z)))
        torch.testing.assert_close(V, push_by_jvp(f, z, Q)[1], rtol=0, atol=1e-5)


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
