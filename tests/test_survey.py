"""What is said of a puzzle set, against counts by hand; its picture."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from loopscope.errors import UserError
from loopscope.reports.puzzle_figure import save_figure
from loopscope.tasks import Maze, Sudoku
from loopscope.tasks.storage.folder import write_folder
from loopscope.tasks.storage.shipped import puzzle_file
from loopscope.tasks.storage.split_arrays import SplitArrays
from loopscope.tasks.survey import class_edges, class_names, counted, survey
from small_sets import mazes, sudokus


def split_of(inputs: np.ndarray, labels: np.ndarray, versions: int = 1) -> SplitArrays:
    """Rows as puzzles, `versions` of them a group."""
    count = len(inputs)
    rows = np.arange(count + 1, dtype=np.int32)
    return SplitArrays(inputs, labels, np.zeros(count, np.int32), rows, rows[::versions])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Training: 4 puzzles and a turned copy of the first, each with one version. Test: 3, one broken, and
    one that is a turned training puzzle."""
    task, rng = Sudoku(2, 2), np.random.default_rng(0)
    found = sudokus(task, 7, 7)
    keys = task.canonical(found.inputs, found.labels)
    assert len(set(keys)) == 7
    copy = task.augment(found.inputs[:1], found.labels[:1], rng)
    sources = [np.concatenate([a[:4], b]) for a, b in zip((found.inputs, found.labels), copy, strict=True)]
    versions = task.augment(*sources, rng)
    train = [np.stack([a, b], 1).reshape(10, -1) for a, b in zip(sources, versions, strict=True)]
    leaked = task.augment(found.inputs[1:2], found.labels[1:2], rng)
    test = [np.concatenate([a[4:6], b]) for a, b in zip((found.inputs, found.labels), leaked, strict=True)]
    write_folder(
        tmp_path / "set",
        task,
        {"train": split_of(*train, versions=2), "test": split_of(*test)},
        facts={"train": {"rating": np.array([5, 0, 1, 1, 9])}},
    )
    return tmp_path / "set"


def test_counts_by_hand(folder: Path) -> None:
    found = survey(folder)
    train, test = found.splits["train"], found.splits["test"]
    assert (found.name, found.task) == ("set", "sudoku-2x2")
    assert (train.groups, train.puzzles, train.examples, train.repeated) == (5, 10, 10, 1)
    assert (test.groups, test.puzzles, test.examples, test.repeated) == (3, 3, 3, 0)
    assert train.numbers["rating"].tolist() == [5, 0, 1, 1, 9]
    assert train.numbers["givens"].tolist() == (np.asarray(train.sources.inputs) > 1).sum(1).tolist()
    assert (train.hardness, test.hardness) == ("rating", "givens")
    assert found.leaked is not None
    assert found.leaked.tolist() == [[1, 2]]
    assert found.bytes == sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def test_a_label_that_breaks_a_rule_is_found(tmp_path: Path) -> None:
    puzzles = mazes(5, 5, 4)
    labels = puzzles.labels.copy()
    labels[2][labels[2] == 5] = 2  # the path is gone
    write_folder(tmp_path / "set", Maze(5, 5), {"train": split_of(puzzles.inputs, labels)})
    found = survey(tmp_path / "set")
    assert found.splits["train"].broken.tolist() == [2]
    assert found.leaked is None


# -- classes


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ([3, 3, 3], ["3"]),
        ([1, 2, 4], ["1", "2", "3", "4"]),
        (range(17, 37), ["17-18", "19-20", "21-22", "23-24", "25-26", "27-28", "29-30", "31-32", "33-34"]),
        ([0] * 9 + [100], ["0", "1", "2-3", "4-7", "8-15", "16-31", "32-63", "64-127"]),
    ],
)
def test_classes(values: list[int], names: list[str]) -> None:
    edges = class_edges(np.array(values))
    assert class_names(edges)[: len(names)] == names
    expected = [sum(a <= v < b for v in values) for a, b in pairwise(edges)]
    assert counted(np.array(values), edges) == expected
    assert sum(expected) == len(values)


# -- picture


@pytest.mark.parametrize("ending", [".svg", ".png"])
def test_equal_sets_give_equal_pictures(folder: Path, tmp_path: Path, ending: str) -> None:
    files = [tmp_path / f"{name}{ending}" for name in "ab"]
    for file in files:
        save_figure(survey(folder), file)
    assert files[0].read_bytes() == files[1].read_bytes()
    head = files[0].read_bytes()[:200]
    assert b"<?xml" in head if ending == ".svg" else head.startswith(b"\x89PNG")


def test_a_picture_of_no_known_kind(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"ends in \.svg, \.pdf, \.png"):
        save_figure(survey(folder), tmp_path / "a.gif")
    assert not (tmp_path / "a.gif").exists()


def test_the_size_of_a_shipped_set_is_that_of_its_file() -> None:
    assert survey("sudoku9-demo").bytes == puzzle_file("sudoku9-demo").stat().st_size > 0
