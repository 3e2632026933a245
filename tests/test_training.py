"""Training: exact resuming, slots, whole checkpoints, and that it learns."""

from __future__ import annotations

import json
import logging
import math
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from loopscope.config import ModelSettings, Recipe, load_recipe, validated
from loopscope.errors import UserError
from loopscope.latent import rows
from loopscope.models import HL, Readout, RecursiveModel, build_model
from loopscope.tasks.base import PuzzleSet
from loopscope.tasks.sudoku import Sudoku
from loopscope.tasks.sudoku_generate import generate
from loopscope.training import checkpoint, halting, loop, plan, setup, train
from loopscope.training.interrupt import asked_to_stop
from loopscope.training.loop import Trainer
from loopscope.training.loss import segment_loss
from loopscope.training.setup import make_trainer, resolve, split

MODEL = {
    "hidden_size": 16,
    "num_heads": 2,
    "H_cycles": 1,
    "L_cycles": 2,
    "L_layers": 1,
    "mlp_t": True,
    "pos_encodings": "none",
    "halt_max_steps": 3,
    "forward_dtype": "float32",
}
TRAIN = {
    "steps": 10,
    "batch_size": 8,
    "lr": 1e-2,
    "lr_warmup_steps": 2,
    "lr_min_ratio": 0.1,
    "ema_rate": 0.9,
    "log_every": 3,
    "checkpoint_every": 100,
}
GENERATED = {"count": 60, "givens": 7, "box_rows": 2, "box_cols": 2}

VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"model": {"forward_dtype": "bfloat16"}},
    "micro_batch": {"train": {"micro_batch": 4}},
    "random_init": {"model": {"random_init": True}},
    "puzzle_emb": {"model": {"puzzle_emb_ndim": 12}, "train": {"micro_batch": 2, "puzzle_emb_lr": 1e-2}},
    "exploration": {"model": {"halt_exploration_prob": 0.5}},
    "no_ema": {"train": {"ema": False}},
    "reveal": {"data": {"reveal": 0.5, "reveal_steps": 8}},
    "singlez": {"model": {"arch": "trm-singlez"}},
    "everything": {
        "model": {
            "arch": "hrm",
            "H_layers": 1,
            "forward_dtype": "bfloat16",
            "random_init": True,
            "no_ACT_continue": False,
            "puzzle_emb_ndim": 20,
            "halt_exploration_prob": 0.3,
        },
        "train": {"micro_batch": 2, "loss": "softmax"},
        "data": {"reveal": 0.5, "reveal_steps": 8},
    },
}


def recipe(variant: str = "float32", **changes: Mapping[str, Any]) -> Recipe:
    more = VARIANTS[variant]
    values = {
        "name": "tiny",
        "model": {**MODEL, **more.get("model", {}), **changes.get("model", {})},
        "train": {**TRAIN, **more.get("train", {}), **changes.get("train", {})},
        "data": {"generate": GENERATED, "validation": 12, **more.get("data", {}), **changes.get("data", {})},
    }
    return validated(Recipe, values)


@pytest.fixture(scope="module")
def puzzles() -> PuzzleSet:
    """60 puzzles on 4x4 boards, with seven identifiers among them."""
    made = generate(Sudoku(2, 2), 60, 7, np.random.default_rng(0))
    return PuzzleSet(
        made.task, made.inputs, made.labels, np.arange(60, dtype=np.int32) % 7, made.facts, "tiny"
    )


def trainer(settings: Recipe, puzzles: PuzzleSet, folder: Path, on_eval: Any = None) -> Trainer:
    """A trainer whose fresh model sometimes halts by itself."""
    learn, _ = split(settings, puzzles)
    made = make_trainer(resolve(settings, puzzles), learn, folder, on_eval)
    with torch.no_grad():
        made.model.q_head.bias.copy_(torch.tensor([0.3, 0.2]))
        made.model.q_head.weight.normal_(generator=torch.Generator().manual_seed(5))
        if made.ema is not None:
            made.ema.shadow = {k: p.detach().clone() for k, p in made.model.named_parameters()}
    return made


def at_step(made: Trainer, step: int, act: Callable[[], object]) -> None:
    """Do something while step `step` (0-based) is under way."""
    draw = made.stream.batch

    def batch(number: int) -> Any:
        if number == step:
            act()
        return draw(number)

    made.stream.batch = batch  # type: ignore[method-assign]


def score(model: Any) -> dict[str, float]:
    """A validation score that depends on the weights and rises and falls."""
    return {"exact_accuracy": math.sin(1e3 * float(model.lm_head.weight.sum())), "n": 1.0}


def contents(folder: Path) -> dict[str, Any]:
    """Every tensor file of a run as bytes, and its metrics without times."""
    files = {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*.safetensors"))}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    state = json.loads((checkpoint.latest(folder / "checkpoints") / "state.json").read_text())  # type: ignore[operator]
    for values in (*lines, state):
        del values["minutes"]
    return {**files, "lines": lines, "state": state}


def assert_same(a: Path, b: Path) -> None:
    first, second = contents(a), contents(b)
    assert sorted(first) == sorted(second)
    for name in first:
        assert first[name] == second[name], name


# -- exactness


@pytest.mark.parametrize("variant", VARIANTS)
def test_resumed_equals_uninterrupted(variant: str, puzzles: PuzzleSet, tmp_path: Path) -> None:
    """Byte for byte: stopped by Ctrl-C between two lines of metrics, continued by a new trainer."""
    settings = recipe(variant, train={"eval_every": 2, "keep_last": 1})
    trainer(settings, puzzles, tmp_path / "whole", score).run(progress=False)

    stopped = trainer(settings, puzzles, tmp_path / "parts", score)
    at_step(stopped, 3, lambda: signal.raise_signal(signal.SIGINT))
    stopped.run(progress=False)
    assert stopped.step == 4
    assert int((~stopped.carry.halted).sum()) > 0  # slots are under way: the carry matters

    resumed = make_trainer(resolve(settings, puzzles), split(settings, puzzles)[0], tmp_path / "parts", score)
    resumed.resume()
    resumed.run(progress=False)
    assert_same(tmp_path / "whole", tmp_path / "parts")


@pytest.mark.parametrize("variant", ["float32", "everything"])
def test_resumed_after_a_crash(variant: str, puzzles: PuzzleSet, tmp_path: Path) -> None:
    """Steps and lines after the last checkpoint are done again."""
    settings = recipe(variant, train={"checkpoint_every": 4, "log_every": 1, "keep_last": 1})
    trainer(settings, puzzles, tmp_path / "whole").run(progress=False)

    def crash() -> None:
        raise MemoryError

    crashed = trainer(settings, puzzles, tmp_path / "parts")
    at_step(crashed, 6, crash)
    with pytest.raises(MemoryError):
        crashed.run(progress=False)
    with (tmp_path / "parts" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 7, "los')  # what a power cut leaves
    resumed = trainer(settings, puzzles, tmp_path / "parts")
    resumed.resume()
    assert resumed.step == 4
    resumed.run(progress=False)
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_same_seed_same_bytes_and_another_seed_others(puzzles: PuzzleSet, tmp_path: Path) -> None:
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        settings = recipe("everything", train={"seed": seed})
        trainer(settings, puzzles, tmp_path / name).run(progress=False)
    assert_same(tmp_path / "a", tmp_path / "b")
    a, c = contents(tmp_path / "a"), contents(tmp_path / "c")
    assert not any(a[name] == c[name] for name in a)


def test_global_random_state_plays_no_part(puzzles: PuzzleSet, tmp_path: Path) -> None:
    for name, seed in [("a", 1), ("b", 2)]:
        torch.manual_seed(seed)
        np.random.seed(seed)  # noqa: NPY002
        trainer(recipe("everything"), puzzles, tmp_path / name).run(progress=False)
    assert_same(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("variant", ["random_init", "exploration", "puzzle_emb"])
def test_micro_batches_equal_the_whole_batch(variant: str, puzzles: PuzzleSet, tmp_path: Path) -> None:
    """Within rounding; every random draw and every decision to halt the same."""
    runs = []
    for size in (0, 4, 1):
        made = trainer(
            recipe(variant, train={"micro_batch": size, "lr": 1e-4}), puzzles, tmp_path / str(size)
        )
        for _ in range(4):
            made.train_step()
        runs.append(made)
    whole = runs[0]
    for made in runs[1:]:
        assert made.carry.steps.equal(whole.carry.steps)
        assert made.carry.halted.equal(whole.carry.halted)
        assert made.carry.data.inputs.equal(whole.carry.data.inputs)
        torch.testing.assert_close(made.carry.z, whole.carry.z, rtol=0, atol=1e-4)
        torch.testing.assert_close(made.sums, whole.sums, rtol=1e-4, atol=1e-4)
        for p, q in zip(made.model.parameters(), whole.model.parameters(), strict=True):
            # atan2 gives a gradient of rounding size any sign: a few entries may differ by a step
            assert ((p - q).abs() < 1e-6).double().mean() > 0.99


def test_every_step_draws_anew(puzzles: PuzzleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn, draw = [], halting.exploration_steps

    def spy(size: int, settings: ModelSettings, generator: torch.Generator) -> torch.Tensor:
        drawn.append(tuple(draw(size, settings, generator).tolist()))
        return torch.tensor(drawn[-1], dtype=torch.int32)

    monkeypatch.setattr(halting, "exploration_steps", spy)
    settings = recipe("exploration", model={"halt_max_steps": 9})
    trainer(settings, puzzles, tmp_path).run(progress=False)
    assert len(set(drawn)) == 10


@pytest.mark.parametrize("size", [0, 2])
def test_gradients_are_those_of_the_mean_over_the_batch(
    size: int, puzzles: PuzzleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The optimiser itself would not notice another scale."""
    made = trainer(recipe("puzzle_emb", train={"micro_batch": size}), puzzles, tmp_path)
    table_grads: list[torch.Tensor] = []
    monkeypatch.setattr(made, "_optimise", table_grads.extend)
    made.train_step()
    grads = [p.grad.clone() for p in made.model.parameters()]  # type: ignore[union-attr]

    made.model.zero_grad()
    batch = made.stream.batch(0)
    table_rows = torch.zeros(8, 12, requires_grad=True)
    ctx = made.model.encode(batch, table_rows)
    z = made.model.training_segment(made.model.initial_state(ctx), ctx)
    (segment_loss(made.model.readout(z, ctx), batch.labels).total / 8).backward()
    assert table_rows.grad is not None
    assert table_rows.grad.abs().max() > 0
    torch.testing.assert_close(torch.cat(table_grads), table_rows.grad, rtol=1e-4, atol=1e-6)
    for p, grad in zip(made.model.parameters(), grads, strict=True):
        torch.testing.assert_close(grad, p.grad, rtol=1e-4, atol=1e-6)


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


# -- checkpoints


def test_a_crash_while_saving_leaves_the_checkpoint_before(
    puzzles: PuzzleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = recipe(train={"checkpoint_every": 3})
    trainer(settings, puzzles, tmp_path / "whole").run(progress=False)

    made = trainer(settings, puzzles, tmp_path / "parts")
    write, written = checkpoint.save_file, []

    def full_disk(tensors: Any, path: Path) -> None:
        if made.step == 6 and written:
            raise OSError("No space left on device")
        if made.step == 6:
            written.append(path)
        write(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(OSError, match="No space"):
        made.run(progress=False)
    monkeypatch.undo()
    assert written  # one file of the broken checkpoint had been written
    assert [p.name for p in (tmp_path / "parts" / "checkpoints").iterdir()] == ["step_00000003"]
    resumed = trainer(settings, puzzles, tmp_path / "parts")
    resumed.resume()
    assert resumed.step == 3
    resumed.run(progress=False)
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_the_newest_checkpoints_are_kept(puzzles: PuzzleSet, tmp_path: Path) -> None:
    left_over = tmp_path / "checkpoints" / ".step_00000002.1.part"
    left_over.mkdir(parents=True)
    trainer(recipe(train={"checkpoint_every": 2, "keep_last": 2}), puzzles, tmp_path).run(progress=False)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_00000008", "step_00000010"]


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "state"])
def test_a_damaged_checkpoint_is_refused_in_one_line(damage: str, puzzles: PuzzleSet, tmp_path: Path) -> None:
    settings = recipe(train={"checkpoint_every": 5})
    trainer(settings, puzzles, tmp_path).run(progress=False)
    newest = tmp_path / "checkpoints" / "step_00000010"
    file = newest / ("state.json" if damage == "state" else "optimizer.safetensors")
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(content if damage == "flip" else content[:100])
    with pytest.raises(UserError) as caught:
        trainer(settings, puzzles, tmp_path).resume()
    said = str(caught.value)
    assert said.startswith(f"{file}: missing or damaged")
    assert "step_00000010" in said
    assert "\n" not in said
    checkpoint.shutil.rmtree(newest)  # the move that the message names
    again = trainer(settings, puzzles, tmp_path)
    again.resume()
    assert again.step == 5


def test_slots_in_several_pieces_are_read(puzzles: PuzzleSet, tmp_path: Path) -> None:
    """Checkpoints written before version 0.1 keep the slots of every micro batch apart."""
    settings = recipe("bfloat16", train={"checkpoint_every": 6, "log_every": 1, "keep_last": 2})
    trainer(settings, puzzles, tmp_path / "whole").run(progress=False)
    parts, facts = checkpoint.load(tmp_path / "whole" / "checkpoints" / "step_00000006")
    pieces = {
        f"{i}.{name[2:]}": half for name, t in parts["carry"].items() for i, half in enumerate(t.split(4))
    }
    old = {k: facts[k] for k in ("total_steps", "best", "minutes")}
    checkpoint.save(tmp_path / "old" / "checkpoints", 6, {**parts, "carry": pieces}, old)
    resumed = trainer(settings, puzzles, tmp_path / "old")
    resumed.resume()
    resumed.run(progress=False)
    for name in ("model", "ema", "optimizer", "carry"):
        file = f"checkpoints/step_00000010/{name}.safetensors"
        assert (tmp_path / "old" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": {"batch_size": 4}}, ["8 slots", "train.batch_size=4", "train.batch_size=8"]),
        ({"model": {"hidden_size": 32}}, ["(16,)", "(32,)"]),
        ({"train": {"ema": True}}, ["no averaged weights", "train.ema=false"]),
    ],
)
def test_resuming_with_other_settings(
    changes: dict[str, Any], words: list[str], puzzles: PuzzleSet, tmp_path: Path
) -> None:
    trainer(recipe("no_ema", train={"steps": 2}), puzzles, tmp_path).run(progress=False)
    with pytest.raises(UserError) as caught:
        trainer(recipe("no_ema", **changes), puzzles, tmp_path).resume()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_other_puzzles_are_noticed(
    puzzles: PuzzleSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(recipe(train={"steps": 2}), puzzles, tmp_path).run(progress=False)
    trainer(recipe(), puzzles, tmp_path).resume()
    assert not caplog.records
    trainer(recipe(), puzzles[:50], tmp_path).resume()
    assert "training puzzles are not those" in caplog.text


# -- stopping


def test_ctrl_c_finishes_the_step_and_saves(
    puzzles: PuzzleSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = signal.getsignal(signal.SIGINT)
    made = trainer(recipe(), puzzles, tmp_path)
    at_step(made, 4, lambda: signal.raise_signal(signal.SIGINT))
    made.run(progress=False)
    assert (made.step, checkpoint.latest(tmp_path / "checkpoints").name) == (5, "step_00000005")  # type: ignore[union-attr]
    assert (tmp_path / "last" / "model.safetensors").is_file()
    assert "stopped at step 5 of 10" in caplog.text
    assert signal.getsignal(signal.SIGINT) is before


def test_a_second_ctrl_c_interrupts_at_once(puzzles: PuzzleSet, tmp_path: Path) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    made = trainer(recipe(train={"checkpoint_every": 2}), puzzles, tmp_path)
    at_step(made, 5, twice)
    with pytest.raises(KeyboardInterrupt):
        made.run(progress=False)
    assert checkpoint.latest(tmp_path / "checkpoints").name == "step_00000004"  # type: ignore[union-attr]


def test_training_in_a_thread_leaves_signals_alone() -> None:
    seen: list[Any] = []

    def work() -> None:
        with asked_to_stop() as stop:
            seen.append((stop(), signal.getsignal(signal.SIGINT)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [(False, signal.getsignal(signal.SIGINT))]


def test_a_loss_that_is_no_number_stops_and_saves_nothing(puzzles: PuzzleSet, tmp_path: Path) -> None:
    made = trainer(
        recipe(train={"checkpoint_every": 4, "log_every": 1, "eval_every": 4}), puzzles, tmp_path, score
    )

    def poison() -> None:
        made.model.lm_head.weight.data[0, 0] = math.nan

    at_step(made, 5, poison)
    with pytest.raises(
        UserError, match=r"the loss is no longer finite at step 6\..*Lower train\.lr"
    ) as caught:
        made.run(progress=False)
    assert "\n" not in str(caught.value)
    assert checkpoint.latest(tmp_path / "checkpoints").name == "step_00000004"  # type: ignore[union-attr]
    again = trainer(recipe(), puzzles, tmp_path)
    again.resume()
    assert again.step == 4
    assert all(p.isfinite().all() for p in again.model.parameters())


def test_broken_weights_are_never_saved(puzzles: PuzzleSet, tmp_path: Path) -> None:
    """A finite loss with a gradient that was not: seen at the weights before anything is written."""
    made = trainer(recipe(), puzzles, tmp_path)
    made.train_step()
    made.model.lm_head.weight.data[0, 0] = math.inf
    with pytest.raises(UserError, match="the weights are no longer finite"):
        made.save()
    assert not tmp_path.joinpath("checkpoints").exists()


def test_max_minutes(puzzles: PuzzleSet, tmp_path: Path) -> None:
    made = trainer(recipe(train={"max_minutes": 1e-9}), puzzles, tmp_path)
    made.run(progress=False)
    assert made.step == 1
    again = trainer(recipe(train={"max_minutes": 1e-9}), puzzles, tmp_path)
    again.resume()
    again.run(progress=False)  # the limit is of this sitting, not of the run
    assert again.step == 2


# -- evaluation


def test_best_is_the_best_and_holds_averaged_weights(puzzles: PuzzleSet, tmp_path: Path) -> None:
    marks = iter([0.1, 0.5, 0.3, 0.4, 0.2])
    seen = []

    def on_eval(model: Any) -> dict[str, float]:
        seen.append(model.lm_head.weight.detach().clone())
        return {"exact_accuracy": next(marks), "empty": math.nan}

    made = trainer(recipe(train={"eval_every": 2}), puzzles, tmp_path, on_eval)
    made.run(progress=False)
    config = json.loads((tmp_path / "best" / "config.json").read_text())
    assert (config["step"], config["weights"], config["validation"]["exact_accuracy"]) == (4, "ema", 0.5)
    best = checkpoint.load_bytes((tmp_path / "best" / "model.safetensors").read_bytes())
    assert best["lm_head.weight"].equal(seen[1])
    assert seen[-1].equal(made.ema.shadow["lm_head.weight"])  # type: ignore[union-attr]
    last = checkpoint.load_bytes((tmp_path / "last" / "model.safetensors").read_bytes())
    assert last["lm_head.weight"].equal(made.ema.shadow["lm_head.weight"])  # type: ignore[union-attr]
    assert not last["lm_head.weight"].equal(made.model.lm_head.weight)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    evals = [line for line in lines if line["kind"] == "eval"]
    assert [line["exact_accuracy"] for line in evals] == [0.1, 0.5, 0.3, 0.4, 0.2]
    assert evals[0]["empty"] is None


# -- from a recipe


OVERRIDES = ["train.steps=4", "train.compile=false", "data.generate.count=40", "data.validation=10"]


def recipe_file(folder: Path) -> Path:
    file = folder / "tiny.yaml"
    file.write_text(loop.yaml.safe_dump(recipe().model_dump(exclude_none=True)))
    return file


def test_train_from_a_recipe_and_resume(tmp_path: Path) -> None:
    sizes = []

    def factory(held_out: PuzzleSet, settings: Any) -> Any:
        sizes.append((len(held_out), settings.eval_segments))
        return lambda model: {"exact_accuracy": 0.5}

    file, out = recipe_file(tmp_path), tmp_path / "run"
    best = train(file, out, overrides=OVERRIDES, on_eval=factory, progress=False, device="cpu")
    assert best == out / "best"
    assert sizes == [(10, 16)]
    assert load_recipe(out / "config.yaml").model.seq_len == 16
    with pytest.raises(UserError, match="already holds a run"):
        train(file, out, overrides=OVERRIDES, progress=False, device="cpu")
    train(None, out, overrides=["train.steps=6"], resume=True, progress=False, device="cpu")
    assert checkpoint.latest(out / "checkpoints").name == "step_00000006"  # type: ignore[union-attr]
    assert load_recipe(out / "config.yaml").train.steps == 6


def test_train_without_validation_returns_the_last_weights(tmp_path: Path) -> None:
    def factory(held_out: PuzzleSet, settings: Any) -> Any:
        raise AssertionError("nothing to score on")

    settings = recipe(data={"validation": 0}, train={"steps": 2})
    assert train(settings, tmp_path / "r", on_eval=factory, progress=False) == tmp_path / "r" / "last"


def test_a_run_that_was_never_saved_or_never_begun(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a run folder \(no config.yaml\)"):
        train(None, tmp_path / "nothing", resume=True)
    with pytest.raises(UserError, match="no recipe given"):
        train(None, tmp_path / "nothing")
    (tmp_path / "config.yaml").write_text(loop.yaml.safe_dump(recipe().model_dump()))
    with pytest.raises(UserError, match="no checkpoint to resume from"):
        train(None, tmp_path, resume=True, progress=False)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data": {"validation": 60}}, "data.validation=60 leaves nothing of 60 puzzles"),
        ({"data": {"generate": None}}, "data.path is not set"),
        ({"model": {"seq_len": 81}}, "model.seq_len=81, but sudoku-2x2 generated has 16"),
        ({"train": {"steps": None}}, "neither train.steps nor train.epochs"),
        ({"train": {"steps": None, "epochs": 1, "batch_size": 64}}, "less than one step"),
        ({"model": {"arch": "trn"}}, "trn: unknown architecture. Did you mean trm?"),
    ],
)
def test_recipes_that_cannot_run(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        train(recipe(**changes), tmp_path / "r", progress=False)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "r").exists()


def test_puzzles_without_answers(puzzles: PuzzleSet) -> None:
    bare = PuzzleSet(puzzles.task, puzzles.inputs, None, puzzles.puzzle_ids, name="bare.csv")
    with pytest.raises(UserError, match=r"bare\.csv: no answers to learn from"):
        split(recipe(), bare)


def test_epochs_count_as_officially() -> None:
    """models.md section 5: 1000 puzzles, 50k epochs, batch 768 make 65,104 steps."""
    official = recipe(train={"steps": None, "epochs": 50_000, "batch_size": 768})
    assert loop.num_steps(official, 1000) == 65_104


@pytest.mark.parametrize(("name", "said"), [("mps", "float64"), ("tpu", "expected auto, cpu or cuda")])
def test_devices_that_cannot_train(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        setup.pick_device(name)


def test_no_compiler_means_eager_and_one_warning(
    puzzles: PuzzleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    made = trainer(recipe(train={"compile": True, "steps": 2}), puzzles, tmp_path)
    made.run(progress=False)
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "no-such-compiler" in caplog.messages[0]
    assert "\n" not in caplog.messages[0]


def test_the_number_of_threads_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(number: int) -> None:
        raise AssertionError("the library set the number of threads")

    monkeypatch.setattr(torch, "set_num_threads", refuse)
    train(recipe(train={"steps": 1}), tmp_path / "r", progress=False)


def plan_of(**model: Any) -> dict[str, Any]:
    """The plan for nine 9x9 puzzles."""
    made = generate(Sudoku(3, 3), 9, 40, np.random.default_rng(0))
    values = {
        "model": {"hidden_size": 512, "puzzle_emb_ndim": 512, **model},
        "train": {"steps": 100, "batch_size": 768},
        "data": {"validation": 2},
    }
    return plan(validated(Recipe, values), made)


def test_plan_gives_the_published_sizes() -> None:
    """models.md section 6: parameters, GFLOP per application; section 2: applications."""
    trm = plan_of(mlp_t=True, pos_encodings="none", puzzle_emb_len=16, H_cycles=3, L_cycles=6)
    assert trm["parameters"] == 5_028_866
    assert (trm["training puzzles"], trm["validation puzzles"], trm["slots"]) == (7, 2, 768)
    assert trm["applications per segment"] == 21
    assert trm["FLOPs per step"] == pytest.approx(768 * (21 + 2 * 7) * 1.221e9, rel=1e-3)
    assert trm["FLOPs"] == pytest.approx(100 * trm["FLOPs per step"])
    assert trm["settings"]["model"]["seq_len"] == 81
    kept = 5 * 4 * 5_028_866 + 4 * (512 * 3) + 768 * (2 * 97 * 512 * 2 + 2 * 8 * 81)
    assert trm["state bytes"] == kept
    hrm = plan_of(arch="hrm", H_layers=4, L_layers=4, H_cycles=2, L_cycles=2, no_ACT_continue=False)
    assert hrm["parameters"] == 27_275_266
    assert hrm["FLOPs per step"] == pytest.approx(768 * (6 + 2 * 2 + 6) * 2.291e9, rel=1e-3)


# -- learning


def test_it_learns_to_solve_4x4(tmp_path: Path) -> None:
    """1000 puzzles, 250 held out: from chance (0 of 250) to most of them in 100 steps of 64."""
    exact = []

    def factory(held_out: PuzzleSet, settings: Any) -> Any:
        def on_eval(model: Any) -> dict[str, float]:
            batch = held_out.batch()
            ctx = model.encode(batch)
            z = model.initial_state(ctx)
            for _ in range(4):
                z = model.segment(z, ctx)
            right = (model.readout(z, ctx).logits.argmax(-1) == batch.labels).all(1)
            exact.append(right.float().mean().item())
            return {"exact_accuracy": exact[-1]}

        return on_eval

    settings = recipe(
        model={"hidden_size": 32, "halt_max_steps": 4},
        train={"steps": 100, "batch_size": 64, "lr_warmup_steps": 20, "log_every": 10, "ema_rate": 0.95},
        data={"generate": {**GENERATED, "count": 1250}, "validation": 250},
    )
    train(settings, tmp_path / "r", on_eval=factory, progress=False)
    lines = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    losses = [line["cell_loss"] for line in lines if line["kind"] == "train"]
    assert losses[-1] < 0.5 * losses[0]
    assert exact[-1] > 0.5
