"""Long evaluations: in chunks, by several processes and after a kill they equal one in a single go."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from loopscope.errors import UserError
from loopscope.evaluation import stream
from loopscope.evaluation.answer_file import answer_table, write_answers
from loopscope.evaluation.evaluate import evaluate
from loopscope.evaluation.solve import solve
from loopscope.evaluation.stream import parts_of
from loopscope.training.distributed import is_main
from tiny import tiny_model, tiny_puzzles
from together import finish, start, together

LEVERS = {"segments": [2, 3], "restarts": 3, "noise": 1.0, "views": 2, "batch_size": 4}


def run(out: Path, killed_after: int | None = None, **levers: Any) -> None:
    """Evaluate 30 puzzles in chunks of 8, and write scores and answers; or die after some chunks."""
    stream.CHUNK = 2
    parts, write = parts_of(out), stream.Parts.write

    def die(self: stream.Parts, chunk: slice, columns: stream.Chunk) -> None:
        write(self, chunk, columns)
        if len(list(self.folder.glob("*.npz"))) == killed_after:
            os.kill(os.getpid(), signal.SIGKILL)

    if killed_after:
        stream.Parts.write = die
    puzzles = tiny_puzzles(30)
    result = evaluate(tiny_model(), puzzles, answers=True, parts=parts, **(LEVERS | levers))
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
