"""Single operations equal the official ones, number by number (`fixtures/official_parity/ops.npz`).

Tolerance is 1e-6 of the largest value unless a test says why it needs more.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from loopscope.models.layers import (
    Attention,
    SwiGLU,
    rms_norm,
    rope_tables,
    rotate,
    swiglu_width,
    trunc_normal,
)
from loopscope.training.ema import EMA
from loopscope.training.loss import cell_cross_entropy, log_stablemax, stablemax
from loopscope.training.optim import AdamATan2, SignSGD, learning_rate
from shared import shared_path


@pytest.fixture(scope="module")
def ops() -> Mapping[str, np.ndarray]:
    return dict(np.load(shared_path("fixtures/official_parity/ops.npz")))


def close(actual: Tensor, expected: Any, rel: float = 1e-6) -> None:
    """Within `rel` of the largest expected magnitude, everywhere, and of the same shape and dtype width."""
    expected = torch.as_tensor(expected)
    assert actual.shape == expected.shape
    gap = (actual.detach().double() - expected.double()).abs().max()
    assert gap <= rel * expected.double().abs().max(), f"off by {gap:.3g}"


def tensor(ops: Mapping[str, np.ndarray], key: str) -> Tensor:
    return torch.from_numpy(np.array(ops[key]))


# -- losses


def test_stablemax(ops: Mapping[str, np.ndarray]) -> None:
    """Element by element: the values span twelve orders of magnitude."""
    x = tensor(ops, "stablemax/x")
    torch.testing.assert_close(stablemax(x), tensor(ops, "stablemax/s"), rtol=1e-12, atol=0)
    torch.testing.assert_close(stablemax(x.float()), tensor(ops, "stablemax/s_float32"), rtol=1e-6, atol=0)


def test_log_stablemax(ops: Mapping[str, np.ndarray]) -> None:
    close(log_stablemax(tensor(ops, "ce/logits").double()), ops["ce/log_stablemax_f64"], 1e-12)


@pytest.mark.parametrize(
    ("kind", "recorded", "dtype", "rel"),
    [
        ("stablemax", "ce/stablemax_cross_entropy_f64", torch.float64, 1e-12),
        ("softmax", "ce/softmax_cross_entropy_f32", torch.float32, 1e-6),
    ],
)
def test_cross_entropy(
    ops: Mapping[str, np.ndarray], kind: str, recorded: str, dtype: torch.dtype, rel: float
) -> None:
    logits = tensor(ops, "ce/logits").requires_grad_()
    loss = cell_cross_entropy(logits, tensor(ops, "ce/labels"), kind)
    assert loss.dtype == dtype
    assert (loss[tensor(ops, "ce/labels") == -100] == 0).all()
    close(loss, ops[recorded], rel)
    loss.sum().backward()
    close(logits.grad, ops[f"ce/grad_{kind}_sum"])


def test_stablemax_cross_entropy_of_bfloat16_logits(ops: Mapping[str, np.ndarray]) -> None:
    logits = tensor(ops, "ce/logits").bfloat16()
    close(cell_cross_entropy(logits, tensor(ops, "ce/labels")), ops["ce/stablemax_bf16_logits"], 1e-12)


def test_stablemax_gradient_at_zero_is_the_official_one() -> None:
    ours, official = (torch.tensor([-1.0, 0.0, 0.5], requires_grad=True) for _ in range(2))
    stablemax(ours).sum().backward()
    torch.where(official < 0, 1 / (1 - official + 1e-30), official + 1).sum().backward()
    assert torch.equal(ours.grad, official.grad)


def test_stablemax_gradient_is_finite_at_one() -> None:
    """The textbook form with `where` divides by 1 - x + 1e-30 in its unused branch and gives NaN there."""
    x = torch.ones(3, requires_grad=True)
    stablemax(x).sum().backward()
    assert torch.equal(x.grad, torch.ones(3))
    textbook = torch.ones(3, requires_grad=True)
    torch.where(textbook < 0, 1 / (1 - textbook + 1e-30), textbook + 1).sum().backward()
    assert textbook.grad.isnan().all()


# -- layers


@pytest.mark.parametrize("case", [0, 1, 2])
def test_rms_norm(ops: Mapping[str, np.ndarray], case: int) -> None:
    x, eps = tensor(ops, f"rms_norm/{case}/x").requires_grad_(), float(ops[f"rms_norm/{case}/eps"])
    y = rms_norm(x, eps)
    close(y, ops[f"rms_norm/{case}/y"])
    y.backward(tensor(ops, f"rms_norm/{case}/cotangent"))
    close(x.grad, ops[f"rms_norm/{case}/grad"])
    low = rms_norm(x.detach().bfloat16(), eps)
    assert low.dtype == torch.bfloat16
    # 2^-8: a mean summed in another order may fall on the other side of a bfloat16 rounding
    close(low.float(), ops[f"rms_norm/{case}/y_from_bf16_as_f32"], 2**-8)


def test_rms_norm_over_the_first_axis_is_the_one_over_the_last(ops: Mapping[str, np.ndarray]) -> None:
    close(
        rms_norm(tensor(ops, "rms_norm/0/x").permute(2, 0, 1), 1e-5, dim=0).permute(1, 2, 0),
        ops["rms_norm/0/y"],
    )


def test_rms_norm_of_a_zero_row(ops: Mapping[str, np.ndarray]) -> None:
    assert torch.equal(rms_norm(torch.zeros(1, 8), 1e-5), tensor(ops, "rms_norm/zero_row_y"))


@pytest.mark.parametrize("shape", [(8, 32, 10000), (16, 97, 10000), (64, 97, 10000), (8, 21, 500)])
def test_rope_tables(ops: Mapping[str, np.ndarray], shape: tuple[int, int, int]) -> None:
    """1e-5: an angle of 96 radians carries a float32 rounding of 4e-6 when cos and sin libraries differ."""
    width, tokens, theta = shape
    for ours, name in zip(rope_tables(tokens, width, float(theta)), ("cos", "sin"), strict=True):
        close(ours, ops[f"rope/d{width}_n{tokens}_b{theta}/{name}"], 1e-5)


def test_rotation(ops: Mapping[str, np.ndarray]) -> None:
    cos, sin = (tensor(ops, f"rope/d8_n32_b10000/{name}") for name in ("cos", "sin"))
    for name in ("q", "k"):
        turned = rotate(tensor(ops, f"rope/{name}").transpose(1, 2), cos, sin).transpose(1, 2)
        close(turned, ops[f"rope/{name}_rot"])


@pytest.mark.parametrize("rope", [True, False])
def test_attention(ops: Mapping[str, np.ndarray], rope: bool) -> None:
    """2e-6: 32-term sums of matrix kernels and the softmax, in another order on another processor."""
    attention = Attention(32, num_heads=4, head_dim=8)
    fill(attention.qkv_proj, ops["attention/qkv_w"])
    fill(attention.o_proj, ops["attention/o_w"])
    tables = rope_tables(32, 8, 10000.0) if rope else None
    y = attention(tensor(ops, "attention/x").transpose(0, 1), tables).transpose(0, 1)
    close(y, ops["attention/y_rope" if rope else "attention/y_norope"], 2e-6)


@pytest.mark.parametrize("over_tokens", [False, True])
def test_swiglu(ops: Mapping[str, np.ndarray], over_tokens: bool) -> None:
    """2e-6 as for attention. Over tokens, the first axis in the role of the last gives the same numbers."""
    swiglu = SwiGLU(32, 4.0, over_tokens)
    fill(swiglu.gate_up_proj, ops["swiglu/gate_up_w"])
    fill(swiglu.down_proj, ops["swiglu/down_w"])
    x = tensor(ops, "attention/x")
    y = swiglu(x.permute(2, 0, 1)).permute(1, 2, 0) if over_tokens else swiglu(x)
    close(y, ops["swiglu/y"], 2e-6)


def test_swiglu_widths(ops: Mapping[str, np.ndarray]) -> None:
    table = ops["swiglu/inter_table"]
    assert [swiglu_width(int(n), float(expansion)) for n, expansion, _ in table] == table[:, 2].tolist()


def test_rounding_up_to_256(ops: Mapping[str, np.ndarray]) -> None:
    """With expansion 1.5 the inner width is n itself, rounded up."""
    table = ops["find_multiple"][ops["find_multiple"][:, 1] == 256]
    assert len(table) == 6
    assert [swiglu_width(int(n), 1.5) for n, _, _ in table] == table[:, 2].tolist()


def test_trunc_normal_draws(ops: Mapping[str, np.ndarray]) -> None:
    """torch's CPU generator gives the same uniforms on every machine; erfinv may differ in its last bits."""
    torch.manual_seed(0)
    close(trunc_normal((64, 4), 1.0), ops["trunc_normal/draws_seed0_std1_64x4"])
    assert torch.equal(trunc_normal((5,), 0.0), tensor(ops, "trunc_normal/std0"))


def test_trunc_normal_moments(ops: Mapping[str, np.ndarray]) -> None:
    """A million draws: the deviation is `std` itself (torch's own function gives 0.88 of it)."""
    for std, _, sd, low, high, kurtosis in ops["trunc_normal/std_mean_sd_min_max_kurt"]:
        draws = trunc_normal((1_000_000,), float(std), torch.Generator().manual_seed(1)).double()
        assert abs(draws.mean()) < 0.004 * std
        assert abs(draws.std() / sd - 1) < 0.003
        assert abs(draws.min() / low - 1) < 1e-3
        assert abs(draws.max() / high - 1) < 1e-3
        assert abs((draws**4).mean() / draws.var() ** 2 - kurtosis) < 0.02
    cut = nn.init.trunc_normal_(torch.empty(1_000_000), 0.0, 1.0, -2.0, 2.0)
    assert abs(cut.std() - 0.88) < 0.005


def fill(linear: nn.Module, weight: np.ndarray) -> None:
    linear.load_state_dict({"weight": torch.from_numpy(weight)}, strict=True)


# -- optimisers


def test_learning_rates(ops: Mapping[str, np.ndarray]) -> None:
    table = ops["lr/base_warm_total_minratio_step_lr"]
    ours = [
        learning_rate(int(step), base, warmup=int(warmup), total=int(total), min_ratio=ratio)
        for base, warmup, total, ratio, step, _ in table
    ]
    np.testing.assert_allclose(ours, table[:, 5], rtol=1e-12)


def test_sign_sgd_with_a_repeated_id(ops: Mapping[str, np.ndarray]) -> None:
    table, (lr, decay) = tensor(ops, "signsgd/w0"), ops["signsgd/lr_wd"]
    SignSGD(table, float(lr), float(decay)).step(
        tensor(ops, "signsgd/ids").long(), tensor(ops, "signsgd/grad")
    )
    close(table, ops["signsgd/w1"])
    untouched = [0, 3, 5]
    assert torch.equal(table[untouched], tensor(ops, "signsgd/w0")[untouched])


@pytest.mark.parametrize(("dtype", "rel"), [("float32", 1e-6), ("float64", 1e-13)])
def test_five_adam_atan2_steps(ops: Mapping[str, np.ndarray], dtype: str, rel: float) -> None:
    """Zero, huge and tiny gradients among them."""
    lr, decay, b1, b2 = (float(v) for v in ops["adam_atan2/lr_wd_b1_b2"])
    p = nn.Parameter(tensor(ops, f"adam_atan2/{dtype}/p0"))
    optimizer = AdamATan2([p], lr, (b1, b2), decay)
    for step, grad in enumerate(tensor(ops, f"adam_atan2/{dtype}/grads"), start=1):
        p.grad = grad.clone()
        optimizer.step()
        close(p, ops[f"adam_atan2/{dtype}/p{step}"], rel)
    state = optimizer.state[p]
    for moment, name in ((state["m"], "exp_avg5"), (state["v"], "exp_avg_sq5")):
        expected = tensor(ops, f"adam_atan2/{dtype}/{name}")
        torch.testing.assert_close(moment, expected, rtol=10 * rel, atol=1e-30)


def test_ema(ops: Mapping[str, np.ndarray]) -> None:
    """Rate 0.9 gives shadow1 = 0.9 w0 + 0.1 w1; the recorded values carry float32 rounding."""
    module = nn.Module()
    module.w = nn.Parameter(tensor(ops, "ema/w0"))
    ema = EMA(module, 0.9)
    for step in (1, 2, 3):
        with torch.no_grad():
            module.w.copy_(tensor(ops, f"ema/w{step}"))
        ema.update()
        close(ema.shadow["w"], ops[f"ema/shadow{step}"])
    with ema.swapped():
        close(module.w, ops["ema/shadow3"])
    close(module.w, ops["ema/w3"])
