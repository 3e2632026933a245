"""What leaves a run while it trains: trackers, and what a person sees."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from loopscope.config import load_recipe
from loopscope.errors import UserError
from loopscope.tasks import PuzzleSet
from loopscope.training import sinks, view
from small_runs import recipe, score, trainer

TRACKERS = ("wandb", "trackio")


class FakeRun:
    """A tracker that keeps what it is told."""

    def __init__(self, **facts: Any) -> None:
        self.facts, self.lines, self.finished = facts, [], 0  # type: ignore[var-annotated]

    def log(self, values: dict[str, float], step: int | None = None) -> None:
        self.lines.append(values if step is None else values | {"step": step})

    def finish(self) -> None:
        self.finished += 1


def install(monkeypatch: pytest.MonkeyPatch, name: str) -> list[FakeRun]:
    runs: list[FakeRun] = []
    module = ModuleType(name)
    module.init = lambda **facts: runs.append(FakeRun(**facts)) or runs[-1]  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, name, module)
    return runs


@pytest.mark.parametrize("name", TRACKERS)
def test_trackers_get_the_lines_of_the_run(
    name: str, puzzles: PuzzleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = install(monkeypatch, name)
    settings = recipe(train={"log_to": [name], "log_every": 5, "eval_every": 10})
    trainer(settings, puzzles, tmp_path / "run", score).run(progress=False)
    (run,) = runs
    assert (run.facts["name"], run.facts["config"]["train"]["log_every"], run.finished) == ("run", 5, 1)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [5, 10, 10] == [line["step"] for line in run.lines]
    assert [line["train/loss"] for line in run.lines[:2]] == [line["loss"] for line in lines[:2]]
    assert run.lines[2]["eval/exact_accuracy"] == lines[2]["exact_accuracy"]


def test_seeds_of_two_experiments_are_different_runs(tmp_path: Path) -> None:
    names = [sinks.run_name(tmp_path / folder) for folder in ("wide/seed1", "narrow/seed1", "seedling")]
    assert names == ["wide-seed1", "narrow-seed1", "seedling"]


def test_nothing_is_sent_for_what_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    line = {"kind": "train", "step": 3, "loss": 0.5, "exact_accuracy": None}  # nothing halted yet
    assert sinks.numbers(line) == {"train/loss": 0.5}


def test_missing_package_is_said_before_the_run(
    puzzles: PuzzleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # import raises
    made = trainer(recipe(train={"log_to": ["wandb"]}), puzzles, tmp_path / "run")
    with pytest.raises(UserError, match=r"wandb is not installed .* pip install wandb, or leave it out"):
        made.run(progress=False)
    assert made.step == 0
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_unknown_tracker_is_a_mistake_in_the_settings() -> None:
    with pytest.raises(UserError, match=r"train\.log_to"):
        load_recipe("sudoku6-cpu", ["train.log_to=[wandbb]"])


def test_tensorboard_writes_event_files(puzzles: PuzzleSet, tmp_path: Path) -> None:
    trainer(recipe(train={"log_to": ["tensorboard"], "log_every": 5}), puzzles, tmp_path).run(progress=False)
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload().Scalars("train/loss")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(e.step, e.value) for e in events] == [(x["step"], pytest.approx(x["loss"])) for x in lines]


# -- what a person sees


def test_sparkline_shows_the_shape() -> None:
    assert view.sparkline([float(i) for i in range(8)], 8) == "▁▂▃▄▅▆▇█"
    assert view.sparkline([1.0] * 5, 8) == "▁▁▁▁▁"
    assert view.sparkline([], 8) == ""
    assert view.sparkline([float("nan"), 0.0, 1.0], 8) == "▁█"
    long = view.sparkline([abs(i - 499.5) for i in range(1000)], 10)
    assert len(long) == 10
    assert long[0] == long[-1] == "█"
    assert min(long) == long[4] == long[5]


@pytest.mark.parametrize(
    ("seconds", "said"), [(42.0, "42 s"), (61.0, "1 min"), (3599.0, "59 min"), (11100.0, "3 h 05 min")]
)
def test_durations(seconds: float, said: str) -> None:
    assert view.clock(seconds) == said


def shown(panel: view.LivePanel) -> str:
    console = Console(width=90, file=io.StringIO())
    console.print(panel.panel())
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_panel_shows_the_numbers_of_the_last_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(view.time, "monotonic", lambda: now[0])
    settings = recipe(train={"steps": 100, "batch_size": 8})
    panel = view.LivePanel(settings, 100, 10, Console(file=io.StringIO()))
    try:
        assert "waiting for" in shown(panel)
        for step in range(11, 31):
            now[0] += 0.5
            panel.step()
            values = {"loss": 3.0 - step / 20, "exact_accuracy": None, "segments": 2.5, "lr": 1e-3}
            panel.line({"kind": "train", "step": step, **values})
        panel.line({"kind": "eval", "step": 25, "exact_accuracy": 0.75})
        panel.line({"kind": "eval", "step": 30, "exact_accuracy": 0.5})
        text = shown(panel)
    finally:
        panel.close()
    for said in ("tiny  step 30 of 100", "1.5000", "50.0 %", "2.5 of 3 segments", "1.00e-03", "█"):
        assert said in text
    assert "2 steps, 16 puzzle segments a second; 10 s spent, 35 s left" in text
    assert "50.0 %, best 75.0 %" in text
    assert "exact, training" not in text  # nothing halted yet


def test_time_left_ends_with_max_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(view.time, "monotonic", lambda: now[0])
    settings = recipe(train={"steps": 10_000, "max_minutes": 1})
    panel = view.LivePanel(settings, 10_000, 0, Console(file=io.StringIO()))
    for _ in range(10):
        now[0] += 2
        panel.step()
    panel.close()
    assert "20 s spent, 40 s left" in shown(panel)


def test_without_a_terminal_there_is_a_bar(
    puzzles: PuzzleSet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = trainer(recipe(train={"log_every": 2, "eval_every": 5}), puzzles, tmp_path, score)
    made.run(progress=True)
    said = capsys.readouterr()
    assert "10/10" in said.err
    assert "loss=" in said.err
    assert "step 5: exact_accuracy" in said.out + said.err
