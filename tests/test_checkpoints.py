"""Checkpoints: written whole or not at all, the right ones kept, and what is wrong said in one line."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from safetensors import SafetensorError

from loopscope.errors import UserError
from loopscope.files import restore_former, written_whole
from loopscope.tasks.base import PuzzleSet
from loopscope.training import checkpoint
from small_runs import assert_same, recipe, score, trainer


def test_a_crash_while_saving_leaves_the_checkpoint_before(
    puzzles: PuzzleSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = recipe(train={"checkpoint_every": 3})
    trainer(settings, puzzles, tmp_path / "whole").run(progress=False)

    made = trainer(settings, puzzles, tmp_path / "parts")
    write, written = checkpoint.save_file, []

    def full_disk(tensors: Any, path: Path) -> None:
        if made.step == 6 and written:
            raise SafetensorError("I/O error: No space left on device (os error 28)")  # what it then raises
        if made.step == 6:
            written.append(path)
        write(tensors, path)

    monkeypatch.setattr(checkpoint, "save_file", full_disk)
    with pytest.raises(UserError, match=r"cannot write .*No space left on device.*--resume") as caught:
        made.run(progress=False)
    monkeypatch.undo()
    assert "\n" not in str(caught.value)
    assert written  # one file of the broken checkpoint had been written
    assert [p.name for p in (tmp_path / "parts" / "checkpoints").iterdir()] == ["step_00000003"]
    resumed = trainer(settings, puzzles, tmp_path / "parts")
    resumed.resume()
    assert resumed.step == 3
    resumed.run(progress=False)
    assert_same(tmp_path / "whole", tmp_path / "parts")


def test_the_newest_checkpoints_are_kept(puzzles: PuzzleSet, tmp_path: Path) -> None:
    left_over = tmp_path / "checkpoints" / ".step_00000002.1.part"
    left_over.mkdir(parents=True)
    trainer(recipe(train={"checkpoint_every": 2, "keep_last": 2}), puzzles, tmp_path).run(progress=False)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_00000008", "step_00000010"]


def scored(folder: Path) -> dict[str, float | None]:
    """What the checkpoints of a run say they scored."""
    paths = sorted((folder / "checkpoints").iterdir())
    return {p.name: json.loads((p / "state.json").read_text())["score"] for p in paths}


def test_the_best_checkpoints_are_kept_besides(puzzles: PuzzleSet, tmp_path: Path) -> None:
    """One is saved at every evaluation; the two best of them stay, and the newest."""
    settings = recipe(
        train={"steps": 24, "eval_every": 3, "checkpoint_every": 100, "keep_last": 1, "keep_best": 2}
    )
    made = trainer(settings, puzzles, tmp_path, score)
    made.run(progress=False)
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    exact = {line["step"]: line["exact_accuracy"] for line in lines if line["kind"] == "eval"}
    assert len(exact) == 8
    assert made.best == max(exact.values())
    wanted = {*sorted(exact, key=lambda step: exact[step])[-2:], 24}
    assert scored(tmp_path) == {f"step_{step:08d}": exact[step] for step in sorted(wanted)}

    for step in sorted(wanted)[1:]:  # to go on from the best, the later ones are removed
        checkpoint.shutil.rmtree(tmp_path / "checkpoints" / f"step_{step:08d}")
    again = trainer(settings, puzzles, tmp_path, score)
    again.resume()
    assert again.step == min(wanted)


def test_of_equal_scores_the_later_checkpoint_is_kept(puzzles: PuzzleSet, tmp_path: Path) -> None:
    settings = recipe(train={"eval_every": 2, "checkpoint_every": 5, "keep_last": 1, "keep_best": 1})
    steps = iter([0.5, 0.9, 0.9, 0.1, 0.2])
    trainer(settings, puzzles, tmp_path, lambda model: {"exact_accuracy": next(steps)}).run(progress=False)
    assert scored(tmp_path) == {"step_00000006": 0.9, "step_00000010": 0.2}


def test_the_best_cannot_be_told_without_validation() -> None:
    with pytest.raises(UserError, match=r"train\.keep_best=1, but data\.validation=0.* Set data\.validation"):
        recipe(train={"keep_best": 1}, data={"validation": 0})


@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "state"])
def test_a_damaged_checkpoint_is_refused_in_one_line(damage: str, puzzles: PuzzleSet, tmp_path: Path) -> None:
    settings = recipe(train={"checkpoint_every": 5})
    trainer(settings, puzzles, tmp_path).run(progress=False)
    newest = tmp_path / "checkpoints" / "step_00000010"
    file = newest / ("state.json" if damage == "state" else "optimizer.safetensors")
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    if damage == "remove":
        file.unlink()
    else:
        file.write_bytes(content if damage == "flip" else content[:100])
    with pytest.raises(UserError) as caught:
        trainer(settings, puzzles, tmp_path).resume()
    said = str(caught.value)
    assert said.startswith(f"{file}: missing or damaged")
    assert "step_00000010" in said
    assert "\n" not in said
    checkpoint.shutil.rmtree(newest)  # the move that the message names
    again = trainer(settings, puzzles, tmp_path)
    again.resume()
    assert again.step == 5


def test_slots_in_several_pieces_are_read(puzzles: PuzzleSet, tmp_path: Path) -> None:
    """Checkpoints written before version 0.1 keep the slots of every micro batch apart."""
    settings = recipe("bfloat16", train={"checkpoint_every": 6, "log_every": 1, "keep_last": 2})
    trainer(settings, puzzles, tmp_path / "whole").run(progress=False)
    parts, facts = checkpoint.load(tmp_path / "whole" / "checkpoints" / "step_00000006")
    pieces = {
        f"{i}.{name[2:]}": half for name, t in parts["carry"].items() for i, half in enumerate(t.split(4))
    }
    old = {k: facts[k] for k in ("total_steps", "best", "minutes")}
    checkpoint.save(tmp_path / "old" / "checkpoints", 6, {**parts, "carry": pieces}, old)
    resumed = trainer(settings, puzzles, tmp_path / "old")
    resumed.resume()
    resumed.run(progress=False)
    for name in ("model", "ema", "optimizer", "carry"):
        file = f"checkpoints/step_00000010/{name}.safetensors"
        assert (tmp_path / "old" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": {"batch_size": 4}}, ["8 slots", "train.batch_size=4", "train.batch_size=8"]),
        ({"model": {"hidden_size": 32}}, ["(16,)", "(32,)"]),
        (
            {"train": {"optimizer": "adamw"}},
            ["train.optimizer=adam_atan2, now it is adamw", "Resume with train.optimizer=adam_atan2"],
        ),
        ({"train": {"ema": True}}, ["no averaged weights", "train.ema=false"]),
    ],
)
def test_resuming_with_other_settings(
    changes: dict[str, Any], words: list[str], puzzles: PuzzleSet, tmp_path: Path
) -> None:
    trainer(recipe("no_ema", train={"steps": 2}), puzzles, tmp_path).run(progress=False)
    with pytest.raises(UserError) as caught:
        trainer(recipe("no_ema", **changes), puzzles, tmp_path).resume()
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_other_puzzles_are_noticed(
    puzzles: PuzzleSet, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer(recipe(train={"steps": 2}), puzzles, tmp_path).run(progress=False)
    trainer(recipe(), puzzles, tmp_path).resume()
    assert not caplog.records
    trainer(recipe(), puzzles[:50], tmp_path).resume()
    assert "training puzzles are not those" in caplog.text


def test_a_folder_that_is_being_replaced_is_never_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = tmp_path / "last"

    def write(text: str) -> None:
        with written_whole(last) as beside:
            beside.mkdir()
            (beside / "a").write_text(text)

    write("first")
    move, moves = os.replace, []

    def interrupted(source: Path, target: Path) -> None:
        moves.append(target)
        if len(moves) == 2:  # the former folder is out of the way, the new one not yet in its place
            raise KeyboardInterrupt
        move(source, target)

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write("second")
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["last"]
    assert (last / "a").read_text() == "first"

    last.rename(tmp_path / ".last.former")  # what a kill at that moment leaves
    (tmp_path / ".last.7.part").mkdir()
    restore_former(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["last"]
    assert (last / "a").read_text() == "first"
    write("third")
    assert [p.name for p in tmp_path.iterdir()] == ["last"]
    assert (last / "a").read_text() == "third"
