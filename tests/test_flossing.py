"""The flossing loss: its exponents, its gradient, and whom it touches."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loopscope.config import TrainSettings, validated
from loopscope.dynamics.lyapunov import advance
from loopscope.latent import rows, tree_map
from loopscope.models.noise import draw_keys
from loopscope.training import halting
from loopscope.training.flossing import flossed_slots, flossing_loss, segment_exponents, start_tangents
from loopscope.training.setup import missing_for_compile
from small_runs import recipe, small_puzzles, trainer
from tiny import tiny_model, tiny_puzzles

ARCHS = ("trm", "trm-singlez", "hrm", "transformer")
ATTENTION = {"mlp_t": False, "pos_encodings": "rope"}


def settings(**values: Any) -> TrainSettings:
    return validated(TrainSettings, {"flossing_weight": 1.0, "batch_size": 16, **values})


def keys(size: int) -> torch.Tensor:
    return draw_keys(size, torch.Generator().manual_seed(0))


def setup(arch: str = "trm", size: int = 3, **values: Any) -> tuple[Any, halting.Carry]:
    """A random model and slots that have two segments behind them."""
    model = tiny_model(arch, **{"forward_dtype": "float64", **values})
    model.to(model.dtype) if model.dtype == torch.float64 else model  # differences need wide weights
    carry = halting.empty_carry(model, tiny_puzzles(size).batch())
    ctx, z = model.encode(carry.data), carry.z
    with torch.no_grad():
        for _ in range(2):
            z = model.segment(z, ctx)
    return model, carry._replace(z=tree_map(lambda t: t.contiguous(), z))


# -- exponents


@pytest.mark.parametrize("kind", [{}, ATTENTION])
@pytest.mark.parametrize("arch", ARCHS)
def test_the_loss_is_made_of_the_measured_exponents(arch: str, kind: dict[str, Any]) -> None:
    """`dynamics.lyapunov` on the same states and tangents."""
    model, carry = setup(arch, **kind)
    ctx, Q = model.encode(carry.data), start_tangents(carry.z, keys(3), 4)
    _, _, measured = advance([lambda z: model.segment(z, ctx)], carry.z, Q)
    loss = flossing_loss(model, carry, keys(3), settings(flossing_exponents=4))
    torch.testing.assert_close(loss, measured.square().mean(1).sum(), rtol=1e-9, atol=0)


def test_exponents_of_a_linear_map() -> None:
    """Householder QR of numpy on A Q."""
    rng = np.random.default_rng(0)
    A = rng.standard_normal((3, 7, 7))
    z = torch.from_numpy(rng.standard_normal((3, 7)))
    Q = start_tangents(z, keys(3), 4)
    matrix = torch.from_numpy(A)
    image, growth = segment_exponents(lambda s: torch.einsum("bij,bj->bi", matrix, s), z, Q)
    expected = [np.log(np.abs(np.diag(np.linalg.qr(a @ q)[1]))) for a, q in zip(A, Q.numpy(), strict=True)]
    np.testing.assert_allclose(growth.numpy(), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(image, torch.einsum("bij,bj->bi", matrix, z))


def test_tangents_are_orthonormal_and_belong_to_their_slot() -> None:
    z = torch.zeros(5, 6, 3)
    Q = start_tangents(z, keys(5), 4)
    torch.testing.assert_close(Q.mT @ Q, torch.eye(4).expand(5, 4, 4), rtol=0, atol=1e-6)
    assert Q.dtype == torch.float32
    torch.testing.assert_close(start_tangents(z[2:], keys(5)[2:], 4), Q[2:], rtol=0, atol=1e-6)


def test_dependent_tangents_give_nothing_and_no_nan() -> None:
    """A map of rank one: two tangents have one image."""
    u = torch.randn(7, dtype=torch.float64, requires_grad=True)
    scale = torch.tensor([1.0, 0.0], dtype=torch.float64)[:, None]  # the second row vanishes altogether
    z = torch.randn(2, 7, dtype=torch.float64)
    _, growth = segment_exponents(
        lambda s: s.sum(1, keepdim=True) * u * scale, z, start_tangents(z, keys(2), 2)
    )
    assert growth[0].eq(0).all()
    growth.sum().backward()
    assert u.grad is not None
    assert u.grad.isfinite().all()


# -- gradient


@pytest.mark.parametrize("arch", ARCHS)
def test_the_gradient_is_that_of_differences(arch: str) -> None:
    """Central differences in float64 along a random direction of all weights."""
    model, carry = setup(arch, **ATTENTION)
    t = settings(flossing_exponents=3)
    flossing_loss(model, carry, keys(3), t).backward()
    generator = torch.Generator().manual_seed(1)
    weights = [p for p in model.parameters() if p.grad is not None]
    assert len(weights) >= len(list(model.L_level.parameters() if hasattr(model, "L_level") else [])) + 1
    ways = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in weights]
    slope = sum(float((p.grad * way).sum()) for p, way in zip(weights, ways, strict=True))
    values, step = [], 1e-6
    with torch.no_grad():
        for sign in (1, -2):  # to +step, then to -step
            for p, way in zip(weights, ways, strict=True):
                p += sign * step * way
            values.append(float(flossing_loss(model, carry, keys(3), t)))
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)
    assert abs(slope) > 1e-3


def test_the_puzzle_table_and_the_state_are_held() -> None:
    model, carry = setup(puzzle_emb_ndim=16)
    model.puzzle_emb.weights.normal_()
    flossing_loss(model, carry, keys(3), settings()).backward()
    assert model.puzzle_emb.weights.grad is None
    assert model.embed_tokens.embedding_weight.grad.abs().sum() > 0
    assert model.lm_head.weight.grad is None


def test_flossing_brings_exponents_to_zero() -> None:
    """From a model that expands by half a nat per segment."""
    model, carry = setup(size=6)
    t = settings(flossing_exponents=1)
    optimizer = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(40):
        losses.append(flossing_loss(model, carry, keys(6), t))
        optimizer.zero_grad()
        losses[-1].backward()
        optimizer.step()
    assert losses[0] > 1
    assert losses[-1] < 0.05 * losses[0]


# -- the bound


def right_half(model: Any, carry: halting.Carry) -> halting.Carry:
    """The slots with labels that make the first half of them right, the others wrong."""
    ctx = model.encode(carry.data)
    answer = model.readout(model.segment(carry.z, ctx), ctx).logits.argmax(-1)
    answer[:, 3] = -100
    answer[len(answer) // 2 :, 0] = (answer[len(answer) // 2 :, 0] + 1) % 6
    return carry._replace(data=carry.data._replace(labels=answer))


def test_above_a_bound_only_what_is_right_counts() -> None:
    model, carry = setup(size=4)
    carry = right_half(model, carry)
    ctx = model.encode(carry.data)
    with torch.no_grad():
        Q = start_tangents(carry.z, keys(4), 3)
        exponents = segment_exponents(lambda z: model.segment(z, ctx), carry.z, Q)[1]
    bound = float(exponents[:2].median())
    loss = flossing_loss(model, carry, keys(4), settings(flossing_exponents=3, flossing_bound=bound))
    expected = sum(max(0.0, e - bound) / 3 for e in exponents[:2].ravel().tolist())
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    assert expected > 0
    high = settings(flossing_exponents=3, flossing_bound=float(exponents.max()) + 1)
    nothing = flossing_loss(model, carry, keys(4), high)
    nothing.backward()
    assert nothing.item() == 0
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())


# -- precision, compiling, slots


def test_a_bfloat16_model_is_flossed_in_float32() -> None:
    """The same states and inputs in float32 give the same loss to float32 rounding."""
    model, carry = setup(forward_dtype="bfloat16")
    loss = flossing_loss(model, carry, keys(3), settings())
    assert carry.z.z_H.dtype == torch.bfloat16
    ctx = tree_map(lambda t: t.float(), model.encode(carry.data))
    z = tree_map(lambda t: t.float(), carry.z)
    _, _, measured = advance([lambda s: model.segment(s, ctx)], z, start_tangents(z, keys(3), 4))
    torch.testing.assert_close(loss, measured.square().mean(1).sum(), rtol=1e-4, atol=0)
    loss.backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


COMPILED = """
import torch
from loopscope.latent import flatten
from loopscope.training.flossing import flossing_loss
from test_flossing import keys, settings, setup
model, carry = setup(forward_dtype="float32")
eager = flossing_loss(model, carry, keys(3), settings())
model.compile_blocks()
ctx = model.encode(carry.data)
flatten(model.training_segment(carry.z, ctx)).sum().backward()
assert flossing_loss(model, carry, keys(3), settings()).equal(eager)
"""


@pytest.mark.slow
def test_compiled_blocks_do_not_matter() -> None:
    """In a process of its own: the shape checks of the tests do not compile."""
    if missing := missing_for_compile(torch.device("cpu")):
        pytest.skip(missing)
    subprocess.run([sys.executable, "-c", COMPILED], cwd=Path(__file__).parent, check=True)


@pytest.mark.parametrize(("batch_size", "slots"), [(16, 4), (16, 16), (24, 5), (12, 1)])
@pytest.mark.parametrize("processes", [1, 2, 4])
def test_slots_are_spread_and_do_not_depend_on_the_processes(
    batch_size: int, slots: int, processes: int
) -> None:
    t = settings(batch_size=batch_size, flossing_slots=slots)
    size, numbers = batch_size // processes, torch.arange(batch_size)
    shares = [range(first, first + size) for first in range(0, batch_size, size)]
    found = [numbers[list(s)][flossed_slots(t, s.start, size)] for s in shares]
    assert torch.cat(found).tolist() == [i * (batch_size // slots) for i in range(slots)]


def test_slots_add_up() -> None:
    model, carry = setup(size=4)
    parts = [slice(0, 1), slice(1, 4)]
    each = [flossing_loss(model, rows(carry, p), keys(4)[p], settings()) for p in parts]
    torch.testing.assert_close(sum(each), flossing_loss(model, carry, keys(4), settings()))


def test_the_metrics_tell_the_loss_per_slot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean over the slots looked at since the last line; no line without any."""
    seen: list[float] = []

    def watched(*args: Any) -> torch.Tensor:
        loss = flossing_loss(*args)
        seen.append(loss.item())
        return loss

    monkeypatch.setattr("loopscope.training.loop.flossing_loss", watched)
    made = trainer(recipe("flossing", train={"log_every": 1, "steps": 3}), small_puzzles(), tmp_path)
    made.run(progress=False)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [("flossing_loss" in line) for line in lines] == [True, False, True]
    assert [lines[0]["flossing_loss"], lines[2]["flossing_loss"]] == pytest.approx([x / 4 for x in seen])
