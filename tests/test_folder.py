"""Puzzle folders: the official ones load, ours come back as they were, damaged ones give one clear line."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import loopscope
from loopscope.errors import UserError
from loopscope.tasks import PuzzleSet, Sudoku, write_puzzles
from loopscope.tasks.build.puzzles import as_split
from loopscope.tasks.storage.folder import check_rules, read_folder, write_folder
from loopscope.tasks.storage.layout import read_identifiers, read_manifest
from loopscope.tasks.storage.split_arrays import SplitArrays
from shared import shared_path
from small_sets import files_of, mazes, sudokus

GROUPS = {"sudoku": (20, 4), "maze_aug8": (10, 8)}  # fixture -> groups and versions in train


def unpack(name: str, out: Path, hrm: bool = False) -> Path:
    """A recorded output of the official builders as the folder it was."""
    recorded = np.load(shared_path(f"fixtures/official_format/{name}.npz"))
    for key, value in recorded.items():
        path = out / key
        path.parent.mkdir(parents=True, exist_ok=True)
        if value.ndim:
            np.save(f"{path}.npy", value)
            continue
        content = json.loads(str(value))
        if hrm and path.name == "dataset.json":
            del content["total_puzzles"]
        path.write_text(json.dumps(content))
    return out


def small_folder(out: Path, **options: Any) -> Path:
    """Six 4x4 puzzles in three groups, and two for the test."""
    puzzles = sudokus(Sudoku(2, 2), 8, 8)
    assert puzzles.labels is not None
    ends = np.arange(7, dtype=np.int32)
    train = SplitArrays(puzzles.inputs[:6], puzzles.labels[:6], np.zeros(6, np.int32), ends, ends[::2].copy())
    splits = {"train": train, "test": as_split(puzzles[6:])}
    facts = {"train": {"rating": np.array([5, 0, 7]), "source": np.array(["a", "é", "long name"])}}
    write_folder(out, puzzles.task, splits, facts=facts, **options)
    return out


# -- folders of the official builders


@pytest.mark.parametrize("hrm", [False, True])
@pytest.mark.parametrize("name", GROUPS)
def test_official_folders_load_with_their_groups(tmp_path: Path, name: str, hrm: bool):
    recorded = np.load(shared_path(f"fixtures/official_format/{name}.npz"))
    root = unpack(name, tmp_path / name, hrm)
    groups, versions = GROUPS[name]
    for split in ("train", "test"):
        puzzles = read_folder(root, split)
        assert (puzzles.inputs == recorded[f"{split}/all__inputs"]).all()
        assert (puzzles.labels == recorded[f"{split}/all__labels"]).all()
        assert puzzles.inputs.dtype == puzzles.labels.dtype == np.uint8
        if split == "test":
            assert puzzles.groups is None  # every row is a group of its own
        else:
            assert puzzles.groups is not None
            assert puzzles.groups.starts.tolist() == list(range(0, groups * versions + 1, versions))
            assert puzzles.groups.first.tolist() == list(range(len(puzzles)))
            assert (puzzles.groups.stop - puzzles.groups.first == 1).all()
        assert not puzzles.puzzle_ids.any()
        assert len(check_rules(puzzles)) == 0
    assert puzzles.task.name == {"sudoku": "sudoku-3x3", "maze_aug8": "maze-30x30"}[name]
    assert read_identifiers(root) == ["<blank>"]


def test_the_loader_of_the_top_namespace_takes_folders_files_and_shipped_names(tmp_path: Path):
    root = small_folder(tmp_path / "set")
    assert len(loopscope.read_puzzles(root)) == 2  # the test split
    assert len(loopscope.read_puzzles(root, split="train")) == 6
    maze = mazes(4, 4, 3)
    write_puzzles(maze, tmp_path / "maze.csv.gz")
    assert loopscope.read_puzzles(tmp_path / "maze.csv.gz").task == maze.task
    assert loopscope.read_puzzles("sudoku9-demo", limit=3).task == Sudoku(3, 3)


# -- ours


@pytest.mark.parametrize(
    "puzzles",
    [
        sudokus(Sudoku(2, 2), 5, 8),
        sudokus(Sudoku(2, 3), 5, 20),
        sudokus(Sudoku(3, 2), 5, 20),  # as many cells as 2x3: only the manifest knows
        sudokus(Sudoku(3, 3), 5, 40),
        mazes(4, 4, 5),  # cells and tokens of a 4x4 Sudoku
        mazes(5, 7, 5),
        mazes(30, 30, 2),
    ],
    ids=lambda puzzles: puzzles.task.name,
)
def test_what_is_written_comes_back(tmp_path: Path, puzzles: PuzzleSet):
    write_folder(tmp_path / "set", puzzles.task, {"test": as_split(puzzles)})
    again = read_folder(tmp_path / "set")
    assert again.task == puzzles.task
    assert again.content_hash == puzzles.content_hash
    assert isinstance(again.inputs, np.memmap)
    assert len(check_rules(again)) == 0
    assert read_folder(tmp_path / "set", task=again.task.name).task == puzzles.task


def test_facts_are_kept_for_each_group_and_read_for_each_row(tmp_path: Path):
    puzzles = read_folder(small_folder(tmp_path / "set"), "train")
    assert puzzles.facts["rating"].tolist() == [5, 5, 0, 0, 7, 7]
    assert puzzles.facts["source"].tolist() == ["a", "a", "é", "é", "long name", "long name"]
    assert puzzles.facts["givens"].tolist() == (puzzles.inputs > 1).sum(1).tolist()


def test_limit_takes_the_first_rows(tmp_path: Path):
    root = small_folder(tmp_path / "set")
    whole, part = read_folder(root, "train"), read_folder(root, "train", limit=3)
    assert part.content_hash == whole[:3].content_hash
    assert part.facts["rating"].tolist() == [5, 5, 0]
    assert part.groups is None
    assert read_folder(root, "train", limit=6).groups is not None


def test_check_rules_names_the_rows(tmp_path: Path):
    puzzles = sudokus(Sudoku(2, 2), 6, 8)
    assert puzzles.labels is not None
    labels = puzzles.labels.copy()
    labels[2] = labels[2, ::-1]  # obeys the rules, changes givens
    labels[4, 0] = labels[4, 1]
    write_folder(
        tmp_path / "set",
        puzzles.task,
        {"test": as_split(PuzzleSet(puzzles.task, puzzles.inputs, labels, puzzles.puzzle_ids))},
    )
    assert check_rules(read_folder(tmp_path / "set")).tolist() == [2, 4]


def test_equal_puzzles_give_equal_bytes(tmp_path: Path):
    assert files_of(small_folder(tmp_path / "a")) == files_of(small_folder(tmp_path / "b"))


# -- what is refused


def test_only_a_folder_of_ours_is_replaced_and_only_when_asked(tmp_path: Path):
    root = small_folder(tmp_path / "set")
    before = files_of(root)
    with pytest.raises(UserError, match="exists already"):
        small_folder(root)
    assert files_of(root) == before
    small_folder(root, overwrite=True, manifest={"note": "second"})
    assert read_manifest(root)["note"] == "second"
    foreign = tmp_path / "photos"
    foreign.mkdir()
    (foreign / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(UserError, match="not a puzzle folder written by loopscope"):
        small_folder(foreign, overwrite=True)
    assert (foreign / "cat.jpg").exists()
    (tmp_path / "empty").mkdir()
    assert len(read_folder(small_folder(tmp_path / "empty"))) == 2


def test_nothing_half_written_remains(tmp_path: Path):
    root = small_folder(tmp_path / "set")
    before = files_of(root)
    with pytest.raises(TypeError):
        small_folder(root, overwrite=True, manifest={"not json": object()})
    assert files_of(root) == before
    assert [p.name for p in tmp_path.iterdir()] == ["set"]


def array(name: str, change: Callable[[np.ndarray], Any], split: str = "train") -> Callable[[Path], None]:
    """A damage: load one array, change it (in place, or into what is returned), save it."""

    def damage(root: Path) -> None:
        path = root / split / f"{name}.npy"
        values = np.load(path)
        changed = change(values)
        np.save(path, values if changed is None else changed)

    return damage


def meta(**changes: Any) -> Callable[[Path], None]:
    """A damage: other values in `dataset.json`; None removes the key."""

    def damage(root: Path) -> None:
        path = root / "train" / "dataset.json"
        content = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({k: v for k, v in content.items() if v != "gone"}))

    return damage


def content(name: str, data: bytes) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(data) and None


def put(row: Any, value: int) -> Callable[[np.ndarray], None]:
    return lambda values: values.__setitem__(row, value)


def cut(name: str, count: int) -> Callable[[Path], None]:
    def damage(root: Path) -> None:
        path = root / name
        path.write_bytes(path.read_bytes()[:count])

    return damage


INPUTS, LABELS = "all__inputs", "all__labels"
IDS, PUZZLES, GROUP = "all__puzzle_identifiers", "all__puzzle_indices", "all__group_indices"
DAMAGES = {
    "no array": (lambda root: (root / f"train/{LABELS}.npy").unlink(), f"{LABELS}.npy: no such file"),
    "no metadata": (lambda root: (root / "train/dataset.json").unlink(), "no split 'train'"),
    "no split": (lambda root: shutil.rmtree(root / "train"), "no split 'train'. Known: test"),
    "cut header": (cut(f"train/{INPUTS}.npy", 60), "cut off or not a .npy file"),
    "cut content": (cut(f"train/{INPUTS}.npy", 150), "cut off or not a .npy file"),
    "no bytes": (cut(f"train/{IDS}.npy", 0), "cut off or not a .npy file"),
    "pickle": (content(f"train/{IDS}.npy", b"\x80\x04K\x01."), "cut off or not a .npy file"),
    "objects": (array(IDS, lambda a: a.astype(object)), "cut off or not a .npy file"),
    "floats": (array(INPUTS, lambda a: a.astype(np.float32)), "dtype float32, expected whole numbers"),
    "texts": (array(INPUTS, lambda a: a.astype("S")), "expected whole numbers"),
    "flat": (array(INPUTS, np.ravel), "expected 2 axes"),
    "empty": (array(INPUTS, lambda a: a[:0]), "shape (0, 16)"),
    "too few labels": (array(LABELS, lambda a: a[:-1]), f"{LABELS}.npy: shape (5, 16), expected (6, 16)"),
    "narrow": (array(INPUTS, lambda a: a[:, :9].copy()), "shape (6, 9), expected (6, 16)"),
    "token": (array(INPUTS, put((3, 5), 6)), "row 3 has 6 in cell 5, expected 0 to 5"),
    "negative": (
        array(LABELS, lambda a: np.where(a == a[4, 2], -1, a.astype(np.int64))),
        "has -1 in cell",
    ),
    "starts late": (array(PUZZLES, put(0, 1)), "starts with 1, expected 0"),
    "repeats": (array(PUZZLES, put(2, 1)), "row 2 is not greater than the row before"),
    "falls": (array(GROUP, put(1, 5)), "row 2 is not greater than the row before"),
    "ends early": (array(PUZZLES, put(6, 5)), "row 6 is not greater"),
    "ends late": (array(PUZZLES, put(6, 7)), "ends with 7, but there are 6 examples"),
    "groups end late": (array(GROUP, put(3, 7)), "ends with 7, but there are 6 puzzles"),
    "index too long": (array(PUZZLES, lambda a: np.append(a, 7)), "8 numbers, expected 7"),
    "identifier": (array(IDS, put(5, 1)), "row 5 is 1, expected 0 to 0"),
    "negative identifier": (array(IDS, put(5, -1)), "row 5 is -1, expected 0 to 0"),
    "facts": (array("facts__rating", lambda a: a[:2]), "2 values, but there are 3 groups"),
    "no json": (content("train/dataset.json", b"{"), "dataset.json: is not JSON"),
    "no text": (content("train/dataset.json", b"\xff\xfe"), "dataset.json: is not JSON"),
    "deep json": (content("train/dataset.json", b"[" * 100_000), "dataset.json: is not JSON"),
    "a list": (content("train/dataset.json", b"[]"), "expected an object"),
    "missing keys": (meta(seq_len="gone", sets="gone"), "no key seq_len, sets"),
    "text for a number": (meta(vocab_size="6"), "vocab_size is '6', expected 2 to 256"),
    "true": (meta(total_groups=True), "total_groups is 'True'"),
    "no number": (meta(mean_puzzle_examples=float("nan")), "mean_puzzle_examples is 'nan'"),
    "another set": (meta(sets=["small"]), "sets is"),
    "another pad": (meta(pad_id=3), "pad_id is '3', expected 0"),
    "groups contradict": (meta(total_groups=4), "total_groups is 4, but the arrays hold 3"),
    "puzzles contradict": (meta(total_puzzles=4), "total_puzzles is 4"),
    "mean contradicts": (meta(mean_puzzle_examples=2.0), "mean_puzzle_examples is 2.0"),
    "sizes contradict": (meta(vocab_size=7), "but sudoku-2x2 has 16 and 6"),
    "names contradict": (
        content("identifiers.json", b'["<blank>", "a"]'),
        "2 names, but dataset.json says 1",
    ),
    "names are numbers": (content("identifiers.json", b"[1]"), "expected a list of names"),
    "manifest": (content("manifest.json", b'{"task": 3}'), "expected an object with the key task"),
    "later version": (content("manifest.json", b'{"task": "a", "format_version": 2}'), "Update loopscope"),
    "unknown task": (content("manifest.json", b'{"task": "chess", "format_version": 1}'), "unknown task"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_damaged_folder_is_refused_in_one_line(tmp_path: Path, name: str):
    damage, problem = DAMAGES[name]
    root = small_folder(tmp_path / "set")
    damage(root)
    with pytest.raises(UserError) as error:
        read_folder(root, "train")
    message = str(error.value)
    assert problem in message
    assert message.startswith(str(root))
    assert message.endswith((".", "?"))
    assert "\n" not in message


def test_a_place_without_puzzles_is_named(tmp_path: Path):
    root = small_folder(tmp_path / "set")
    with pytest.raises(UserError, match="no such folder"):
        read_folder(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no test/dataset.json, so no puzzle folder. Give the folder above"):
        read_folder(root / "test")
    with pytest.raises(UserError, match="holds sudoku-2x2, not maze"):
        read_folder(root, task="maze")
    with pytest.raises(UserError, match=r"no split 'tset'. Did you mean test"):
        read_folder(root, "tset")


def test_an_official_folder_of_an_unknown_kind_asks_for_the_task(tmp_path: Path):
    root = small_folder(tmp_path / "set")
    (root / "manifest.json").unlink()
    assert read_folder(root, "train").task == Sudoku(2, 2)  # told by its sizes
    meta(vocab_size=9)(root)
    with pytest.raises(UserError, match="16 cells with 9 tokens fit no task known here"):
        read_folder(root, "train")


BASE: dict[str, bytes] = {}


def base() -> dict[str, bytes]:
    if not BASE:
        with tempfile.TemporaryDirectory() as folder:
            BASE.update(files_of(small_folder(Path(folder) / "set", manifest={"note": "n"})))
    return BASE


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(st.data())
def test_no_damage_gives_anything_but_one_line(data: st.DataObject):
    """Bytes cut off, changed, removed or put in, in any file: the folder loads, or one line says why not."""
    files = dict(base())
    name = data.draw(st.sampled_from([n for n in files if "test" not in n]))
    damaged = bytearray(files[name])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        length = data.draw(st.sampled_from([0, 1, 1, 4, 1000]))
        damaged[at : at + length] = data.draw(st.binary(max_size=4))
    files[name] = bytes(damaged)
    with tempfile.TemporaryDirectory() as folder:
        for path, raw in files.items():
            (Path(folder) / path).parent.mkdir(exist_ok=True)
            (Path(folder) / path).write_bytes(raw)
        assert problem(folder).startswith((folder, "none"))


def problem(folder: str) -> str:
    """The one line that says why a folder is refused, or "none"."""
    try:
        check_rules(read_folder(folder, "train"))
    except UserError as error:
        return str(error) if "\n" not in str(error) else "more than one line"
    return "none"
