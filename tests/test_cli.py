"""The command line: exit codes, one-line mistakes, help that can be copied, plain text in pipes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from loopscope.cli import demo, main, options
from loopscope.dynamics import measure as measuring
from loopscope.dynamics.measure import open_measurement
from loopscope.models.folder import save_model
from loopscope.models.trm import TRM
from loopscope.provenance import provenance
from loopscope.tasks import write_puzzles
from tiny import tiny_model, tiny_puzzles

COMMAND_LINES = ["demo", "train", "eval", "compare", "solve", "measure", "report", "verify", "toy"]
COMMAND_LINES += ["models list", "models info", "models convert"]
COMMAND_LINES += ["data build sudoku", "data build maze", "data build arc", "data show", "data overlap"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny random model and puzzles for it."""
    folder = tmp_path_factory.mktemp("cli")
    save_model(tiny_model(), folder / "model")
    write_puzzles(tiny_puzzles(6), folder / "puzzles.csv.gz")
    return folder


@pytest.fixture
def run(place, monkeypatch, capsys):
    """Run one command line in that folder; gives its exit code, stdout and stderr."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "80")

    def run(line: str, *more: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([*line.split(), *more])
        out, err = capsys.readouterr()
        return int(stopped.value.code), out, err

    return run


def is_plain(text: str, width: int = 80) -> bool:
    return "\033" not in text and all(len(line) <= width for line in text.splitlines())


# -- help


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_help_shows_examples_line_by_line(run, line):
    code, out, _ = run(f"{line} --help")
    assert code == 0
    shown = [row.strip() for row in out.splitlines()]
    examples = [row for row in shown if row.startswith("loopscope ")]
    assert f"loopscope {line}" in " ".join(examples)
    assert is_plain(out)
    assert not [row for row in examples if row.count("loopscope ") > 1]


def test_help_keeps_square_brackets(run):
    assert "data.path=[a.csv,b.csv]" in run("train --help")[1]


def test_examples_in_help_parse(run):
    """Every example is one that the command would take: no unknown option, no missing argument."""
    for line in COMMAND_LINES:
        rows = run(f"{line} --help")[1].replace("\\", "").splitlines()
        for row in (row.strip() for row in rows if row.strip().startswith(f"loopscope {line}")):
            code, _, err = run(row.removeprefix("loopscope ") + " --help")
            assert code == 0, err


@pytest.mark.parametrize("line", ["", "--help", "models --help"])
def test_without_a_command_there_is_help(run, line):
    code, out, err = run(line)
    assert (code, err) == (0, "")
    assert "Usage: loopscope" in out


def test_version(run):
    assert re.fullmatch(r"loopscope \d+\.\d+\.\d+\n", run("--version")[1])


def test_help_starts_without_the_heavy_libraries():
    code = (
        "import sys; from loopscope.cli import main\n"
        "try: main(['measure', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'scipy', 'matplotlib', 'numba', 'xarray', 'sklearn'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "loopscope", "evl"], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: No such command 'evl'. Did you mean 'eval'? Try loopscope --help.\n"


# -- mistakes


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("eval", "Missing argument 'model'. Try loopscope eval --help."),
        ("eval model", "Missing option '--data'. Try loopscope eval --help."),
        ("eval model --data puzzles.csv.gz --bogus 1", "No such option: --bogus"),
        ("eval model --data puzzles.csv.gz --limit none", "Invalid value for '--limit'"),
        ("eval model --data puzzles.csv.gz --limit 0", "Invalid value for '--limit'"),
        ("eval nothing --data puzzles.csv.gz", "nothing: no such model"),
        (
            "eval model --data nothing.csv",
            "nothing.csv: no such puzzle file or shipped puzzles. Known: sudoku",
        ),
        ("eval model --data puzzles.csv.gz --segments 1,x", "--segments 1,x: expected numbers"),
        ("eval model --data puzzles.csv.gz --segments 0", "segments=[0]: expected positive numbers"),
        ("eval model --data puzzles.csv.gz --segments ,", "segments=[]: expected positive numbers"),
        ("eval model --data puzzles.csv.gz --dtype float8", "dtype=float8: expected one of"),
        ("eval model --data puzzles.csv.gz --restarts 2 --select best", "select=best: unknown rule"),
        ("eval model --data puzzles.csv.gz --set H_cycle=2", "Did you mean H_cycles?"),
        ("eval model --data puzzles.csv.gz --set H_cycles", "expected KEY=VALUE"),
        ("eval model --data puzzles.csv.gz --set device=cpu", "--set device=cpu: unknown setting"),
        ("eval model --data puzzles.csv.gz --set num_heads=x", "num_heads"),
        ("eval model --data sudoku6-test", "puzzles of 36 cells and 8 tokens, but the model was made for 16"),
        ("eval model --data puzzles.csv.gz --json model/config.json/x.json", "Choose another path."),
        ("measure model --data puzzles.csv.gz --out r.txt", "expected a name that ends in .zarr"),
        ("measure model --data puzzles.csv.gz --out r.zarr --sigmas big", "--sigmas big: expected numbers"),
        (
            "measure model --data puzzles.csv.gz --out r.zarr --sigmas=-1",
            "sigmas=[-1.0]: expected numbers from 0",
        ),
        (
            "measure model --data puzzles.csv.gz --out r.zarr --reorth x",
            "reorth=x: expected segment or update",
        ),
        (
            "measure model --data puzzles.csv.gz --out r.zarr --exponents 9999",
            "exponents=9999: expected 1 to",
        ),
        ("measure model --data puzzles.csv.gz --out r.zarr --segments 0", "segments=0: expected at least 1"),
        ("report nothing.zarr", "nothing.zarr: no such folder"),
        ("report model", "model: not a measurement"),
        ("solve model 123", "no Sudoku board has 3 cells"),
        ("solve model 1............x..", "the puzzle: question has 'x' in row 4, column 2"),
        ("solve model 11..............", "the puzzle: two 1s in row 1"),
        ("solve model " + "." * 81, "puzzles of 81 cells and 11 tokens"),
        ("solve model 1... .... .... ... --select best", "no Sudoku board has 15 cells"),
        ("solve model 1............... --noise=-1", "Invalid value for '--noise'"),
        ("models", "Missing command. Try loopscope models --help."),
        ("models info nothing", "nothing: no such model"),
        ("models convert model out --to onnx", "--to onnx: unknown format"),
        ("models convert model model", "model: exists already"),
        ("verify nothing", "nothing: no such model"),
        ("verify model --data sudoku6-test", "puzzles of 36 cells"),
        ("train", "no recipe given"),
        ("train sudoku6-cp --out run", "Did you mean sudoku6-cpu?"),
        ("train sudoku6-cpu", "--out is missing"),
        ("train sudoku6-cpu train.lrr=1 --out run", "train.lrr: unknown key. Did you mean train.lr?"),
        ("train sudoku6-cpu train.lr --out run", "train.lr: not a setting"),
        ("train --resume nothing", "nothing: not a run folder"),
        ("train --resume nothing --dry-run", "goes with neither --out nor --dry-run"),
        ("toy --puzzles 1", "Invalid value for '--puzzles'"),
    ],
)
def test_a_mistake_is_one_line_and_exit_2(run, line, message):
    code, out, err = run(line)
    assert code == 2, err
    assert message in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err + out


def test_our_own_errors_keep_their_traceback(monkeypatch, place):
    def broken(*args, **kwargs):
        raise ZeroDivisionError("ours")

    monkeypatch.setattr(options, "read_data", broken)
    with pytest.raises(ZeroDivisionError):  # python prints the traceback and exits with 1
        main(["eval", "model", "--data", "puzzles.csv.gz"])


def test_out_of_gpu_memory_names_the_next_move(run, monkeypatch):
    def full(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory. " * 20)

    monkeypatch.setattr(options, "load_model", full)
    code, _, err = run("eval model --data puzzles.csv.gz")
    assert (code, err) == (2, "error: out of GPU memory. Lower --batch-size.\n")


# -- commands


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


PUZZLE = "".join(".1234"[max(t - 1, 0)] for t in tiny_puzzles(1).inputs[0])
SOLUTION = "".join("1234"[t - 2] for t in tiny_puzzles(1).labels[0])


def test_solve_says_what_is_wrong(run):
    code, out, _ = run(f"solve model {PUZZLE} --segments 3")
    assert code == 0
    assert is_plain(out)
    assert "NOT solved: answer " in out
    assert re.search(r"cells in conflict: \d+; givens changed: \d+", out)
    board = out[: out.index("bold:")]
    conflicts, broken = map(int, re.findall(r"conflict: (\d+); givens changed: (\d+)", out)[0])
    assert board.count("*") == broken
    assert conflicts - broken <= board.count("!") <= conflicts
    assert "halt logit" in out


def test_solve_a_puzzle_in_rows(run):
    rows = [PUZZLE[i : i + 4] for i in range(0, 16, 4)]
    assert (
        run("solve model", *rows)[1] == run("solve model", PUZZLE)[1] == run("solve model", " ".join(rows))[1]
    )


def test_solve_right(run, monkeypatch):
    """A model whose head is made to give the solution whatever the state."""
    table = torch.nn.functional.one_hot(torch.tensor([[int(c) + 1 for c in SOLUTION]]), 6).float()
    original = TRM.readout
    monkeypatch.setattr(TRM, "readout", lambda *args: original(*args)._replace(logits=table))
    code, out, _ = run(f"solve model {PUZZLE} --trace --segments 5")
    assert code == 0
    assert "solved: every row, column and box is right and the givens are kept" in out
    assert "unchanged from segment 2 to 5, first right after segment 1" in out
    assert out.count("segment 1\n") == 1
    assert "segment 2\n" not in out  # nothing changed
    assert "!" not in out[: out.index("bold:")]


def test_solve_trace_and_restarts(run):
    code, out, _ = run(f"solve model {PUZZLE} --trace --segments 3 --restarts 3 --select residual --seed 1")
    assert code == 0
    assert is_plain(out)
    assert re.search(r"segment 1 +segment 2 +segment 3", out)
    assert re.search(r"\d+ changed, \d+ clash", out)
    assert "trace of the plain start: the answer is still changing at segment 3, never right" in out
    assert re.search(r"rollout \d of 3 chosen by residual", out)


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
        "4 of 6 puzzles are kept in i2.zarr; the same command goes on" if after else "nothing is kept"
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
    assert re.search(r"^solved by segment 16 +0\.622\d\d +0\.\d{5} +0\.04 +ok$", out, re.M)


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


def test_colours_only_for_a_terminal(place):
    """In a pipe, with the environment of a terminal, there is no escape code."""
    line = [sys.executable, "-m", "loopscope", "solve", "model", PUZZLE, "--trace", "--segments", "2"]
    environment = os.environ | {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
    done = subprocess.run(line, cwd=place, env=environment, capture_output=True, text=True, check=True)
    assert "\033" not in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("program", "command"),
    [("/x/bin/loopscope", "loopscope"), ("/x/loopscope/__main__.py", "python -m loopscope"), ("", "python")],
)
def test_the_record_tells_the_command_as_typed(monkeypatch, program, command):
    monkeypatch.setattr(sys, "argv", [program, "eval", "my model"])
    assert provenance()["command"] == f"{command} eval 'my model'"
