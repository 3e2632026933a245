"""Every command but solve, on a tiny model: what it prints, writes and keeps after Ctrl-C."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from command_line import is_plain
from loopscope.cli import demo
from loopscope.dynamics import measure as measuring
from loopscope.dynamics.measure import open_measurement
from loopscope.models.trm import TRM
from tiny import tiny_model


def test_eval(run):
    code, out, _ = run("eval model --data puzzles.csv.gz --segments 2,4 --json scores.json")
    assert code == 0
    assert is_plain(out)
    assert re.search(r"^segments +exact +cells +halt$", out, re.M)
    assert re.search(r"^2 +0\.0 % \[0\.0, 39\.0\]", out, re.M)
    assert re.search(r"^0 +6 +0\.0 %", out, re.M)  # rating band
    scores = json.loads(Path("scores.json").read_text())
    assert scores["segments"]["4"]["exact_accuracy"]["n"] == scores["n"] == 6
    assert scores["model_hash"] == tiny_model().content_hash
    assert scores["command"]


def test_eval_with_restarts(run):
    code, out, _ = run(
        "eval model --data puzzles.csv.gz --segments 2 --restarts 3 --select majority --limit 4"
    )
    assert code == 0
    assert is_plain(out)
    assert "3 rollouts, noise 0.3, chosen by majority" in out
    assert re.search(r"^segments +any right +one at random$", out, re.M)


def test_measure_and_report(run):
    code, out, _ = run(
        "measure model --data puzzles.csv.gz --segments 6 --exponents 1 --sigmas .3 --restarts 2 --out m.zarr"
    )
    assert code == 0
    assert "0 of 6 puzzles solved after 4 segments; written to m.zarr" in out
    assert "next: loopscope report m.zarr" in out
    assert open_measurement("m.zarr").sizes["segment"] == 6
    code, out, _ = run("report m.zarr --out page.html")
    assert (code, out) == (0, "written to page.html\n")
    code, _, err = run("measure model --data puzzles.csv.gz --segments 7 --out m.zarr")
    assert code == 2
    assert "segments is 6 there, 7 here" in err


@pytest.mark.parametrize("after", [0, 2])
def test_interrupted_measure_says_how_to_go_on(run, monkeypatch, after):
    original, line = (
        measuring._measure_block,
        f"measure model --data puzzles.csv.gz --batch-size 2 --out i{after}.zarr",
    )
    blocks = []

    def dying(*args):
        blocks.append(args)
        if len(blocks) > after:
            raise KeyboardInterrupt
        return original(*args)

    monkeypatch.setattr(measuring, "_measure_block", dying)
    code, _, err = run(line)
    assert code == 130
    assert (
        "4 of 6 puzzles are kept in i2.zarr; the same command goes on" if after else "nothing was kept"
    ) in err
    monkeypatch.setattr(measuring, "_measure_block", original)
    assert run(line)[0] == 0
    assert open_measurement(f"i{after}.zarr").sizes["puzzle"] == 6


def test_demo(run, monkeypatch):
    monkeypatch.setattr(demo, "MODEL", "model")
    monkeypatch.setattr(demo, "PUZZLES", "puzzles.csv.gz")
    monkeypatch.setattr(demo, "PLAN", demo.PLAN | {"segments": 6, "restarts": 1, "batch_size": 2})
    code, out, _ = run("demo --limit 4")
    assert code == 0
    assert is_plain(out)
    assert "solved after 4 segments" in out
    assert "the page: demo/report.html" in out
    assert "<html" in Path("demo/report.html").read_text()
    calls = []
    original = measuring._measure_block
    monkeypatch.setattr(measuring, "_measure_block", lambda *args: calls.append(1) or original(*args))
    assert run("demo --limit 4")[0] == 0
    assert not calls  # nothing is measured twice
    assert run("demo --limit 6")[0] == 0  # another plan replaces the earlier demo
    assert len(calls) == 3
    assert open_measurement("demo/demo.zarr").sizes["puzzle"] == 6


def test_models_info_and_convert(run):
    code, out, _ = run("models info model")
    assert code == 0
    assert is_plain(out)
    assert re.search(r"^parameters +24,802 *$", out, re.M)
    assert re.search(r"^schedule +\(2 L, H\) x 2 *$", out, re.M)
    assert run("models convert model official --to official")[0] == 0
    assert run("models convert official back --set halt_max_steps=4")[0] == 0
    code, out, _ = run("models info back")
    assert re.search(r"^parameters +24,802 *$", out, re.M)


def test_models_list(run):
    code, out, _ = run("models list")
    assert code == 0
    assert is_plain(out)


def test_toy(run):
    code, out, _ = run("toy --puzzles 2000")
    assert code == 0
    assert is_plain(out)
    assert re.search(r"^solved by segment 16 +0\.622\d\d +0\.\d{3,5} +0\.04 +ok$", out, re.M)


def test_verify(run, monkeypatch):
    monkeypatch.setattr("loopscope.dynamics.verify.verify_estimators", list)  # they have tests of their own
    code, out, _ = run("verify model --data puzzles.csv.gz")
    assert code == 0
    assert is_plain(out)
    passed = int(re.search(r"(\d+) of \1 checks passed", out)[1])
    assert passed >= 6
    assert out.count("ok ") == passed


def test_verify_finds_a_detach(run, monkeypatch):
    original = TRM.update
    monkeypatch.setattr("loopscope.dynamics.verify.verify_estimators", list)
    monkeypatch.setattr(
        TRM,
        "update",
        lambda self, which, z, x: type(z)(*(part.detach() for part in original(self, which, z, x))),
    )
    code, out, _ = run("verify model")
    assert code == 1
    assert re.search(r"^FAIL .*Is there a detach\(\)\?", out, re.M)
    assert "FAIL" in out.splitlines()[1] + out


def test_train_dry_run(run):
    code, out, _ = run("train sudoku6-cpu data.generate.count=40 data.validation=8 --dry-run --no-probe")
    assert code == 0
    assert "count: 40" in out
    assert re.search(r"^training puzzles +32$", out, re.M)
    assert re.search(r"^parameters +[\d,]+$", out, re.M)


def test_train_eval_and_resume(run):
    settings = (
        "data.generate.count=24 data.validation=8 data.generate.givens=20 model.hidden_size=16 "
        "model.H_cycles=1 model.L_cycles=1 train.steps=2 train.batch_size=4 train.compile=false "
        "train.micro_batch=0 train.eval_segments=1 train.eval_every=2 train.checkpoint_every=2"
    )
    code, out, err = run(f"train sudoku6-cpu {settings} --out run")
    assert code == 0, err
    assert "next: loopscope eval run --data FILE" in out
    assert run("eval run --data sudoku6-test --limit 2 --segments 1")[0] == 0
    code, _, err = run("train sudoku6-cpu --out run")
    assert code == 2
    assert "already holds a run" in err
    assert run("train --resume run")[0] == 0
