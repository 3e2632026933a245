"""Speed measurement: what it counts must be what was run."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from loopscope.cli import app
from loopscope.config import Recipe, validated
from loopscope.errors import UserError
from loopscope.models import build_model
from loopscope.models.layers import ReasoningModule
from loopscope.tasks import Batch
from loopscope.training import bench, setup
from loopscope.training.loop import Trainer
from loopscope.training.memory import activation_bytes
from loopscope.training.run import plan, training_flops
from small_runs import MODEL, TRAIN, recipe, small_puzzles

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SIZES", {"cpu": (64, 128)})


def shrunk(**train: Any) -> Recipe:
    """A small TRM on random 9x9 boards."""
    values = {"model": MODEL, "train": {**TRAIN, **train}, "data": {"validation": 0}}
    return validated(Recipe, values)


def test_numbers_fit_together() -> None:
    found, trainer = bench.bench_train(shrunk(batch_size=4, micro_batch=2), rounds=3, device="cpu")
    assert trainer.step == 3 + 3
    assert found["flops"] == 4 * training_flops(trainer.model)
    assert found["rate"] == pytest.approx(found["flops"] / found["seconds"])
    assert found["fraction"] == pytest.approx(found["rate"] / found["peak"])
    assert found["seconds_low"] <= found["seconds"] <= found["seconds_high"]
    assert (found["batch_size"], found["micro_batch"], found["random_boards"]) == (4, 2, True)
    assert 0 < found["processor_seconds"] < 60
    assert (found["dtype"], found["threads"], found["compile"]) == ("float32", torch.get_num_threads(), False)


def test_product_rate_counts_two_per_multiply_add(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "seconds_of", lambda act, device: (act(), 0.5)[1])
    assert bench.product_rate(64, torch.float32, CPU) == 2 * (2 * 64**3) / 0.5  # two calls


def test_seconds_are_wall_clock() -> None:
    assert 0.02 <= bench.seconds_of(lambda: time.sleep(0.02), CPU) < 1


def test_own_puzzles_are_used_and_unknown_tasks_need_them() -> None:
    trainer, made_up = bench.bench_trainer(recipe(), CPU)
    assert not made_up
    assert trainer.model.settings.seq_len == 16
    with pytest.raises(UserError, match=r"data\.path is not set"):
        bench.bench_trainer(validated(Recipe, {"data": {"task": "lamps"}}), CPU)


@pytest.mark.parametrize("task", sorted(bench.CELLS))
def test_random_boards_have_the_papers_size(task: str) -> None:
    boards = bench.random_boards(task)
    assert boards.inputs.shape == (1024, bench.CELLS[task])
    assert boards.inputs.max() == boards.task.vocab_size - 1


def test_probe_scales_a_micro_batch_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "seconds_of", lambda act, device: (act(), 2.0)[1])
    found = bench.probe(recipe(train={"batch_size": 8, "micro_batch": 2}), small_puzzles(), device="cpu")
    assert found == {"seconds": 8.0, "rows": 2}


def test_probe_of_a_large_model_takes_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "training_flops", lambda model: 3e11)
    monkeypatch.setattr(bench, "seconds_of", lambda act, device: 1.0)
    assert bench.probe(recipe(), small_puzzles(), device="cpu")["rows"] == 3


def test_probe_of_a_part_of_the_batch_flosses_as_large_a_part(monkeypatch: pytest.MonkeyPatch) -> None:
    flossing = {"micro_batch": 2, "flossing_weight": 0.1, "flossing_slots": 8, "flossing_exponents": 1}
    seen: list[tuple[int, int]] = []
    step = Trainer.train_step

    def spy(self: Trainer) -> None:
        seen.append((self.settings.batch_size, self.settings.flossing_slots))
        step(self)

    monkeypatch.setattr(Trainer, "train_step", spy)
    bench.probe(recipe(train=flossing), small_puzzles(), device="cpu", rounds=1)
    assert set(seen) == {(2, 2)}


@pytest.mark.parametrize("variant", ["float32", "bfloat16", "everything", "attention"])
def test_activations_are_what_autograd_keeps(variant: str) -> None:
    """The count on fake tensors equals that of a real segment."""
    model = {"seq_len": 16, "vocab_size": 6, "num_puzzle_identifiers": 7}
    if variant == "attention":
        variant, model = "bfloat16", model | {"mlp_t": False, "pos_encodings": "rope"}
    settings = recipe(variant, model=model).model
    real = build_model(settings, seed=0)
    kept: dict[int, Any] = {}
    weights = {t.data_ptr() for t in (*real.parameters(), *real.buffers())}
    inputs = torch.ones(4, 16, dtype=torch.int32)
    batch = Batch(inputs, torch.zeros(4, dtype=torch.int32))

    def keep(t: torch.Tensor) -> torch.Tensor:
        if t.untyped_storage().data_ptr() not in weights:
            kept[t.untyped_storage().data_ptr()] = t
        return t

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        ctx = real.encode(batch)
        real.readout(real.training_segment(real.initial_state(ctx), ctx))
    seen = sum(t.untyped_storage().nbytes() for t in kept.values())
    assert activation_bytes(settings, 4) == seen


def test_profile_shares_add_up() -> None:
    trainer, _ = bench.bench_trainer(shrunk(batch_size=2), CPU)
    trainer.train_step()
    rows = bench.profile_step(trainer, most=5)
    assert len(rows) == 6
    assert sum(share for *_, share in rows) == pytest.approx(1)
    assert [r[2] for r in rows[:5]] == sorted((r[2] for r in rows[:5]), reverse=True)
    assert "aten::mm" in [name for name, *_ in bench.profile_step(trainer, most=50)]


def test_command_writes_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "speed.json"
    small = [
        "model.hidden_size=16",
        "model.num_heads=2",
        "model.puzzle_emb_ndim=16",
        "model.puzzle_emb_len=1",
    ]
    words = ["bench", "train", "sudoku-trm-att", *small, "train.batch_size=2", "train.compile=false"]
    import loopscope.cli.bench  # noqa: F401

    app(args=[*words, "--rounds", "2", "--profile", "--json", str(out)], standalone_mode=False)
    found = json.loads(out.read_text())
    assert found["rounds"] == 2
    assert found["recipe"] == "sudoku-trm-att"
    assert found["versions"].startswith("loopscope")
    said = capsys.readouterr().out
    assert "fraction" in said
    assert "ms, median of 2 (quartiles" in said
    assert "processor time" in said
    assert "aten::mm" in said


@pytest.mark.parametrize(
    ("mode", "passed"), [("default", None), ("max-autotune-no-cudagraphs", "max-autotune-no-cudagraphs")]
)
def test_blocks_are_compiled_in_the_mode_asked_for(
    mode: str, passed: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(ReasoningModule, "compile", lambda self, **how: asked.append(how))
    monkeypatch.setattr(setup, "missing_for_compile", lambda device: "")
    bench.bench_trainer(shrunk(compile=True, compile_mode=mode), CPU)
    assert asked == [{"dynamic": False, "mode": passed}]


def test_plan_counts_the_activations_of_a_micro_batch() -> None:
    whole, micro, recomputed = (
        plan(recipe(train=train), small_puzzles())["activation bytes"]
        for train in ({}, {"micro_batch": 2}, {"activation_checkpointing": True})
    )
    assert whole == pytest.approx(4 * micro, rel=0.02)  # float32: no copies of the weights among them
    assert recomputed < 0.6 * whole


def test_dry_run_tells_how_long(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    import loopscope.cli.train  # noqa: F401

    monkeypatch.setattr(bench, "seconds_of", lambda act, device: (act(), 3.0)[1])
    small = ["model.hidden_size=16", "model.num_heads=2", "train.compile=false", "train.steps=60"]
    words = ["train", "sudoku6-cpu", *small, "data.generate.count=40", "data.validation=8", "--dry-run"]
    app(args=words, standalone_mode=False)
    said = capsys.readouterr().out
    assert "12 s per step, measured here with 32 puzzles; 12 min for the run" in said
    assert "activation bytes" in said
    app(args=[*words, "--no-probe"], standalone_mode=False)
    assert "per step, measured" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["sudoku-trm-mlp", "maze-hrm", "arc1-trm-att", "sudoku-fast"])
def test_dry_run_needs_no_puzzles(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What a paper's run costs is told before its data is at hand."""
    import loopscope.cli.train  # noqa: F401

    app(args=["train", name, "--dry-run", "--no-probe"], standalone_mode=False)
    said = " ".join(capsys.readouterr().out.split())
    assert "training puzzles 1,000" in said
    assert "counted for 1,000 random boards of the papers' size" in said
    assert name != "sudoku-trm-mlp" or "steps 65,104" in said


def test_dry_run_probes_random_boards(capsys: pytest.CaptureFixture[str]) -> None:
    import loopscope.cli.train  # noqa: F401

    small = ["model.hidden_size=16", "model.num_heads=2", "model.puzzle_emb_ndim=16", "model.L_layers=1"]
    small += ["train.compile=false", "train.batch_size=2", "train.micro_batch=0"]
    app(args=["train", "maze-trm-att", *small, "--dry-run"], standalone_mode=False)
    assert "s per step, measured here with 2 puzzles" in capsys.readouterr().out
