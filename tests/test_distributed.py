"""Several processes: together they equal one, stop together, and tell a mistake once."""

from __future__ import annotations

import errno
import json
import math
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from loopscope import cli
from loopscope.errors import UserError
from loopscope.tasks.base import PuzzleSet
from loopscope.training import checkpoint, distributed, halting
from loopscope.training.run import train
from small_runs import assert_same, at_step, recipe, score, small_puzzles, trainer
from together import PROCESSES, finish, start, together

TOGETHER = (
    *("float32", "exploration", "random_init", "puzzle_emb", "reveal", "muon", "adamw", "frozen", "noisy"),
    "everything",
)


def tensor_files(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*.safetensors"))}


def metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def assert_metrics_agree(a: Path, b: Path, rel: float = 1e-12) -> None:
    for one, other in zip(metrics(a), metrics(b), strict=True):
        assert list(one) == list(other)
        for key in one.keys() - {"minutes"}:
            near = isinstance(one[key], float)
            assert one[key] == (pytest.approx(other[key], rel=rel) if near else other[key]), key


# -- several equal one


def train_variants(folder: Path, num_parts: int = 0) -> None:
    """Runs of all variants; `num_parts` splits the batch into micro batches instead of processes."""
    for variant in TOGETHER:
        settings = recipe(variant, train={"micro_batch": 8 // num_parts if num_parts else 0, "eval_every": 5})
        trainer(settings, small_puzzles(), folder / variant, score).run(progress=False)


@pytest.fixture(scope="module")
def runs_of_two(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    together(2, train_variants, two)
    train_variants(one, 2)
    return one, two


@pytest.mark.parametrize("variant", TOGETHER)
def test_two_processes_equal_one_byte_for_byte(variant: str, runs_of_two: tuple[Path, Path]) -> None:
    """a + b has one value: two halves summed between processes are two micro batches summed in one."""
    one, two = (folder / variant for folder in runs_of_two)
    first, second = tensor_files(one), tensor_files(two)
    assert sorted(first) == sorted(second)
    for name in first:
        assert first[name] == second[name], name
    assert_metrics_agree(one, two)


def four_steps(folder: Path) -> None:
    """Two runs without and with everything random, saved after four steps."""
    for variant in ("puzzle_emb", "flossing", "everything"):
        settings = recipe(
            variant,
            model={"forward_dtype": "float32"},
            train={"steps": 4, "lr": 1e-4, "lr_warmup_steps": 0, "log_every": 1, "micro_batch": 0},
        )
        trainer(settings, small_puzzles(), folder / variant).run(progress=False)


def test_four_processes_equal_one_within_rounding(tmp_path: Path) -> None:
    """The same draws and decisions; sums in another order.

    Where a gradient is of the size of rounding atan2 may give it the other sign, which moves a weight by
    up to two steps. Such weights are few, and all others agree to 1e-6.
    """
    together(4, four_steps, tmp_path / "four")
    four_steps(tmp_path / "one")
    for variant in ("puzzle_emb", "flossing", "everything"):
        one, four = tmp_path / "one" / variant, tmp_path / "four" / variant
        a, b = (load_file(f / "checkpoints" / "step_00000004" / "carry.safetensors") for f in (one, four))
        assert sorted(a) == sorted(b)
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-4)  # the exact ones are integers
        assert_metrics_agree(one, four, rel=1e-4)
        a, b = (load_file(f / "last" / "model.safetensors") for f in (one, four))
        near = torch.cat([((a[name] - b[name]).abs() < 1e-6).flatten() for name in a])
        assert near.double().mean() > 0.99


def same_draws_everywhere(folder: Path) -> None:
    """What goes wrong when every process draws for its own slots: the exploration of slot 0 is that of 4."""
    draw = halting.exploration_steps

    def alike(size: int, settings: Any, generator: torch.Generator) -> torch.Tensor:
        return draw(size // 2, settings, generator).repeat(2)

    halting.exploration_steps = alike
    trainer(recipe("exploration", train={"eval_every": 5}), small_puzzles(), folder, score).run(
        progress=False
    )


def test_draws_per_process_would_be_noticed(runs_of_two: tuple[Path, Path], tmp_path: Path) -> None:
    together(2, same_draws_everywhere, tmp_path)
    name = "last/model.safetensors"
    assert (tmp_path / name).read_bytes() != (runs_of_two[0] / "exploration" / name).read_bytes()


def gather(folder: Path) -> None:
    r = distributed.rank()
    rows = {
        "ints": torch.arange(2) + 2 * r,
        "bools": torch.tensor([r == 1, False]),
        "matrix": torch.full((1, 3), r + 0.5, dtype=torch.bfloat16),
    }
    gathered = {name: distributed.gather_rows(t) for name, t in rows.items()}
    sums = [torch.full((2,), 1.0 + r), torch.tensor(10.0 * r)]
    distributed.sum_in_place(sums)
    torch.save((gathered, sums, distributed.any_of(r == 2)), folder / f"{r}.pt")


def test_rows_and_sums_of_three(tmp_path: Path) -> None:
    together(3, gather, tmp_path)
    for r in range(3):
        rows, sums, vote = torch.load(tmp_path / f"{r}.pt")
        assert rows["ints"].tolist() == [0, 1, 2, 3, 4, 5]
        assert rows["bools"].tolist() == [False, False, True, False, False, False]
        assert rows["matrix"].tolist() == [[0.5] * 3, [1.5] * 3, [2.5] * 3]
        assert [s.tolist() for s in sums] == [[6.0, 6.0], 30.0]
        assert vote is True


def test_alone_nothing_is_started() -> None:
    rows = torch.arange(3)
    with distributed.processes():
        assert not torch.distributed.is_initialized()
        assert (distributed.rank(), distributed.num_processes()) == (0, 1)
        assert distributed.gather_rows(rows) is rows
        assert distributed.share(6) == slice(0, 6)


# -- stopping and going on

RESUMED = {"eval_every": 2, "checkpoint_every": 4, "keep_last": 1, "micro_batch": 0}


def run_whole(folder: Path) -> None:
    trainer(recipe("everything", train=RESUMED), small_puzzles(), folder, score).run(progress=False)


def stop_one_of_them(folder: Path) -> None:
    """The last process alone gets a signal, in its fourth step."""
    made = trainer(recipe("everything", train=RESUMED), small_puzzles(), folder, score)
    if distributed.rank() == distributed.num_processes() - 1:
        at_step(made, 3, lambda: signal.raise_signal(signal.SIGTERM))
    made.run(progress=False)
    assert made.step == 4


def go_on(folder: Path, num_parts: int = 0) -> None:
    parts = {"micro_batch": 8 // num_parts if num_parts else 0}
    made = trainer(recipe("everything", train={**RESUMED, **parts}), small_puzzles(), folder, score)
    made.resume()
    assert made.step == 4
    made.run(progress=False)


def test_a_signal_to_one_stops_all_and_the_run_goes_on_exactly(tmp_path: Path) -> None:
    together(2, run_whole, tmp_path / "whole")
    together(2, stop_one_of_them, tmp_path / "parts")
    assert [p.name for p in (tmp_path / "parts" / "checkpoints").iterdir()] == ["step_00000004"]
    together(2, go_on, tmp_path / "parts")
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_going_on_with_fewer_and_with_more_processes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No slot is lost: two, then one with two micro batches, then two again would be the same bytes."""
    together(2, run_whole, tmp_path / "whole")
    together(2, stop_one_of_them, tmp_path / "fewer")
    go_on(tmp_path / "fewer", num_parts=2)
    stop_one_of_them_as_one(tmp_path / "more")
    together(2, go_on, tmp_path / "more")
    whole = tensor_files(tmp_path / "whole")
    for name in ("fewer", "more"):
        assert tensor_files(tmp_path / name) == whole
        assert_metrics_agree(tmp_path / "whole", tmp_path / name)
    assert "saved by 2 processes, resumed by 1: the slots are shared out anew, none is reset" in caplog.text


def stop_one_of_them_as_one(folder: Path) -> None:
    made = trainer(recipe("everything", train={**RESUMED, "micro_batch": 4}), small_puzzles(), folder, score)
    at_step(made, 3, lambda: signal.raise_signal(signal.SIGTERM))
    made.run(progress=False)


KILLED = recipe("everything", train={"steps": 24, "checkpoint_every": 2, "log_every": 1, "eval_every": 7})


def start_or_resume(folder: Path, puzzles: PuzzleSet) -> None:
    torch.set_num_threads(1)
    begun = (folder / "config.yaml").is_file()
    settings = None if begun else KILLED
    train(settings, folder, puzzles=puzzles, resume=begun, on_eval=lambda *_: score, progress=False)


def start_together(folder: Path) -> None:
    start_or_resume(folder, small_puzzles())


def in_one(folder: Path) -> list[Any]:
    process = PROCESSES.Process(target=start_together, args=(folder,))
    process.start()
    return [process]


def in_two(folder: Path) -> list[Any]:
    return start(2, start_together, folder, said=folder.with_suffix(".err"))


@pytest.mark.slow
@pytest.mark.parametrize("begin", [in_one, in_two])
def test_killed_at_any_moment(begin: Callable[[Path], list[Any]], tmp_path: Path) -> None:
    """SIGKILL twice, at moments that nobody chose, many of them while saving; then to the end."""
    assert set(finish(begin(tmp_path / "whole"))) == {0}
    killed = 0
    for _ in range(2):
        began, processes = last_step(tmp_path / "parts"), begin(tmp_path / "parts")
        while last_step(tmp_path / "parts") <= began and processes[0].is_alive():
            time.sleep(0.01)
        time.sleep(random.uniform(0, 0.1))
        victim = random.choice(processes)
        victim.kill()  # the others must notice and end by themselves
        codes = finish(processes)
        killed += victim.exitcode == -signal.SIGKILL
        assert victim.exitcode == 0 or 0 not in codes, codes
    assert killed, "nobody was killed in time"
    assert set(finish(begin(tmp_path / "parts"))) == {0}
    assert_same(tmp_path / "whole", tmp_path / "parts")


def last_step(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return max((json.loads(line)["step"] for line in lines if line.endswith("}")), default=0)


# -- mistakes


def note_error(folder: Path, act: Callable[[], object]) -> None:
    try:
        act()
    except UserError as error:
        (folder / f"said{distributed.rank()}").write_text(str(error))


def said(folder: Path) -> str:
    first, second = (folder / f"said{r}" for r in range(2))
    assert first.read_text() == second.read_text()
    assert "\n" not in first.read_text()
    return first.read_text()


def missing_on_one(folder: Path) -> None:
    """A file that the second machine does not have."""
    settings = recipe(data={"path": "missing.csv", "generate": None})
    puzzles = small_puzzles() if distributed.rank() == 0 else None
    note_error(folder, lambda: train(settings, folder / "run", puzzles=puzzles, progress=False))


def disk_full_at_6(folder: Path) -> None:
    made = trainer(recipe(train={"checkpoint_every": 3}), small_puzzles(), folder / "run")
    write = checkpoint.save_file

    def full(tensors: Any, path: Path) -> None:
        if made.step == 6:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(tensors, path)

    checkpoint.save_file = full
    note_error(folder, lambda: made.run(progress=False))


def nan_in_one(folder: Path) -> None:
    made = trainer(recipe(train={"checkpoint_every": 3, "log_every": 1}), small_puzzles(), folder / "run")

    def poison() -> None:
        if distributed.rank() == 1:
            made.carry.z.z_H[0] = math.nan
            made.carry.halted.zero_()

    at_step(made, 4, poison)
    note_error(folder, lambda: made.run(progress=False))


def test_what_one_finds_wrong_all_say(tmp_path: Path) -> None:
    together(2, missing_on_one, tmp_path)
    assert said(tmp_path).startswith("missing.csv")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("work", "words"),
    [(disk_full_at_6, "cannot write (No space left on device)"), (nan_in_one, "no longer finite at step 5")],
)
def test_trouble_in_one_stops_all(work: Callable[..., None], words: str, tmp_path: Path) -> None:
    together(2, work, tmp_path)
    assert words in said(tmp_path)
    assert [p.name for p in (tmp_path / "run" / "checkpoints").iterdir()] == ["step_00000003"]
    settings = recipe(train={"checkpoint_every": 3})
    again = trainer(settings, small_puzzles(), tmp_path / "run")
    again.resume()
    assert again.step == 3


def command(words: list[str]) -> None:
    cli.main(words)


def test_the_command_says_a_mistake_once(tmp_path: Path) -> None:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(recipe().model_dump()))
    words = ["train", str(path), "train.batch_size=7", "train.micro_batch=0", "--out", str(tmp_path / "run")]
    assert finish(start(2, command, words, said=tmp_path / "err")) == [2, 2]
    expected = "error: train.batch_size=7 is not a multiple of 2 processes. Set train.batch_size=8.\n"
    assert (tmp_path / "err").read_text() == expected
    assert not (tmp_path / "run").exists()


# -- the real thing


@pytest.mark.slow
def test_torchrun_stopped_by_sigterm(tmp_path: Path) -> None:
    train_settings = {"steps": 4000, "micro_batch": 0, "log_every": 1, "lr_min_ratio": 1.0}
    settings = recipe("puzzle_emb", train=train_settings)
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(settings.model_dump()))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    begin = [*torchrun, "-m", "loopscope", "train", str(path), "--out", str(tmp_path / "run")]
    process = subprocess.Popen(begin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while last_step(tmp_path / "run") < 5:
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=60)
    stopped = checkpoint.latest(tmp_path / "run" / "checkpoints")
    assert stopped is not None, err
    step = int(stopped.name.removeprefix("step_"))
    assert (
        err.count(f"stopped at step {step} of 4000; loopscope train --resume {tmp_path / 'run'} goes on") == 1
    )
    assert out.count("weights in") == 1

    further = [f"train.steps={step + 3}", "train.micro_batch=4"]  # in one process, which needs two parts
    train(None, tmp_path / "run", overrides=further, resume=True, progress=False, device="cpu")
    train(path, tmp_path / "alone", overrides=further, progress=False, device="cpu")
    for name in ("last/model.safetensors", f"checkpoints/step_{step + 3:08d}/carry.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "alone" / name).read_bytes()
