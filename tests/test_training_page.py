"""The page of a training run, from folders as they are found: finished, cut off, of older versions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from loopscope.cli import app
from loopscope.config import Recipe
from loopscope.errors import UserError
from loopscope.evaluation.intervals import wilson
from loopscope.reports import training_page as page
from loopscope.tasks import PuzzleSet
from small_runs import recipe, score, trainer


def line(step: int, kind: str = "train", **values: Any) -> dict[str, Any]:
    return {"step": step, "minutes": step / 60, "kind": kind, **values}


def folder_with(folder: Path, lines: list[dict[str, Any]], settings: dict[str, Any] | None = None) -> Path:
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    if settings is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    return folder


@pytest.fixture
def run_folder(puzzles: PuzzleSet, tmp_path: Path) -> Path:
    settings = recipe(train={"log_every": 2, "eval_every": 5, "checkpoint_every": 5})
    trainer(settings, puzzles, tmp_path / "run", score).run(progress=False)
    return tmp_path / "run"


def test_a_real_run(run_folder: Path) -> None:
    run = page.read_run(run_folder)
    assert (run.step, run.total_steps, len(run.train), len(run.held_out)) == (10, 10, 5, 2)
    text = page.training_page([run])
    assert text.count("<figure>") == 3
    for said in ("Training of run", "10 of 10 steps", "model.hidden_size", run.facts["data"]):
        assert said in text
    for part in ("best", "last"):
        assert run.models[part]["weights_sha256"] in text
    assert "<script" not in text
    assert "http" not in re.sub(r'xmlns(:\w+)?="[^"]*"|<!DOCTYPE[^>]*>', "", text)
    assert page.training_page([run]) == text


def test_summary_has_the_interval_of_the_best_validation(tmp_path: Path) -> None:
    evals = [line(s, "eval", exact_accuracy=a) for s, a in ((10, 0.25), (20, 0.5), (30, 0.375))]
    settings = {"train": {"steps": 40, "eval_segments": 8}, "data": {"validation": 64}}
    run = page.read_run(folder_with(tmp_path / "run", [line(30, loss=1.0), *evals], settings))
    expected = wilson(32, 64)
    said = page.summary(run)
    assert f"50.0 % [{100 * expected.low:.1f}, {100 * expected.high:.1f}]" in said
    assert "The best of 3 validations, at step 20," in said
    assert "after 8 segments" in said
    assert "30 of 40 steps" in said
    assert "not complete" in said


def test_speed_is_slots_times_steps_over_time(tmp_path: Path) -> None:
    lines = [line(s, loss=1.0, lr=1e-3) for s in (10, 20, 40)]  # a step a second
    run = page.read_run(folder_with(tmp_path / "run", lines, {"train": {"batch_size": 32}}))
    speed = page._speed(run).to_numpy()
    assert np.isnan(speed[0])
    np.testing.assert_allclose(speed[1:], 32.0)


def test_older_lines_and_a_line_cut_off(tmp_path: Path) -> None:
    """Early versions wrote no `halted` and, where nothing had halted, nothing; a crash cuts a line off."""
    lines = [
        line(10, loss=1.0),
        line(20, loss=0.9, segments=None, halt_accuracy=None),
        line(30, loss=0.8, lr=1e-3),
    ]
    folder = folder_with(tmp_path / "run", lines)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 40, "minu')
    run = page.read_run(folder)
    assert run.step == 30
    assert page._halting(run) is None
    text = page.training_page([run])
    assert text.count("<figure>") == 2
    assert "no validation score yet" in text


def test_a_run_that_has_just_begun(tmp_path: Path) -> None:
    folder = folder_with(tmp_path / "run", [], {"name": "x", "train": {"steps": 5}})
    text = page.training_page([page.read_run(folder)])
    assert "0 of 5 steps" in text
    assert "<figure>" not in text


def test_only_changed_settings_are_listed(tmp_path: Path) -> None:
    settings = Recipe().model_dump()
    settings["train"]["lr"] = 0.5
    run = page.read_run(folder_with(tmp_path / "run", [line(1, loss=1.0)], settings))
    assert page._changed(run) == [("`train.lr`", "0.5", "0.0001")]


def test_several_runs_and_folders_of_seeds(tmp_path: Path) -> None:
    for seed in (0, 1):
        evals = [line(9, "eval", exact_accuracy=seed / 2)]
        folder_with(
            tmp_path / "seeds" / f"seed{seed}", [line(9, loss=1.0), *evals], {"train": {"seed": seed}}
        )
    out = page.training_report([tmp_path / "seeds"], tmp_path / "page.html")
    text = out.read_text()
    assert "Side by side" in text
    assert text.count('class="answer"') == 2
    assert re.findall(r"<td[^>]*>seed(\d)</td><td[^>]*>(\d)</td>", text) == [("0", "0"), ("1", "1")]


def test_what_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not a run folder \(no metrics.jsonl\)"):
        page.training_report([tmp_path], tmp_path / "page.html")


def test_command_takes_runs_but_not_a_mixture(run_folder: Path, tmp_path: Path) -> None:
    import loopscope.cli.report  # noqa: F401

    out = tmp_path / "page.html"
    app(args=["report", str(run_folder), "--out", str(out)], standalone_mode=False)
    assert "Training of run" in out.read_text()
    with pytest.raises(UserError, match="is a training run, not all others are"):
        app(args=["report", str(run_folder), "x.zarr", "--out", str(out)], standalone_mode=False)
