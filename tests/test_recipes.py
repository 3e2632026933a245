"""The shipped recipes: they load, have the published sizes, and train in a shrunken form."""

from __future__ import annotations

import functools
import json
from importlib import resources
from pathlib import Path

import numpy as np
import pytest

from loopscope.config import load_recipe, recipe_names
from loopscope.tasks import PuzzleSet, Sudoku
from loopscope.tasks.arc import Arc
from loopscope.tasks.sudoku.generate import generate
from loopscope.training.run import plan, train
from small_sets import mazes

STEPS = 50
PAPERS = {  # trainable parameters and steps that the official code prints (1,000 puzzles; ARC: one step)
    "sudoku-trm-mlp": (5_028_866, 65_104),
    "sudoku-trm-att": (6_828_034, 65_104),
    "maze-trm-att": (6_822_914, 65_104),
    "arc1-trm-att": (6_829_058, None),
    "arc2-trm-att": (6_829_058, None),
    "sudoku-hrm": (27_275_266, 26_041),
    "maze-hrm": (27_270_146, 26_041),
    "arc1-hrm": (27_276_290, None),
}
TFLOP = {"sudoku-trm-mlp": 32.8, "sudoku-trm-att": 36.6, "sudoku-hrm": 28.1}  # of a step, computed elsewhere


@functools.cache
def published_size(task: str) -> PuzzleSet:
    """A thousand puzzles of the papers' size; what stands in them does not matter."""
    kinds = {"sudoku": Sudoku(3, 3), "maze": mazes(30, 30, 1).task, "arc": Arc()}
    inputs = np.random.default_rng(0).integers(1, 5, (1000, kinds[task].seq_len), np.uint8)
    return PuzzleSet(kinds[task], inputs, inputs, np.zeros(1000, np.int32))


def tiny(task: str) -> PuzzleSet:
    """A few small puzzles of a task."""
    if task == "sudoku":
        return generate(Sudoku(2, 2), 30, 7, np.random.default_rng(0))
    if task == "maze":
        return mazes(5, 5, 12)
    rng = np.random.default_rng(0)
    grids = np.zeros((12, 30, 30), np.uint8)
    grids[:, :3, :3] = rng.integers(2, 12, (12, 3, 3))
    grids[:, 3, :3] = grids[:, :3, 3] = 1
    return PuzzleSet(Arc(), grids.reshape(12, -1), grids.reshape(12, -1), np.arange(12, dtype=np.int32) % 4)


def shrunk(name: str) -> list[str]:
    """Overrides that leave a recipe its architecture, cycles and optimisers but make it small."""
    recipe = load_recipe(name)
    small = ["model.hidden_size=16", "model.num_heads=2", "model.L_layers=1", "train.batch_size=2"]
    small += ["train.micro_batch=1", "train.epochs=none", f"train.steps={STEPS}"]
    small += ["data.validation=2", "train.log_every=5", "train.checkpoint_every=50", "train.max_minutes=none"]
    small += ["train.compile=false", "train.lr=3e-3", "train.lr_warmup_steps=5"]
    if recipe.model.puzzle_emb_ndim:
        small += ["model.puzzle_emb_ndim=16"]
    if recipe.model.H_layers:
        small += ["model.H_layers=1"]
    return small


def test_every_recipe_is_tested_here() -> None:
    ours = {"sudoku-fast", "sudoku6-cpu", "sudoku9-cpu", "sudoku9-equivariant"}
    assert {*PAPERS, *ours} == set(recipe_names())


@pytest.mark.parametrize("name", PAPERS)
def test_published_sizes(name: str) -> None:
    recipe = load_recipe(name)
    cost = plan(recipe, published_size(recipe.data.task))
    parameters, steps = PAPERS[name]
    assert cost["parameters"] == parameters
    assert steps is None or cost["steps"] == steps
    if name in TFLOP:
        assert cost["FLOPs per step"] / 1e12 == pytest.approx(TFLOP[name], abs=0.06)


def test_fast_recipe_keeps_its_budget() -> None:
    cost = plan(load_recipe("sudoku-fast", ["data.validation=100"]), published_size("sudoku"))
    assert cost["parameters"] <= 1_000_000
    assert 150e15 < cost["FLOPs"] < 210e15
    assert load_recipe("sudoku-fast").train.max_minutes == 30


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if "arc" in name else ())
        for name in (*PAPERS, "sudoku-fast")
    ],
)
def test_shrunken_recipe_trains(name: str, tmp_path: Path) -> None:
    task = load_recipe(name).data.task
    train(name, tmp_path / "run", overrides=shrunk(name), puzzles=tiny(task), progress=False)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] == STEPS
    assert lines[-1]["cell_loss"] < 0.9 * lines[0]["cell_loss"]
    assert (tmp_path / "run" / "last" / "model.safetensors").is_file()


@pytest.mark.parametrize("name", [*PAPERS, "sudoku-fast"])
def test_recipe_begins_with_how_to_get_its_data(name: str) -> None:
    text = (resources.files("loopscope") / "recipes" / f"{name}.yaml").read_text()
    first, second = (line for line in text.splitlines() if line.startswith(("# Data:", "# Train:")))
    task = load_recipe(name).data.task
    assert first.startswith(f"# Data:  loopscope data build {task} --source ")
    assert second == f"# Train: loopscope train {name} data.path=DIR --out RUN"
