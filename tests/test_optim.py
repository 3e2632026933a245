"""Choices of the optimiser: AdamW, clipping, frozen weights; and that none of them breaks a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from loopscope.config import Recipe, TrainSettings, validated
from loopscope.errors import UserError
from loopscope.tasks.base import PuzzleSet
from loopscope.training.optim import AdamATan2, clip_gradients, make_optimizers
from small_runs import recipe, trainer
from tiny import tiny_model

# -- adamw


def test_adamw_is_that_of_the_paper() -> None:
    """Five steps against the recurrence of Loshchilov and Hutter (1711.05101), in float64 by numpy."""
    layer = nn.Linear(5, 4, bias=False).double()
    t = validated(
        TrainSettings,
        {"optimizer": "adamw", "lr": 0.03, "beta1": 0.8, "beta2": 0.9, "weight_decay": 0.2},
    )
    (optimizer,) = make_optimizers(layer, t)
    assert [group["base_lr"] for group in optimizer.param_groups] == [0.03]
    w = layer.weight.detach().numpy().copy()
    m, v, rng = np.zeros_like(w), np.zeros_like(w), np.random.default_rng(0)
    for step in range(1, 6):
        g = rng.standard_normal(w.shape)
        layer.weight.grad = torch.from_numpy(g)
        optimizer.step()
        m, v = 0.8 * m + 0.2 * g, 0.9 * v + 0.1 * g**2
        m_hat, v_hat = m / (1 - 0.8**step), v / (1 - 0.9**step)
        w = w - 0.03 * (m_hat / (np.sqrt(v_hat) + 1e-8) + 0.2 * w)
        np.testing.assert_allclose(layer.weight.detach().numpy(), w, rtol=0, atol=1e-12)


def test_the_default_stays_the_official_one() -> None:
    model = tiny_model()
    (optimizer,) = make_optimizers(model, TrainSettings())
    assert isinstance(optimizer, AdamATan2)
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {id(p) for p in model.parameters()}


# -- clipping


def gradients(scale: float) -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    generator = torch.Generator().manual_seed(0)
    for p in list(model.parameters())[:3]:  # the last has none
        p.grad = scale * torch.randn(p.shape, generator=generator)
    return model


@pytest.mark.parametrize(("scale", "most"), [(10.0, 1.0), (1e-3, 1.0), (10.0, 0.0)])
def test_gradients_are_clipped_by_their_joint_norm(scale: float, most: float) -> None:
    model, before = gradients(scale), gradients(scale)
    clip_gradients(model, most)
    old, new = (
        np.concatenate([p.grad.numpy().ravel() for p in m.parameters() if p.grad is not None])
        for m in (before, model)
    )
    norm = np.linalg.norm(old)
    expected = old * most / norm if 0 < most < norm else old
    np.testing.assert_allclose(new, expected, rtol=1e-5)


def test_clipping_reaches_the_update(puzzles: PuzzleSet, tmp_path: Path) -> None:
    """The mean of the gradients that AdamATan2 keeps is (1 - beta1) times a gradient of the set norm."""
    for most, expected in ((0.01, 0.01), (1e6, None)):
        made = trainer(recipe(train={"grad_clip": most}), puzzles, tmp_path)
        made.train_step()
        (optimizer,) = made.optimizers
        means = [state["m"].ravel() for state in optimizer.state.values()]
        norm = float(torch.cat(means).norm()) / 0.1
        assert norm == pytest.approx(expected, rel=1e-3) if expected else norm > 0.1


# -- frozen weights


def test_frozen_weights_learn_the_table_alone(puzzles: PuzzleSet, tmp_path: Path) -> None:
    """The first step moves the table as it does when everything learns; no weight moves, ever."""
    tables = []
    for frozen in (False, True):
        settings = recipe("puzzle_emb", train={"freeze_weights": frozen, "micro_batch": 0})
        made = trainer(settings, puzzles, tmp_path / str(frozen))
        before = {k: v.clone() for k, v in made.model.state_dict().items()}
        made.train_step()
        tables.append(made.model.puzzle_emb.weights.clone())
    assert tables[0].any()
    assert tables[1].equal(tables[0])
    made.run(progress=False)
    assert not made.model.puzzle_emb.weights.equal(tables[1])
    for name, value in made.model.state_dict().items():
        assert name == "puzzle_emb.weights" or value.equal(before[name]), name
    lines = [json.loads(line) for line in (tmp_path / "True" / "metrics.jsonl").read_text().splitlines()]
    assert lines[0]["lr"] > 0


def test_a_trainer_thaws_what_another_froze() -> None:
    model = tiny_model(puzzle_emb_ndim=16)
    assert make_optimizers(model, TrainSettings(freeze_weights=True)) == []
    assert not any(p.requires_grad for p in model.parameters())
    make_optimizers(model, TrainSettings())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"train": {"freeze_weights": True}}, "train.freeze_weights=true, but model.puzzle_emb_ndim=0"),
        ({"train": {"freeze_weights": True, "grad_clip": 1.0}}, "freeze_weights=true leaves nothing to"),
        ({"model": {"random_init": True}, "train": {"start_noise": 0.1}}, "model.random_init=true"),
        ({"train": {"flossing_weight": 1.0, "batch_size": 8}}, "flossing_slots=16 is more than batch_size=8"),
    ],
)
def test_contradictions(values: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        validated(Recipe, values)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
