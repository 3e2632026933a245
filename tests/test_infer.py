"""Fast inference: kept casts change no number, what is timed is what is counted, flips are counted."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from checkpoints import command, one_line, same_weights
from command_line import exit_code, furnish
from loopscope.evaluation.bench import answer, bench_infer, model_or_recipe, random_batch
from loopscope.evaluation.precision import dtype_flips
from loopscope.models.layers import Linear, ReasoningModule
from loopscope.models.load import load
from loopscope.tasks import PuzzleSet
from loopscope.training import bench, setup
from tiny import tiny_model, tiny_puzzles

ARCHES = ("trm", "hrm", "trm-singlez", "transformer")


@pytest.fixture(autouse=True)
def _small_products(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SIZES", {"cpu": (64, 128)})


class WeightCasts(TorchDispatchMode):
    """Counts how often a matrix is turned from float32 into bfloat16."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()
        self.weights, self.count = weights, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "_to_copy" in str(func) and args[0].data_ptr() in self.weights:
            self.count += 1
        return func(*args, **(kwargs or {}))


def blocks_of(model: Any) -> set[int]:
    blocks = (m for m in model.modules() if isinstance(m, ReasoningModule))
    return {m.weight.data_ptr() for block in blocks for m in block.modules() if isinstance(m, Linear)}


@pytest.mark.parametrize("mlp_t", [True, False])
@pytest.mark.parametrize("arch", ARCHES)
@torch.no_grad()
def test_kept_casts_change_no_bit(arch: str, mlp_t: bool) -> None:
    """The same orbit by single updates, which cast in every product, and by segments, which do not."""
    positions = "none" if mlp_t else "rope"
    model = tiny_model(arch, mlp_t=mlp_t, pos_encodings=positions, forward_dtype="bfloat16")
    ctx = model.encode(tiny_puzzles(3).batch())
    plain = kept = model.initial_state(ctx)
    with model.casts_kept():
        for _ in range(2):
            kept = model.segment(kept, ctx)
    for _ in range(2):
        for update in model.updates(ctx):
            plain = update(plain)
    assert torch.equal(model.read(plain), model.read(kept))
    assert all(m.kept is None for m in model.modules() if isinstance(m, Linear))


@torch.no_grad()
def test_weights_are_cast_once() -> None:
    model = tiny_model("hrm", forward_dtype="bfloat16")
    batch, matrices = tiny_puzzles(2).batch(), blocks_of(model)
    with WeightCasts(matrices) as each:
        answer(model, batch, 3)
    with model.casts_kept(), WeightCasts(matrices) as never:
        answer(model, batch, 3)
    assert (each.count, never.count) == (3 * len(matrices), 0)  # once per segment; before the first


def test_training_and_float32_keep_nothing() -> None:
    """Gradients reach the masters, also within the block's dtype; a change of weights is seen at once."""
    model = tiny_model(forward_dtype="bfloat16")
    ctx = model.encode(tiny_puzzles(2).batch())
    z = model.initial_state(ctx)
    model.readout(model.training_segment(z, ctx)).logits.float().sum().backward()
    assert all(m.weight.grad is not None for m in model.L_level.modules() if isinstance(m, Linear))
    with torch.no_grad():
        before = model.read(model.segment(z, ctx))
        for p in model.L_level.parameters():
            p.mul_(1.5)
        assert not torch.equal(model.read(model.segment(z, ctx)), before)
    wide = tiny_model()
    with wide.casts_kept():
        assert all(m.kept is None for m in wide.modules() if isinstance(m, Linear))


def test_numbers_fit_together() -> None:
    model = tiny_model()
    found = bench_infer(model, segments=3, batch_size=2, rounds=3)
    assert found["flops"] == 2 * 3 * model.applications_per_segment * model.application_flops
    assert found["puzzles_per_second"] == pytest.approx(2 / found["seconds"])
    assert found["seconds_per_segment"] == pytest.approx(found["seconds"] / 3)
    assert found["fraction"] == pytest.approx(found["flops"] / found["seconds"] / found["peak"])
    assert found["seconds_low"] <= found["seconds"] <= found["seconds_high"]
    assert (found["dtype"], found["compile"], found["segments"]) == ("float32", False, 3)
    one_line(lambda: bench_infer(model, segments=0), "segments=0")


def test_what_is_timed_runs_all_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    model, asked = tiny_model(), []
    plain = model.segment
    monkeypatch.setattr(model, "segment", lambda z, ctx: asked.append(1) or plain(z, ctx))
    bench_infer(model, segments=5, batch_size=1, rounds=3)
    assert len(asked) == 2 + 3 * 5


def test_compile_is_asked_of_the_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(ReasoningModule, "compile", lambda self, **how: asked.append(how))
    monkeypatch.setattr("loopscope.evaluation.bench.missing_for_compile", lambda device: "")
    assert bench_infer(tiny_model(), segments=1, rounds=1, compiled=True)["compile"]
    assert len(asked) == 1
    monkeypatch.chdir(furnish(tmp_path))
    assert exit_code("eval model --data puzzles.csv.gz --segments 2 --compile") == 0
    assert len(asked) == 2
    monkeypatch.setattr("loopscope.evaluation.bench.missing_for_compile", setup.missing_for_compile)
    monkeypatch.setenv("PATH", "")
    one_line(
        lambda: bench_infer(tiny_model(), segments=1, rounds=1, compiled=True), "C++ compiler", "--compile"
    )


EVERY_SIZE = """
from torch._dynamo.utils import counters
from loopscope.evaluation.bench import compile_model
from loopscope.evaluation.solve import solve
from tiny import tiny_model, tiny_puzzles
model, puzzles = tiny_model(), tiny_puzzles(12)
compile_model(model)
for n in range(12, 0, -1):
    solve(model, puzzles[:n], segments=2, batch_size=n)
assert 1 <= counters["stats"]["unique_graphs"] <= 3, counters["stats"]
"""


@pytest.mark.slow
def test_batches_of_every_size_share_compiled_blocks() -> None:
    """The first size, any other and a single row are three; in a process without shape checks."""
    if missing := setup.missing_for_compile(torch.device("cpu")):
        pytest.skip(missing)
    subprocess.run([sys.executable, "-c", EVERY_SIZE], cwd=Path(__file__).parent, check=True)


def test_models_and_recipes_by_name() -> None:
    fresh = model_or_recipe("sudoku-trm-mlp", dtype="float32", hidden_size=64, puzzle_emb_ndim=64)
    assert (fresh.settings.seq_len, fresh.settings.hidden_size, fresh.dtype) == (81, 64, torch.float32)
    assert "fresh weights" in fresh.facts["name"]
    assert same_weights(model_or_recipe("sudoku6-cpu"), load("sudoku6-cpu"))  # a recipe has that name, too
    one_line(lambda: model_or_recipe("sudoku-trm-mpl"), "sudoku-trm-mpl")
    assert random_batch(fresh, 3).inputs.shape == (3, 81)


# -- answers in two dtypes


def test_flips_of_equal_dtypes_are_none() -> None:
    puzzles = tiny_puzzles(5)
    flips = dtype_flips(tiny_model(), puzzles, small="float32", wide="float32", segments=2)
    assert (flips.cells.value, flips.puzzles.value, flips.flipped_cells) == (1.0, 1.0, 0)
    assert (flips.only_small, flips.only_wide) == (0, 0)


def test_flips_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers that are known: puzzle 0 loses a cell in bfloat16, puzzle 1 is wrong in float32 in two."""
    puzzles, model = tiny_puzzles(4), tiny_model()
    small, wide = (torch.from_numpy(puzzles.labels.astype(np.int64)) for _ in range(2))
    small[0, 3] = 0
    wide[1, 4:6] = 0
    monkeypatch.setattr(
        "loopscope.evaluation.precision.answer",
        lambda model, batch, segments: small if model.dtype == torch.bfloat16 else wide,
    )
    flips = dtype_flips(model, puzzles)
    assert flips.flipped_cells == 3
    assert flips.cells.value == pytest.approx(1 - 3 / 64)
    assert (flips.puzzles.value, flips.puzzles.n) == (0.5, 4)
    assert (flips.only_small, flips.only_wide) == (1, 1)
    assert model.dtype == torch.float32
    unknown = PuzzleSet(puzzles.task, puzzles.inputs, None, puzzles.puzzle_ids)
    assert dtype_flips(model, unknown).only_small is None


def test_shipped_model_answers_alike_in_bfloat16() -> None:
    """sudoku6-cpu solves its puzzles, and a solved puzzle is far from a border between answers."""
    from loopscope.tasks import read_puzzles

    flips = dtype_flips(load("sudoku6-cpu"), read_puzzles("sudoku6-test", limit=16), segments=8)
    assert flips.cells.value >= 0.995


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "speed.json"
    words = ["--segments", "2", "--rounds", "2", "--batch-size", "4", "--limit", "8", "--device", "cpu"]
    said = command(
        capsys, "bench", "infer", "sudoku6-cpu", *words, "--data", "sudoku6-test", "--json", str(out)
    )
    for expected in (
        "puzzles per second",
        "matrix products",
        "fraction",
        "cells answered alike",
        "written to",
    ):
        assert expected in said
    found = json.loads(out.read_text())
    assert (found["model"], found["batch_size"], found["flips"]["cells"]["n"]) == ("sudoku6-cpu", 4, 8)
    assert math.isclose(found["fraction"], found["rate"] / found["peak"])
