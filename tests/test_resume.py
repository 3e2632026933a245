"""Exact runs: resumed equals uninterrupted, and stopping is clean."""

from __future__ import annotations

import errno
import math
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from loopscope.config import ModelSettings
from loopscope.errors import UserError
from loopscope.tasks.base import Batch, PuzzleSet
from loopscope.training import checkpoint, halting
from loopscope.training.interrupt import asked_to_stop
from loopscope.training.loss import segment_loss
from loopscope.training.prefetch import Prefetch
from loopscope.training.setup import make_trainer, resolve, split
from small_runs import VARIANTS, assert_same, at_step, contents, recipe, score, trainer

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


@pytest.mark.parametrize("variant", ["random_init", "exploration", "puzzle_emb", "noisy"])
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


# -- batches and the GPU


@pytest.mark.parametrize("variant", ["everything", "noisy", "flossing", "frozen"])
def test_no_step_reads_a_number_back(
    variant: str, puzzles: PuzzleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading a number of a tensor makes the loop wait for the GPU; so does asking for unique values."""
    made = trainer(recipe(variant, train={"micro_batch": 4}), puzzles, tmp_path)

    batches = [made.stream.batch(step) for step in range(4)]
    made.batches.batch = lambda step: batches[step]  # type: ignore[method-assign]

    def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("read back")

    for name in ("item", "tolist", "__bool__", "__float__", "__int__", "__index__", "unique", "nonzero"):
        monkeypatch.setattr(torch.Tensor, name, never)
    for _ in range(4):
        made.train_step()
    with pytest.raises(AssertionError, match="read back"):
        made.save()


def test_batches_are_drawn_ahead_in_order_and_no_further_than_the_end() -> None:
    drawn: list[int] = []

    def draw(step: int) -> Batch:
        drawn.append(step)
        if step == 5:
            raise UserError("five")
        return Batch(torch.tensor([step]))

    batches = Prefetch(draw, 7, torch.device("cpu"))
    assert [int(batches.batch(step).inputs) for step in (0, 1)] == [0, 1]
    assert int(batches.batch(3).inputs) == 3  # 2, drawn in vain, is dropped
    assert int(batches.batch(4).inputs) == 4
    with pytest.raises(UserError, match="five"):  # told to the step that needs it
        batches.batch(5)
    assert int(batches.batch(6).inputs) == 6
    assert drawn == list(range(7))


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


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """Python's own handler, which a shell takes away from what it runs in the background."""
    former = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_a_second_ctrl_c_interrupts_at_once(puzzles: PuzzleSet, tmp_path: Path) -> None:
    def twice() -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    made = trainer(recipe(train={"checkpoint_every": 2}), puzzles, tmp_path)
    at_step(made, 5, twice)
    with pytest.raises(KeyboardInterrupt):
        made.run(progress=False)
    assert checkpoint.latest(tmp_path / "checkpoints").name == "step_00000004"  # type: ignore[union-attr]


def test_sigterm_is_as_good_as_ctrl_c(puzzles: PuzzleSet, tmp_path: Path) -> None:
    made = trainer(recipe(), puzzles, tmp_path)
    at_step(made, 4, lambda: signal.raise_signal(signal.SIGTERM))
    made.run(progress=False)
    assert checkpoint.latest(tmp_path / "checkpoints").name == "step_00000005"  # type: ignore[union-attr]


def test_a_full_disk_while_a_line_is_written(
    puzzles: PuzzleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = trainer(recipe(train={"checkpoint_every": 2}), puzzles, tmp_path)

    def full(*args: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    at_step(made, 5, lambda: monkeypatch.setattr(Path, "open", full))
    with pytest.raises(UserError, match=r"cannot write .No space left on device"):
        made.run(progress=False)
    monkeypatch.undo()
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
