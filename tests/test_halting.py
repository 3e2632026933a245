"""Carry slots: who halts, who takes a new puzzle, what is counted."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from loopscope.config import ModelSettings, validated
from loopscope.latent import rows
from loopscope.models import HL, Readout, RecursiveModel, build_model
from loopscope.tasks.base import PuzzleSet
from loopscope.training import halting
from loopscope.training.setup import make_trainer, resolve, split
from small_runs import recipe, trainer

# -- slots


def test_slots_keep_their_puzzle_until_they_halt(puzzles: PuzzleSet, tmp_path: Path) -> None:
    made = trainer(recipe("exploration", model={"halt_max_steps": 4}), puzzles, tmp_path)
    early = 0
    for step in range(40):
        before = made.carry
        made.train_step()
        after, incoming = made.carry, made.stream.batch(step)
        kept = ~before.halted
        assert len(after.steps) == 8
        assert after.data.inputs[kept].equal(before.data.inputs[kept])
        assert after.data.labels[kept].equal(before.data.labels[kept])
        assert after.data.inputs[~kept].equal(incoming.inputs[~kept])
        assert after.data.puzzle_ids[~kept].equal(incoming.puzzle_ids[~kept])
        assert after.steps[kept].equal(before.steps[kept] + 1)
        assert (after.steps[~kept] == 1).all()
        assert ((after.steps <= 4) & (after.halted | (after.steps < 4))).all()
        early += int((after.halted & (after.steps < 4)).sum())
        made.total_steps = 100
    assert early > 0  # the model's own decisions were exercised


def test_only_halted_slots_are_refilled(puzzles: PuzzleSet) -> None:
    settings = resolve(recipe("random_init"), puzzles).model
    model = build_model(settings, seed=0)
    carry = halting.empty_carry(model, puzzles[:6].batch())
    z = HL(torch.full_like(carry.z.z_H, 3.0), torch.full_like(carry.z.z_L, 4.0))
    halted = torch.tensor([True, False, False, True, False, True])
    carry = carry._replace(z=z, steps=torch.arange(6, dtype=torch.int32), halted=halted)
    incoming = puzzles[6:12].batch()
    new = halting.refill(model, carry, incoming, torch.Generator().manual_seed(0))
    assert new.steps.tolist() == [0, 1, 2, 0, 4, 0]
    assert not new.halted.any()
    assert (rows(new.z, ~halted).z_H == 3).all()
    assert (rows(new.z, ~halted).z_L == 4).all()
    start = model.initial_state(model.encode(incoming), torch.Generator().manual_seed(0))
    assert rows(new.z, halted).z_H.equal(rows(start, halted).z_H)
    assert new.data.inputs[halted].equal(incoming.inputs[halted])
    assert new.data.inputs[~halted].equal(puzzles[:6].batch().inputs[~halted])


def test_exploration_is_uniform_with_the_given_probability() -> None:
    settings = validated(ModelSettings, {"halt_max_steps": 6, "halt_exploration_prob": 0.3})
    drawn = halting.exploration_steps(20_000, settings, torch.Generator().manual_seed(0))
    counts = torch.bincount(drawn, minlength=7).numpy()
    assert counts[1] == 0
    expected = 20_000 * np.array([0.7, *[0.3 / 5] * 5])
    assert stats.chisquare(np.delete(counts, 1), expected).pvalue > 1e-3


def test_a_budget_of_one_segment_needs_no_exploration() -> None:
    settings = validated(ModelSettings, {"halt_max_steps": 1})
    assert halting.exploration_steps(5, settings, torch.Generator()).tolist() == [0] * 5


def readout(halt: list[float], go_on: list[float] | None = None) -> Readout:
    return Readout(torch.zeros(len(halt), 1, 2), torch.tensor(halt), torch.tensor(go_on or [0.0] * len(halt)))


def test_when_slots_halt() -> None:
    """By hand, budget 4: the budget wins over everything, exploration over the model."""
    out = readout([-1.0, -1.0, 1.0, 1.0, 1.0, 0.0], [2.0, -2.0, 2.0, 0.5, 0.5, -1.0])
    steps = torch.tensor([4, 2, 2, 2, 2, 2], dtype=torch.int32)
    min_steps = torch.tensor([4, 0, 0, 3, 2, 0], dtype=torch.int32)
    trm = validated(ModelSettings, {"halt_max_steps": 4})
    hrm = validated(ModelSettings, {"halt_max_steps": 4, "no_ACT_continue": False})
    assert halting.halt(trm, out, steps, min_steps).tolist() == [True, False, True, False, True, False]
    assert halting.halt(hrm, out, steps, min_steps).tolist() == [True, True, False, False, True, True]


def test_the_continue_target_looks_one_segment_ahead() -> None:
    class Heads(RecursiveModel):
        """A map z -> z + 1 whose heads read z off: halt z, continue 2 - z."""

        def __init__(self) -> None:
            torch.nn.Module.__init__(self)
            self.settings = validated(ModelSettings, {"halt_max_steps": 3, "no_ACT_continue": False})

        def segment(self, z: Any, ctx: Any) -> Any:
            return z + 1

        def readout(self, z: Any, ctx: Any = None) -> Readout:
            return Readout(torch.zeros(len(z), 1, 1), z, 2 - z)

    z, steps = torch.tensor([-1.0, 2.0, -1.0]), torch.tensor([1, 2, 3], dtype=torch.int32)
    target = halting.continue_target(Heads(), z, None, steps)
    # next z: 0, 3, 0; the larger head, but at the budget the halting one alone
    expected = [1 / (1 + math.exp(-v)) for v in (2.0, 3.0, 0.0)]
    assert target.tolist() == pytest.approx(expected)


def test_metrics_count_what_halted(puzzles: PuzzleSet, tmp_path: Path) -> None:
    """A model that never halts by itself, budget 3: every slot finishes at steps 3, 6 and 9."""
    settings = recipe(train={"log_every": 4, "steps": 10})
    made = make_trainer(resolve(settings, puzzles), split(settings, puzzles)[0], tmp_path)
    made.run(progress=False)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 8, 10]
    assert [line["halted"] for line in lines] == [8, 8, 8]
    assert [line["segments"] for line in lines] == [3, 3, 3]
    for line in lines:
        parts = line["cell_loss"] + 0.5 * (line["halt_loss"] + line["continue_loss"])
        assert line["loss"] == pytest.approx(parts)
    first = -math.log(1 / 6)  # six tokens, random weights: near the loss of a uniform guess
    assert abs(lines[0]["cell_loss"] - first) < 0.5
    assert lines[0]["lr"] == pytest.approx(1e-2 * (0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 2 / 8))))


def test_an_empty_class_has_no_accuracy(puzzles: PuzzleSet, tmp_path: Path) -> None:
    settings = recipe(model={"halt_max_steps": 16}, train={"steps": 3})
    make_trainer(resolve(settings, puzzles), split(settings, puzzles)[0], tmp_path).run(progress=False)
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line["halted"] == 0
    assert line["exact_accuracy"] is None
