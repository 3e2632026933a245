"""Long evaluations: in chunks, by several processes and after a kill they equal one in a single go."""

from __future__ import annotations

import json
import os
import signal
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loopscope.errors import UserError
from loopscope.evaluation import arc, stream
from loopscope.evaluation import evaluate as evaluating
from loopscope.evaluation.answer_file import answer_table, write_answers
from loopscope.evaluation.arc import evaluate_arc
from loopscope.evaluation.budget import evaluate_budget
from loopscope.evaluation.evaluate import evaluate
from loopscope.evaluation.solve import solve
from loopscope.evaluation.stream import parts_of
from loopscope.tasks import PuzzleSet, read_puzzles
from loopscope.tasks.build.arc import build_arc
from loopscope.tasks.storage.layout import read_identifiers
from loopscope.training.distributed import is_main
from tiny import BOARD, Approach, tiny_model, tiny_puzzles
from together import finish, start, together

LEVERS = {"segments": [2, 3], "restarts": 3, "noise": 1.0, "views": 2, "batch_size": 4}


def run(out: Path, killed_after: int | None = None, **levers: Any) -> None:
    """Evaluate 30 puzzles in chunks of 8, and write scores and answers; or die after some chunks."""
    stream.CHUNK = 2
    die_after(killed_after)
    puzzles = tiny_puzzles(30)
    result = evaluate(tiny_model(), puzzles, answers=True, parts=parts_of(out), **(LEVERS | levers))
    keep(out, result, puzzles)


def die_after(chunks: int | None) -> None:
    """Die as soon as so many chunks are kept."""
    write = stream.Parts.write

    def die(self: stream.Parts, chunk: slice, columns: stream.Chunk) -> None:
        write(self, chunk, columns)
        if len(list(self.folder.glob("*.npz"))) == chunks:
            os.kill(os.getpid(), signal.SIGKILL)

    if chunks:
        stream.Parts.write = die


def keep(out: Path, result: Any, puzzles: PuzzleSet) -> None:
    """Write answers and all scores that are no times."""
    if is_main():
        found = {
            k: v for k, v in result.to_dict().items() if k not in ("seconds_per_puzzle", "command", "created")
        }
        out.with_suffix(".json").write_text(json.dumps(found))
        write_answers(out, answer_table(result, puzzles))


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("alone") / "a.csv"
    together(1, run, out)
    return out


def assert_equal(out: Path, alone: Path) -> None:
    assert out.read_bytes() == alone.read_bytes()
    assert out.with_suffix(".json").read_text() == alone.with_suffix(".json").read_text()


@pytest.mark.parametrize("num", [2, 4])
def test_several_processes_equal_one(num: int, alone: Path, tmp_path: Path) -> None:
    together(num, run, tmp_path / "a.csv")
    assert_equal(tmp_path / "a.csv", alone)


def test_killed_and_resumed_equals_one_go(alone: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.csv"
    assert finish(start(1, run, out, 2)) == [-signal.SIGKILL]
    assert not out.exists()
    held = {p.name: p.stat().st_mtime_ns for p in parts_of(out).folder.glob("*.npz")}
    assert len(held) == 2
    together(1, run, out)
    assert_equal(out, alone)
    assert held.items() <= {p.name: p.stat().st_mtime_ns for p in parts_of(out).folder.glob("*.npz")}.items()
    with pytest.raises(UserError, match="another evaluation") as caught:
        evaluate(tiny_model(), tiny_puzzles(30), parts=parts_of(out), **(LEVERS | {"restarts": 2}))
    assert "\n" not in str(caught.value)


def test_a_part_of_a_set_is_answered_as_in_the_whole() -> None:
    model, puzzles = tiny_model(), tiny_puzzles(9)
    levers = {"segments": 3, "restarts": 3, "noise": 1.0, "segment_noise": 0.5, "views": 2}
    whole, part = solve(model, puzzles, **levers), solve(model, puzzles[5:], first=5, **levers)
    assert (whole.rollouts[5:] == part.rollouts).all()
    assert (solve(model, puzzles[5:], **levers).rollouts != part.rollouts).any()


def run_budget(out: Path, killed_after: int | None = None) -> None:
    """Spend a budget on each of 30 puzzles in chunks of 8; or die after some chunks."""
    stream.CHUNK = 2
    die_after(killed_after)
    puzzles = tiny_puzzles(30)
    how: dict[str, Any] = {"budget": 6 * 5, "policy": "luby", "cutoff": 1, "noise": 1.0, "batch_size": 4}
    result = evaluate_budget(tiny_model(), puzzles, answers=True, parts=parts_of(out), **how)
    keep(out, result, puzzles)


def test_a_budget_killed_and_resumed_by_two_processes_equals_one_go(tmp_path: Path) -> None:
    alone, out = tmp_path / "alone.csv", tmp_path / "a.csv"
    together(1, run_budget, alone)
    assert finish(start(1, run_budget, out, 2)) == [-signal.SIGKILL]
    together(2, run_budget, out)
    assert_equal(out, alone)


# -- ARC


def arc_model(identifiers: int) -> Any:
    """A random model with a row for every identifier."""
    size = {"seq_len": 900, "vocab_size": 12, "mlp_t": False, "H_cycles": 1, "L_cycles": 1}
    table = {"puzzle_emb_ndim": 16, "puzzle_emb_len": 1, "num_puzzle_identifiers": identifiers}
    return tiny_model(**size, **table, pos_encodings="rope")


def run_arc(out: Path, folder: Path, killed_after: int | None = None, rule: str = "official") -> None:
    """Vote on 3 tasks with 2 test inputs in 4 versions, 24 rows in 6 chunks; or die after some.

    The official rule ranks equal candidates by which was seen first, so it tells a changed order.
    """
    arc.CHUNK = 2
    die_after(killed_after)
    puzzles, known = read_puzzles(folder), read_identifiers(folder)
    model = arc_model(len(known))
    how: dict[str, Any] = {"segments": [1, 2], "batch_size": 2, "rule": rule, "parts": parts_of(out)}
    result, votes = evaluate_arc(model, puzzles, known, **how)
    keep(out, result, puzzles)
    if is_main():
        tests = [(task, i) for task, pairs in votes[1].tests.items() for i in range(len(pairs))]
        ranked = [of.candidates(*test) for of in votes.values() for test in tests]
        shown = [[(c.grid.tolist(), c.votes, c.confidence) for c in row] for row in ranked]
        assert any(len(row) > 1 for row in shown)  # else no order could be wrong
        out.with_suffix(".votes").write_text(json.dumps(shown))


@pytest.fixture(scope="module")
def arc_alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one process finds, and the folder it was asked about."""
    root, rng = tmp_path_factory.mktemp("arc"), np.random.default_rng(0)
    (root / "source" / "evaluation").mkdir(parents=True)
    for i in range(3):
        pairs = [{k: rng.integers(0, 10, (2, 3)).tolist() for k in ("input", "output")} for _ in range(4)]
        task = {"train": pairs[:2], "test": pairs[2:]}
        (root / "source" / "evaluation" / f"task{i}.json").write_text(json.dumps(task))
    build_arc(root / "source", root / "set", subsets=["evaluation"], augmentations=3)
    together(1, run_arc, root / "a.csv", root / "set")
    return root / "a.csv", root / "set"


def assert_equal_votes(out: Path, alone: Path) -> None:
    assert_equal(out, alone)
    assert out.with_suffix(".votes").read_text() == alone.with_suffix(".votes").read_text()


@pytest.mark.parametrize("num", [2, 4])
def test_arc_in_several_processes_equals_one(num: int, arc_alone: tuple[Path, Path], tmp_path: Path) -> None:
    together(num, run_arc, tmp_path / "a.csv", arc_alone[1])
    assert_equal_votes(tmp_path / "a.csv", arc_alone[0])


def test_arc_killed_and_resumed_equals_one_go(arc_alone: tuple[Path, Path], tmp_path: Path) -> None:
    out, (alone, folder) = tmp_path / "a.csv", arc_alone
    assert finish(start(1, run_arc, out, folder, 3)) == [-signal.SIGKILL]
    assert not out.exists()
    held = {p.name: p.stat().st_mtime_ns for p in parts_of(out).folder.glob("*.npz")}
    assert len(held) == 3
    together(2, run_arc, out, folder)  # two go on with what one began
    assert_equal_votes(out, alone)
    now = {p.name: p.stat().st_mtime_ns for p in parts_of(out).folder.glob("*.npz")}
    assert held.items() <= now.items()
    assert len(now) == 6
    puzzles, known = read_puzzles(folder), read_identifiers(folder)
    more: dict[str, Any] = {"segments": [1, 2], "batch_size": 2, "versions": 1}
    with pytest.raises(UserError, match=r"another evaluation \(versions differs") as caught:
        evaluate_arc(arc_model(len(known)), puzzles, known, parts=parts_of(out), **more)
    assert "\n" not in str(caught.value)


# -- memory


def mapped(folder: Path, count: int) -> PuzzleSet:
    """A few puzzles again and again, on the disk: what is read of them is not in memory."""
    few = tiny_puzzles(8)
    assert few.labels is not None
    arrays = []
    for name, rows in (("inputs", few.inputs), ("labels", few.labels)):
        np.save(folder / f"{name}{count}.npy", np.tile(rows, (count // 8, 1)))
        arrays.append(np.load(folder / f"{name}{count}.npy", mmap_mode="r"))
    puzzles = PuzzleSet(BOARD, *arrays, np.zeros(count, np.int32), name="mapped")
    assert puzzles.content_hash  # once for all: the hash is no part of the work
    return puzzles


def test_memory_grows_with_the_chunk_and_hardly_with_the_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times the puzzles in chunks of the same size, and the same puzzles in one chunk."""

    peaks, work = [], evaluating.run_chunks

    def traced(*args: Any) -> stream.Chunk:
        tracemalloc.start()
        columns = work(*args)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        return columns

    monkeypatch.setattr(evaluating, "run_chunks", traced)  # the intervals after it take 32 MB for any set
    for count, chunk in ((64, 1), (128, 1), (512, 1), (512, 16)):  # the first one imports and keeps things
        monkeypatch.setattr(stream, "CHUNK", chunk)
        evaluate(Approach(0.5), mapped(tmp_path, count), segments=1, restarts=8, batch_size=32)
    _, small, large, coarse = peaks
    assert large - small < 400 * (512 - 128)  # what is kept of a puzzle: its columns
    assert coarse - small > 3 * (large - small)  # the same puzzles in one chunk
