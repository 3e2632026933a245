"""loopscope data: build, show and overlap as typed, and what is trained on the folders they make."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest

from loopscope.cli import main
from loopscope.tasks import Maze, Sudoku, read_puzzles, write_puzzles
from small_sets import files_of, mazes, sudokus

BOARD = Sudoku(2, 2)
TINY = (
    "model.hidden_size=16 model.H_cycles=1 model.L_cycles=1 train.steps=3 train.batch_size=4 "
    "train.compile=false train.micro_batch=0 train.eval_segments=1 train.eval_every=3 "
    "train.checkpoint_every=3 data.generate=null"
)


def arc_task(rng: np.random.Generator, pairs: int = 3) -> dict[str, list[dict[str, list[list[int]]]]]:
    """A task whose output is its input upside down."""
    grids = [rng.integers(0, 10, (3, 4)) for _ in range(pairs + 1)]
    made = [{"input": g.tolist(), "output": g[::-1].tolist()} for g in grids]
    return {"train": made[:-1], "test": made[-1:]}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with source files of all three tasks."""
    folder = tmp_path_factory.mktemp("data")
    puzzles = sudokus(BOARD, 24, 7)
    write_puzzles(puzzles[:16], folder / "train.csv.gz")
    write_puzzles(puzzles[16:], folder / "test.csv.gz")
    copies = BOARD.augment(puzzles.inputs[3:5], puzzles.labels[3:5], np.random.default_rng(0))
    leaky = puzzles[16:18]
    write_puzzles(type(leaky)(BOARD, *copies, leaky.puzzle_ids), folder / "leaky.csv")
    write_puzzles(mazes(5, 5, 12), folder / "mazes.csv")
    rng = np.random.default_rng(0)
    for subset, count in (("training", 4), ("evaluation", 3)):
        tasks = {f"{subset[0]}{i}": arc_task(rng) for i in range(count)}
        (folder / f"arc_{subset}_challenges.json").write_text(json.dumps(tasks))
    return folder


@pytest.fixture
def run(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """Run one command line in that folder; gives its exit code, stdout and stderr."""
    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "80")

    def run(line: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(line.split())
        out, err = capsys.readouterr()
        return int(stopped.value.code), out, err

    return run


ARC = "data build arc --source arc --subsets training,evaluation --test-set evaluation --augmentations 3"


# -- commands


def test_build_show_and_again(run) -> None:
    line = "data build sudoku --source train.csv.gz --test test.csv.gz --subsample 10 --out"
    code, out, _ = run(f"{line} a")
    assert code == 0
    assert re.search(r"^train +10 +10 +10$", out, re.M)
    assert "next: loopscope data show a" in out
    assert run(f"{line} b")[0] == 0
    assert files_of(Path("a")) == files_of(Path("b"))
    assert run(f"{line} c --seed 1")[0] == 0
    assert files_of(Path("c"))["train/all__inputs.npy"] != files_of(Path("a"))["train/all__inputs.npy"]
    code, out, _ = run("data show a --examples 1 --figure a.svg")
    assert code == 0
    assert re.search(r"^train +10 +10 +10 +0 +0 *$", out, re.M)
    assert re.search(r"^test +8 +8 +8 +0 +0 *$", out, re.M)
    assert "leak: 0 of 8 test examples also occur in training, up to symmetry" in out
    assert "built with seed 0, subsample 10" in out
    assert max(map(len, out.splitlines())) <= 80
    assert "<svg" in Path("a.svg").read_text()


def test_a_leak_is_refused_unless_allowed_and_then_shown(run) -> None:
    line = "data build sudoku --source train.csv.gz --test leaky.csv --out leaky"
    code, _, err = run(line)
    assert code == 2
    assert "2 of 2 test puzzles are in training too, up to symmetry" in err
    assert not Path("leaky").exists()
    assert run(f"{line} --allow-leak")[0] == 0
    out = run("data show leaky")[1]
    assert "leak: 2 of 2 test examples also occur in training, up to symmetry" in out
    assert "found when built: up to symmetry 2" in out


def test_overlap_says_which_rows(run) -> None:
    code, out, _ = run("data overlap train.csv.gz leaky.csv")
    assert code == 1
    assert out.splitlines()[:2] == [
        "row 0 of leaky.csv equals row 3 of train.csv.gz",
        "row 1 of leaky.csv equals row 4 of train.csv.gz",
    ]
    assert "2 of 2 puzzles of leaky.csv stand in train.csv.gz (16 puzzles), up to symmetry" in out
    assert run("data overlap train.csv.gz test.csv.gz")[0] == 0


def test_arc_baked_and_drawn_hold_the_same_puzzles(run) -> None:
    assert run(f"{ARC} --out drawn")[0] == 0
    assert run(f"{ARC} --out baked --bake")[0] == 0
    drawn, baked = run("data show drawn")[1], run("data show baked")[1]
    for out in (drawn, baked):
        assert re.search(r"^train +7 +28 ", out, re.M)
    assert files_of(Path("drawn"))["identifiers.json"] == files_of(Path("baked"))["identifiers.json"]
    assert len(json.loads(Path("drawn/identifiers.json").read_text())) == 29


# -- mistakes


def test_mistakes_are_one_line_and_leave_nothing(run, place: Path) -> None:
    whole = (place / "train.csv.gz").read_bytes()
    (place / "cut.csv.gz").write_bytes(whole[: len(whole) // 2])
    text = gzip.decompress(whole).decode().splitlines()
    (place / "bare.csv").write_text("".join(",".join(line.split(",")[:3]) + "\n" for line in text))
    (place / "other").mkdir()
    (place / "other" / "mine.txt").write_text("mine")
    sound = '[{"input": [[1]], "output": [[1]]}]'
    for name, grid in (("broken", "[[1"), ("ragged", "[[1, 2], [3]]")):
        (place / f"{name}_training_challenges.json").write_text(
            f'{{"a": {{"train": [{{"input": {grid}, "output": [[1]]}}], "test": {sound}}}}}'
        )
    lines = {
        "sudoku --source nothing.csv": "nothing.csv: no such file or folder",
        "sudoku --source mazes.csv": "no Sudoku board has 25 cells",
        "maze --source train.csv.gz": "train.csv.gz line 2: question has",
        "sudoku --source cut.csv.gz": "cut.csv.gz: the gzip stream is cut off",
        "sudoku --source bare.csv --min-difficulty 1": "Leave out --min-difficulty",
        "sudoku --source train.csv.gz --test leaky.csv": "pass --allow-leak",
        "sudoku --source train.csv.gz --compat hrm": "compat=hrm: expected trm",
        "sudoku --source train.csv.gz --subsample 0": "Invalid value for '--subsample'",
        "sudoku --source hf:nobody": "expected hf:owner/name",
        "arc --source broken --subsets training --test-set training": "broken_training_challenges.json",
        "arc --source ragged --subsets training --test-set training": "row 2 has 1 cells, row 1 has 2",
        "arc --source arc --subsets trainin --test-set trainin": "Did you mean training",
    }
    before = {p.name for p in place.iterdir()}
    for line, message in lines.items():
        code, _, err = run(f"data build {line} --out new")
        assert (code, err.count("\n")) == (2, 1), line
        assert message in err, line
        assert err.startswith("error: ")
    assert {p.name for p in place.iterdir()} == before
    assert (
        "not a puzzle folder written by loopscope"
        in run("data build sudoku --source train.csv.gz --out other")[2]
    )
    assert (place / "other" / "mine.txt").read_text() == "mine"
    for line, message in {
        "show nothing": "nothing: no such puzzle file",
        "show train.csv.gz --figure a.gif": "ends in .svg, .pdf, .png",
        "overlap train.csv.gz mazes.csv": "Compare sets of one task",
    }.items():
        code, out, err = run(f"data {line}")
        assert (code, out, err.count("\n")) == (2, "", 1), line
        assert message in err


# -- training on what was built


def test_train_and_evaluate_on_a_sudoku_folder(run) -> None:
    assert run("data build sudoku --source train.csv.gz --test test.csv.gz --out s")[0] == 0
    code, _, err = run(f"train sudoku6-cpu {TINY} data.path=s data.validation=4 --out run-s")
    assert code == 0, err
    code, out, err = run("eval run-s --data s --segments 1")
    assert code == 0, err
    assert re.search(r"^1 +\d+\.\d %", out, re.M)


def test_train_and_evaluate_on_a_maze_folder(run) -> None:
    assert run("data build maze --source mazes.csv --test mazes.csv --allow-leak --out m")[0] == 0
    code, _, err = run(f"train sudoku6-cpu {TINY} data.path=m data.task=maze data.validation=4 --out run-m")
    assert code == 0, err
    assert run("eval run-m --data m --segments 1")[0] == 0


def test_two_folders_are_trained_on_together_unless_identifiers_clash(run) -> None:
    assert run("data build maze --source mazes.csv --augmentations 2 --out turned")[0] == 0
    write_puzzles(read_puzzles("mazes.csv")[:5], "five.csv")
    assert run("data build maze --source five.csv --out five")[0] == 0
    paths = "data.task=maze data.path=[turned,five] data.validation=4"
    code, _, err = run(f"train sudoku6-cpu {TINY} {paths} --dry-run --no-probe")
    assert code == 0, err
    for seed in (1, 2):
        assert run(f"{ARC} --seed {seed} --out arc{seed}")[0] == 0
    code, _, err = run(f"train sudoku6-cpu {TINY} data.task=arc data.path=[arc1,arc2] --out run-2")
    assert (code, err.count("\n")) == (2, 1)
    assert "identifiers clash. Build one folder of all." in err


def test_groups_are_joined_one_after_the_other(run) -> None:
    from loopscope.tasks.base import join

    assert run("data build maze --source mazes.csv --augmentations 1 --out pairs")[0] == 0
    pairs, single = read_puzzles("pairs", split="train"), read_puzzles("mazes.csv")
    both = join([pairs, single, pairs])
    g = both.groups
    assert isinstance(both.task, Maze)
    assert np.diff(g.starts).tolist() == [2] * 12 + [1] * 12 + [2] * 12
    assert g.first.tolist() == list(range(60))
    assert g.stop.tolist() == list(range(1, 61))
    assert (both.inputs[24:36] == single.inputs).all()


def test_train_on_arc_with_versions_made_when_drawn(run) -> None:
    import loopscope as ls

    assert run(f"{ARC} --out drawn-2")[0] == 0
    puzzles = read_puzzles("drawn-2", split="train")
    overrides = [
        *TINY.split(),
        "data.path=drawn-2",
        "data.task=arc",
        "data.validation=2",
        "model.puzzle_emb_ndim=16",
    ]
    overrides += ["model.mlp_t=false", "model.pos_encodings=rope", "train.batch_size=2", "train.steps=2"]
    weights = ls.train("sudoku6-cpu", "run-arc", overrides=overrides)
    model = ls.load(weights)
    assert model.settings.num_puzzle_identifiers == 29
    assert ls.evaluate(model, puzzles[:2], segments=1).scores[1]
