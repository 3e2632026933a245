"""The command line: exit codes, one-line mistakes, help that can be copied."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys

import pytest
import torch

from command_line import is_plain
from loopscope.cli import main, options
from loopscope.provenance import provenance

COMMAND_LINES = ["demo", "train", "eval", "compare", "solve", "measure", "report", "verify", "toy"]
COMMAND_LINES += ["models list", "models info", "models convert", "models export", "models push"]
COMMAND_LINES += ["bench infer", "bench lyapunov", "bench train", "play"]
COMMAND_LINES += ["data build sudoku", "data build maze", "data build arc", "data show", "data overlap"]


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
            code, _, err = run("", *shlex.split(row)[1:], "--help")
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
        (
            "eval model --data puzzles.csv.gz --split train",
            "puzzles.csv.gz is a puzzle file, which has no splits",
        ),
        (
            "eval model --data puzzles.csv.gz --arc-rule official",
            "--arc-rule official: sudoku-2x2 is not an ARC set",
        ),
        ("eval model --data puzzles.csv.gz --seed 9223372036854775808", "Invalid value for '--seed'"),
        ("eval model --data puzzles.csv.gz --json /dev/null", "/dev/null: is not a regular file"),
        ("eval model --data puzzles.csv.gz --json -", "-: is not a regular file"),
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
        ("solve model 123", "the puzzle: no Sudoku board has 3 cells"),
        ("solve model puzzles.csv.gz", "Use loopscope eval --data puzzles.csv.gz."),
        ("solve model 1............... --data arc1", "--data arc1: only an ARC task"),
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


@pytest.mark.parametrize(
    "line",
    [
        "eval model --data puzzles.csv.gz --json",
        "eval model --data puzzles.csv.gz --out",
        "eval model --data puzzles.csv.gz --sweep segments=1 --figure",
        "compare a.csv b.csv --json",
        "report run.zarr --out",
        "solve model 1............... --gif",
        "data show puzzles.csv.gz --figure",
        "bench infer --json",
        "measure model --data puzzles.csv.gz --out",
        "demo --out",
        "train sudoku6-cpu --out",
        "models export model",
    ],
)
def test_what_cannot_be_written_is_refused_before_the_work(run, monkeypatch, line):
    def too_late(*args, **kwargs):
        raise AssertionError("the work has begun")

    monkeypatch.setattr(options, "read_data", too_late)
    monkeypatch.setattr(options, "load_model", too_late)
    folder = line.split()[0] in ("measure", "demo", "train", "models")
    taken = "puzzles.csv.gz" if folder else "model"
    said = (
        "is a file. Give the name of a folder." if folder else "is a folder. Give the name of a file in it."
    )
    assert run(f"{line} {taken}") == (2, "", f"error: {taken}: {said}\n")
    code, _, err = run(f"{line} puzzles.csv.gz/inside")
    assert code == 2
    assert "puzzles.csv.gz. Choose another path." in err


def test_a_link_is_written_through_and_an_empty_text_is_no_puzzle(run, place):
    (place / "kept.json").write_text("{}")
    (place / "link.json").symlink_to("kept.json")
    assert run("eval model --data puzzles.csv.gz --segments 1 --json link.json")[0] == 0
    assert (place / "link.json").is_symlink()
    assert "seconds_per_puzzle" in json.loads((place / "kept.json").read_text())
    (place / "empty.txt").write_text(" \n")
    code, _, err = run("solve model empty.txt")
    assert (code, err.count("\n")) == (2, 1)
    assert err.startswith("error: empty.txt: is empty, expected ")


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


@pytest.mark.parametrize(
    ("program", "command"),
    [("/x/bin/loopscope", "loopscope"), ("/x/loopscope/__main__.py", "python -m loopscope"), ("", "python")],
)
def test_the_record_tells_the_command_as_typed(monkeypatch, program, command):
    monkeypatch.setattr(sys, "argv", [program, "eval", "my model"])
    assert provenance()["command"] == f"{command} eval 'my model'"
