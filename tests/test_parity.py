"""Equal to the official code: states, logits, losses, gradients, optimiser steps, EMA, learning rates."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from loopscope.latent import tree_map
from loopscope.models import HL, Readout, build_model
from loopscope.models.official import settings_from_arch, strip_prefix
from loopscope.tasks.base import Batch
from loopscope.training import halting
from loopscope.training.ema import EMA
from loopscope.training.loss import SegmentLoss, cell_cross_entropy, segment_loss
from loopscope.training.optim import AdamATan2, SignSGD, learning_rate
from shared import shared_path

FOLDER = "fixtures/official_parity"
TRAINED = [
    "trm_mlp_h64",
    "trm_mlp",
    "trm_att_rope",
    "trm_att_learned_len1",
    "trm_mlp_noemb",
    "trm_att_pademb",
    "trm_att_actcontinue",
    "hrm_rope",
    "hrm_learned_softmax",
    "hrm_noemb",
]
STATE_ATOL = [1e-4, 1e-3, 1e-2, 5e-2]  # segments 1..4: these random maps expand


class Case:
    """One recorded case: settings, arrays and a model with the recorded weights."""

    def __init__(self, name: str, device: str) -> None:
        self.device = device
        self.facts = json.loads(shared_path(f"{FOLDER}/{name}.json").read_text())
        self.arrays = np.load(shared_path(f"{FOLDER}/{name}.npz"))
        self.loss = self.facts["loss_type"].removesuffix("_cross_entropy")
        family = "hrm" if name.startswith("hrm") else "trm"
        self.settings = settings_from_arch({"arch": family, **self.facts["config"]}, {})
        self.model = build_model(self.settings)
        state = {
            k.removeprefix("state/"): torch.from_numpy(self.arrays[k])
            for k in self.arrays
            if k.startswith("state/")
        }
        self.model.load_state_dict(strip_prefix(state), strict=True)
        self.model.to(device)

    def __getitem__(self, key: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.arrays[key])).to(self.device)

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def batch(self, prefix: str) -> Batch:
        keys = ("inputs", "puzzle_identifiers", "labels")
        return Batch(*(self[f"{prefix}/{key}"].long() for key in keys))


@pytest.fixture(params=TRAINED)
def case(request: pytest.FixtureRequest, device: str) -> Case:
    return Case(request.param, device)


def flat_sample(t: torch.Tensor) -> torch.Tensor:
    flat = t.detach().flatten()
    return flat if len(flat) <= 256 else flat[np.linspace(0, len(flat) - 1, 256).astype(np.int64)]


def close(actual: Any, expected: Any, **tolerance: float) -> None:
    actual, expected = (
        torch.as_tensor(v, dtype=torch.float64, device="cpu").detach() for v in (actual, expected)
    )
    torch.testing.assert_close(actual.reshape(expected.shape), expected, **{"rtol": 0, "atol": 0} | tolerance)


def test_input_embeddings(case: Case) -> None:
    close(case.model.encode(case.batch("eval/batch")).x, case["eval/input_embeddings"], atol=1e-5)


def test_every_block_call_of_the_first_segment(case: Case) -> None:
    norms: list[float] = []
    names = [n for n in ("L_level", "H_level") if hasattr(case.model, n)]
    for name in names:
        getattr(case.model, name).register_forward_hook(
            lambda *call: norms.append(call[2].detach().double().norm().item())
        )
    ctx = case.model.encode(case.batch("eval/batch"))
    case.model.segment(case.model.initial_state(ctx), ctx)
    close(norms, case["eval/seg1/module_call_norms"], rtol=1e-5)


def states(case: Case, rounding: float = 0.0) -> list[HL]:
    """Our four segments, from a start changed by a relative `rounding`."""
    ctx = case.model.encode(case.batch("eval/batch"))
    z = tree_map(lambda t: t * (1 + rounding), case.model.initial_state(ctx))
    return [z := case.model.segment(z, ctx) for _ in range(4)]


@torch.no_grad()
def test_evaluation_states_logits_and_losses(case: Case) -> None:
    """Tolerance: the recorded one, or ten times what the map makes of a single rounding of the start.

    The widest mixer multiplies a rounding by about 100 per segment; two processors with different
    matrix kernels then differ by more than 1e-4 after one segment, and comparing ends where rounding
    has grown to 0.1.
    """
    batch, compared = case.batch("eval/batch"), 0
    for t, (z, changed) in enumerate(zip(states(case), states(case, 2**-23), strict=True), start=1):
        grown = 10 * max((a - b).abs().max().item() for a, b in zip(z, changed, strict=True))
        if t > case.settings.halt_max_steps or grown > 0.1:  # the recorded sequence resets after halting
            break
        key, atol = f"eval/seg{t}", max(STATE_ATOL[t - 1], grown)
        out = case.model.readout(z)
        close(z.z_H, case[f"{key}/z_H"], atol=atol)
        close(z.z_L, case[f"{key}/z_L"], atol=atol)
        close(out.logits, case[f"{key}/logits"], atol=atol)
        close(out.halt_logit, case[f"{key}/q_halt_logits"], atol=atol)
        close(out.continue_logit, case[f"{key}/q_continue_logits"], atol=atol)
        for kind in ("stablemax", "softmax"):
            close(
                cell_cross_entropy(out.logits, batch.labels, kind), case[f"{key}/{kind}_ce"], atol=10 * atol
            )
        loss = segment_loss(out, batch.labels, case.loss)
        close(loss.total, case[f"{key}/loss"], rtol=max(1e-4, atol))
        compared += 1
    assert compared >= 1


class Step(NamedTuple):
    """One training step of ours: everything the recording also has."""

    number: int
    carry: halting.Carry
    out: Readout
    loss: SegmentLoss
    target: torch.Tensor | None
    table_grad: torch.Tensor | None
    lr: float


def training_steps(case: Case, ema: EMA, rounding: float = 0.0) -> Iterator[Step]:
    """Train on the recorded batches; the first start is changed by a relative `rounding`.

    Every step is handed out between its backward pass and its update of the weights.
    """
    model, optim, settings = case.model, case.facts["optim"], case.settings
    betas = (optim["beta1"], optim["beta2"])
    adam = AdamATan2(model.parameters(), lr=0.0, betas=betas, weight_decay=optim["weight_decay"])
    table = model.puzzle_emb.weights if settings.puzzle_emb_ndim else None
    sign = None if table is None else SignSGD(table, 0.0, optim["puzzle_emb_weight_decay"])
    rate = {"warmup": optim["warmup"], "total": optim["total_steps"], "min_ratio": optim["lr_min_ratio"]}
    carry = halting.empty_carry(model, case.batch("train/step1/batch"))
    for number in (1, 2, 3):
        carry = halting.refill(model, carry, case.batch(f"train/step{number}/batch"), None)
        start = tree_map(lambda t: t * (1 + rounding), carry.z) if number == 1 else carry.z
        rows = None if table is None else table[carry.data.puzzle_ids].clone().requires_grad_()
        ctx = model.encode(carry.data, rows)
        z = model.training_segment(start, ctx)
        out = model.readout(z, ctx)
        steps = carry.steps + 1
        halted = halting.halt(settings, out, steps, torch.zeros_like(steps))
        target = halting.continue_target(model, z, ctx, steps) if model.trains_continue else None
        loss = segment_loss(out, carry.data.labels, case.loss, target)
        (loss.total / len(steps)).backward()
        carry = halting.Carry(tree_map(torch.detach, z), steps, halted, carry.data)
        lr = adam.param_groups[0]["lr"] = learning_rate(number, optim["lr"], **rate)
        yield Step(number, carry, out, loss, target, None if rows is None else rows.grad, lr)
        if sign is not None and rows is not None:
            sign.lr = learning_rate(number, optim["puzzle_emb_lr"], **rate)
            sign.step(carry.data.puzzle_ids, rows.grad)
        adam.step()
        adam.zero_grad()
        ema.update()


def test_three_training_steps(case: Case) -> None:
    """All three steps, unless the map has blown a rounding of the start up to 0.1 before.

    That happens in one case only, the widest mixer, where two processors with different matrix kernels
    part after the first step.
    """
    twin = Case(case.facts["name"], case.device)
    ema, compared = EMA(case.model, case.facts["optim"]["ema_rate"]), 0
    other = training_steps(twin, EMA(twin.model, 0.9), 2**-23)
    for step, changed in zip(training_steps(case, ema), other, strict=True):
        if 10 * (step.out.logits - changed.out.logits).abs().max() > 0.1:
            break
        check_step(case, step)
        if step.number == 1:
            check_gradients(case, step.table_grad)
        else:
            check_table(case, step.number - 1)
        compared += 1
    assert compared == 3 or case.facts["name"] == "trm_mlp_h64"
    if compared == 3:
        check_table(case, 3)
        check_parameters(case, ema)


def check_step(case: Case, step: Step) -> None:
    key, atol = f"train/step{step.number}", 2 * STATE_ATOL[step.number - 1]
    rtol = [1e-4, 1e-3, 5e-3][step.number - 1]
    carry, loss = step.carry, step.loss
    close(loss.total, case[f"{key}/loss"], rtol=rtol)
    close(step.out.logits, case[f"{key}/out/logits"], atol=atol)
    if f"{key}/out/target_q_continue" in case:
        close(step.target, case[f"{key}/out/target_q_continue"], atol=atol)
    assert torch.equal(carry.halted, case[f"{key}/carry/halted"])
    assert torch.equal(carry.steps, case[f"{key}/carry/steps"])
    assert torch.equal(carry.data.inputs, case[f"{key}/carry/current/inputs"].long())
    counted = carry.halted & (carry.data.labels != -100).any(1)
    assert counted.sum() == case[f"{key}/metrics/count"]
    assert (loss.row_exact & counted).sum() == case[f"{key}/metrics/exact_accuracy"]
    assert (loss.row_halt_right & counted).sum() == case[f"{key}/metrics/q_halt_accuracy"]
    assert (carry.steps * counted).sum() == case[f"{key}/metrics/steps"]
    close((loss.row_accuracy * counted).sum(), case[f"{key}/metrics/accuracy"], atol=1e-6)
    close(loss.cell, case[f"{key}/metrics/lm_loss"], rtol=rtol)
    close(loss.halt, case[f"{key}/metrics/q_halt_loss"], rtol=rtol)
    close(step.lr, case[f"{key}/lr"], rtol=1e-12)


def check_gradients(case: Case, table_grad: torch.Tensor | None) -> None:
    for name, p in case.model.named_parameters():
        grad = torch.zeros_like(p) if p.grad is None else p.grad
        close(grad.double().norm(), case[f"train/step1/grad_norm/model.inner.{name}"], rtol=1e-4, atol=1e-12)
        expected = case[f"train/step1/grad_sample/model.inner.{name}"]
        close(flat_sample(grad), expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item() + 1e-12)
    if table_grad is not None:
        expected = case["train/step1/grad_full/local_puzzle_emb"]
        close(table_grad, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def check_table(case: Case, step: int) -> None:
    if case.settings.puzzle_emb_ndim:
        after = case[f"train/step{step}/after/model.inner.puzzle_emb.weights"]
        close(case.model.puzzle_emb.weights, after, atol=1e-7)


def check_parameters(case: Case, ema: EMA) -> None:
    """After three steps 99.5 % of the entries within 1e-3: atan2 of a tiny gradient has any sign."""
    near, total = 0, 0
    for name, p in case.model.named_parameters():
        full, sample = f"train/step3/after/model.inner.{name}", f"train/step3/after_sample/model.inner.{name}"
        actual, expected = (p.detach(), case[full]) if full in case else (flat_sample(p), case[sample])
        near += int(((actual - expected.reshape(actual.shape)).abs() <= 1e-3).sum())
        total += actual.numel()
        shadow = f"train/ema3_sample/model.inner.{name}"
        if shadow in case:
            gap = (flat_sample(ema.shadow[name]) - case[shadow]).abs()
            assert (gap <= 1e-3).double().mean() >= 0.995, name
    assert near / total >= 0.995


@torch.no_grad()
def test_bfloat16_forward(device: str) -> None:
    case = Case("trm_mlp_bf16", device)
    ctx = case.model.encode(case.batch("eval/batch"))
    z = case.model.segment(case.model.initial_state(ctx), ctx)
    assert z.z_H.dtype == torch.bfloat16
    close(z.z_H, case["eval/seg1/z_H"], atol=0.15)
    close(case.model.readout(z).logits, case["eval/seg1/logits"], atol=0.15)


def test_recorded_cases_are_all_used() -> None:
    recorded = {p.stem for p in shared_path(FOLDER).glob("*.npz")} - {"ops"}
    assert {n for n in recorded if not n.startswith("lyap_")} == {*TRAINED, "trm_mlp_bf16"}
