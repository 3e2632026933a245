"""The example task: its rules against brute force, its generator, and a run of a few steps."""

from __future__ import annotations

import importlib.util
import itertools
import runpy
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from loopscope.tasks import TASKS


@pytest.fixture(scope="module")
def light_up() -> ModuleType:
    path = Path(__file__).resolve().parents[1] / "examples" / "light_up.py"
    spec = importlib.util.spec_from_file_location("light_up", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["light_up"] = module
    known = set(TASKS)
    spec.loader.exec_module(module)
    assert set(TASKS) - known == {"lightup"}
    return module


def right(question: str, lamps: set[tuple[int, int]], rows: int, cols: int) -> bool:
    """The rules of Light Up, cell by cell."""
    cell = {(i, j): question[i * cols + j] for i in range(rows) for j in range(cols)}
    steps = ((0, 1), (1, 0), (0, -1), (-1, 0))
    for (i, j), symbol in cell.items():
        if symbol != ".":
            if sum((i + a, j + b) in lamps for a, b in steps) != int(symbol):
                return False
            continue
        seen = 0
        for a, b in steps:
            k, m = i + a, j + b
            while cell.get((k, m)) == ".":
                seen += (k, m) in lamps
                k, m = k + a, m + b
        if ((i, j) in lamps) == (seen > 0):
            return False
    return True


@pytest.mark.parametrize("shape", [(2, 3), (3, 3)])
def test_rules_and_search_against_all_sets_of_lamps(light_up: ModuleType, shape: tuple[int, int]) -> None:
    task, rng, solvable = light_up.LightUp(*shape), np.random.default_rng(0), 0
    for _ in range(30):
        question = "".join(rng.choice(list("......012"), task.seq_len))
        free = [i for i, symbol in enumerate(question) if symbol == "."]
        answers, expected = [], []
        for chosen in itertools.product([False, True], repeat=len(free)):
            lamps = [i for i, lit in zip(free, chosen, strict=True) if lit]
            answers.append("".join("*" if i in lamps else s for i, s in enumerate(question)))
            expected.append(right(question, {divmod(i, shape[1]) for i in lamps}, *shape))
        tokens = task.encode([question])
        found = task.verify(np.repeat(tokens, len(answers), 0), task.encode(answers))
        assert found.tolist() == expected
        solutions = {task.format(board) for board in light_up.solve(task, tokens)}
        assert solutions == {a for a, good in zip(answers, expected, strict=True) if good}
        solvable += bool(solutions)
    assert solvable > 5


def test_generated_puzzles_are_right_unique_different_and_stay_so_when_turned(light_up: ModuleType) -> None:
    task = light_up.LightUp(4, 4)
    puzzles = light_up.generate(task, 12, np.random.default_rng(0))
    again = light_up.generate(task, 12, np.random.default_rng(0))
    assert puzzles.content_hash == again.content_hash
    assert light_up.generate(task, 12, np.random.default_rng(1)).content_hash != puzzles.content_hash
    assert len(np.unique(puzzles.inputs, axis=0)) == 12
    assert task.verify(puzzles.inputs, puzzles.labels).all()
    assert all(len(light_up.solve(task, puzzles.inputs[i : i + 1])) == 1 for i in range(12))
    assert not task.verify(puzzles.inputs, puzzles.inputs).any()  # without lamps it is dark
    for seed in range(8):
        turned = task.augment(puzzles.inputs, puzzles.labels, np.random.default_rng(seed))
        assert task.verify(*turned).all()
        assert task.canonical(*turned) == task.canonical(puzzles.inputs, puzzles.labels)


def test_the_example_trains(light_up: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = ["train.steps=2", "train.batch_size=4", "train.compile=false", "train.micro_batch=0"]
    tiny += ["model.hidden_size=16", "model.H_cycles=1", "model.L_cycles=1", "train.eval_every=2"]
    tiny += ["data.validation=4", "train.eval_segments=1", "train.checkpoint_every=2"]
    light_up.main(str(tmp_path / "run"), tiny, count=12, new=4)
    assert "exact_accuracy" in capsys.readouterr().out
    assert (tmp_path / "run").is_dir()


def test_a_network_of_somebody_else_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(
        str(Path(__file__).resolve().parents[1] / "examples" / "my_reasoner.py"), run_name="__main__"
    )
    assert "exponents, nats per segment: [-0." in capsys.readouterr().out
