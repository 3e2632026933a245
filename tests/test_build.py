"""Builders: the official arrays byte for byte, and sets that follow from source, options and seed alone."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loopscope.errors import UserError
from loopscope.models.folder import save_model
from loopscope.tasks import PuzzleSet, Sudoku, read_puzzles, write_puzzles
from loopscope.tasks.build import Options, build_arc, build_maze, build_puzzles, build_sudoku
from loopscope.tasks.storage.folder import check_rules, read_folder
from loopscope.tasks.storage.layout import read_identifiers, read_manifest
from loopscope.tasks.sudoku.generate import generate
from shared import shared_path
from small_sets import files_of, mazes, sudokus
from tiny import tiny_model

BUILDERS = {"sudoku": build_sudoku, "maze": build_maze}
RECORDED = {  # fixture -> source, and the options it was recorded with
    "sudoku": ("sudoku", {"augmentations": 3}),
    "sudoku_subsample10_min1": ("sudoku", {"subsample": 10, "min_difficulty": 1}),
    "maze": ("maze", {}),
    "maze_aug8": ("maze", {"augmentations": 7}),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder with ten rated 6x6 puzzles to train on and four to test."""
    puzzles = sudokus(Sudoku(2, 3), 14, 18)
    puzzles.facts["rating"][:] = [*range(10), *range(4)]  # type: ignore[index]
    folder = tmp_path / "source"
    write_puzzles(puzzles[:10], folder / "train.csv")
    write_puzzles(puzzles[10:], folder / "test.csv.gz")
    return folder


def build(source: Path, out: Path, **options: Any) -> dict[str, Any]:
    return build_sudoku([source], out, options=Options(**options))


# -- the official arrays


@pytest.mark.parametrize("name", RECORDED)
def test_compat_makes_the_very_files_of_the_official_scripts(tmp_path: Path, name: str):
    kind, options = RECORDED[name]
    recorded = np.load(shared_path(f"fixtures/official_format/{name}.npz"))
    train, test = (
        shared_path(f"fixtures/official_format/{kind}_source_{split}.csv") for split in ("train", "test")
    )
    BUILDERS[kind]([train], tmp_path / "set", test=[test], options=Options(compat="trm", **options))
    compare(recorded, tmp_path)


def compare(recorded: Any, tmp_path: Path) -> None:
    """The folder `set` holds the recorded files, byte for byte."""
    for key, value in recorded.items():
        path = tmp_path / "set" / key
        if value.ndim == 0:
            assert path.read_text() == str(value), key
            continue
        np.save(tmp_path / "recorded.npy", value)
        assert Path(f"{path}.npy").read_bytes() == (tmp_path / "recorded.npy").read_bytes(), key


def test_compat_makes_the_official_arc_folder(tmp_path: Path):
    recorded = np.load(shared_path("fixtures/official_format/arc_aug2.npz"))
    source = shared_path("fixtures/official_format/arc-agi_training_challenges.json").with_name("arc-agi")
    subsets = ("training", "evaluation")
    build_arc(source, tmp_path / "set", subsets=subsets, augmentations=2, seed=42, compat="trm")
    compare(recorded, tmp_path)


def test_arc_versions_to_draw_are_read_with_their_groups(tmp_path: Path):
    """The folder holds plain rows; every identifier of a task becomes a puzzle that owns them."""
    source = shared_path("fixtures/official_format")
    options: dict[str, Any] = {"subsets": ("training", "evaluation"), "augmentations": 5, "seed": 1}
    build_arc(source, tmp_path / "drawn", **options)
    build_arc(source, tmp_path / "baked", bake=True, **options)
    build_arc(source, tmp_path / "again", **options)
    assert files_of(tmp_path / "drawn") == files_of(tmp_path / "again")
    assert read_identifiers(tmp_path / "drawn") == read_identifiers(tmp_path / "baked")
    for split, groups in [("train", 3), ("test", 1)]:
        drawn, baked = (read_folder(tmp_path / name, split) for name in ("drawn", "baked"))
        assert drawn.groups is not None
        assert baked.groups is not None
        assert len(drawn.groups) == len(baked.groups) == groups
        assert len(drawn.groups.ids) == len(baked.groups.ids) == 6 * groups
        assert sorted(drawn.groups.ids) == sorted(baked.groups.ids)
        assert len(baked) == 6 * len(drawn)
        assert drawn.labels is not None
        inputs, _ = drawn.task.as_named(drawn.inputs, drawn.labels, drawn.puzzle_ids)  # type: ignore[attr-defined]
        assert (inputs == drawn.inputs).all()  # plain rows have plain names
    manifest = read_manifest(tmp_path / "drawn")
    assert [len(files) for files in manifest["sources"].values()] == [2, 2]
    assert not (tmp_path / "drawn/train/all__inputs.npy").stat().st_size > 54 * 900


def test_another_seed_is_another_official_set(tmp_path: Path):
    source = shared_path("fixtures/official_format/sudoku_source_train.csv")
    for seed in (0, 1):
        build_sudoku(
            [source], tmp_path / str(seed), options=Options(compat="trm", augmentations=1, seed=seed)
        )
    first, second = (np.load(tmp_path / f"{seed}/train/all__inputs.npy") for seed in (0, 1))
    assert (first[::2] == second[::2]).all()
    assert (first[1::2] != second[1::2]).any(axis=1).all()


# -- versions


def test_versions_follow_their_source_and_are_the_same_puzzle(source: Path, tmp_path: Path):
    build(source, tmp_path / "set", augmentations=4)
    puzzles, plain = read_folder(tmp_path / "set", "train"), read_puzzles(source / "train.csv")
    assert puzzles.groups is not None
    assert puzzles.groups.starts.tolist() == list(range(0, 51, 5))
    assert (puzzles.inputs[::5] == plain.inputs).all()
    assert len(check_rules(puzzles)) == 0
    keys, sources = (s.task.canonical(s.inputs, s.labels) for s in (puzzles, plain))
    assert keys == [key for key in sources for _ in range(5)]
    assert len({row.tobytes() for row in puzzles.inputs}) == 50
    assert puzzles.facts["rating"].tolist() == [rating for rating in range(10) for _ in range(5)]
    assert len(read_folder(tmp_path / "set")) == 4  # the test split has no versions


@pytest.mark.parametrize("relabel", [True, False])
def test_mazes_have_seven_versions_whose_labels_follow_the_rule_or_are_turned(tmp_path: Path, relabel: bool):
    plain = mazes(9, 9, 12)
    write_puzzles(plain, tmp_path / "train.csv")
    build_maze([tmp_path / "train.csv"], tmp_path / "set", options=Options(augmentations=7, relabel=relabel))
    puzzles = read_folder(tmp_path / "set", "train")
    assert puzzles.labels is not None
    assert plain.labels is not None
    assert len(check_rules(puzzles)) == 0  # shortest paths all
    boards = puzzles.inputs.reshape(12, 8, 9, 9)
    assert (boards[:, 6] == plain.inputs.reshape(12, 9, 9).swapaxes(1, 2)).all()
    assert (boards[:, 1] == np.rot90(plain.inputs.reshape(12, 9, 9), 1, (1, 2))).all()
    by_rule = (puzzles.labels == puzzles.task.solutions(puzzles.inputs)[0]).all(1)  # type: ignore[attr-defined]
    turned = puzzles.labels.reshape(12, 8, 9, 9)[:, 5] == plain.labels.reshape(12, 9, 9)[:, ::-1]
    assert by_rule.all() == relabel
    assert turned.all() != relabel


def test_a_maze_has_no_eighth_version(tmp_path: Path):
    write_puzzles(mazes(5, 5, 2), tmp_path / "train.csv")
    with pytest.raises(UserError, match=r"augmentations=8: maze-5x5 has 7 other versions\. Give 0 to 7"):
        build_maze([tmp_path / "train.csv"], tmp_path / "set", options=Options(augmentations=8))
    with pytest.raises(UserError, match="Give 7"):
        build_maze([tmp_path / "train.csv"], tmp_path / "s", options=Options(augmentations=3, compat="trm"))


# -- seeds and subsets


def test_one_seed_repeats_and_two_differ(source: Path, tmp_path: Path):
    for name, seed in [("a", 0), ("b", 0), ("c", 1)]:
        build(source, tmp_path / name, subsample=6, augmentations=2, seed=seed)
    first, again, other = (files_of(tmp_path / name) for name in "abc")
    assert first == again
    changed = {name for name in first if first[name] != other[name]}
    assert {"manifest.json", "subset.json", "train/all__inputs.npy", "train/all__labels.npy"} <= changed
    assert not any(name.startswith("test/") for name in changed)


def test_the_subset_is_recorded_and_does_not_depend_on_versions(source: Path, tmp_path: Path):
    build(source, tmp_path / "a", subsample=4, min_difficulty=2)
    build(source, tmp_path / "b", subsample=4, min_difficulty=2, augmentations=1)
    subset = json.loads((tmp_path / "a/subset.json").read_text())
    assert subset == json.loads((tmp_path / "b/subset.json").read_text())
    assert subset["files"] == ["train.csv"]
    assert subset["file"] == [0] * 4
    every = read_puzzles(source / "train.csv")
    assert (read_folder(tmp_path / "a", "train").inputs == every.inputs[subset["row"]]).all()
    assert min(subset["row"]) >= 2  # row r is rated r


def test_subsets_are_uniform(tmp_path: Path, source: Path):
    """Over many seeds every row is drawn equally often: chi-square with 9 degrees of freedom."""
    from loopscope.tasks.build.puzzles import _choose

    counts = np.zeros(10)
    for seed in range(600):
        chosen = _choose(10, Options(subsample=3, seed=seed), None)
        assert chosen is not None
        counts[chosen] += 1
    chi2 = ((counts - 180) ** 2 / 180).sum() / (7 / 9)  # three of ten without replacement vary less
    assert chi2 < 27.9  # one in a thousand


def test_several_files_are_joined_and_told_apart(source: Path, tmp_path: Path):
    second = tmp_path / "more.csv"
    write_puzzles(generate(Sudoku(2, 3), 5, 18, np.random.default_rng(9)), second)
    manifest = build_sudoku([source / "train.csv", second], tmp_path / "set", options=Options(subsample=12))
    subset = json.loads((tmp_path / "set/subset.json").read_text())
    assert subset["files"] == ["train.csv", "more.csv"]
    files = [read_puzzles(source / "train.csv"), read_puzzles(second)]
    expected = [files[f].inputs[r] for f, r in zip(subset["file"], subset["row"], strict=True)]
    assert (read_folder(tmp_path / "set", "train").inputs == expected).all()
    assert [record["rows"] for record in manifest["sources"]["train"]] == [10, 5]


def test_a_subsample_as_large_as_the_source_takes_all(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    with caplog.at_level(logging.WARNING, logger="loopscope"):
        build(source, tmp_path / "set", subsample=11)
    assert "there are only 10 puzzles" in caplog.text
    assert len(read_folder(tmp_path / "set", "train")) == 10
    assert not (tmp_path / "set/subset.json").exists()


# -- what the manifest says


def test_the_manifest_tells_where_the_rows_came_from(source: Path, tmp_path: Path):
    lines = (source / "train.csv").read_text().splitlines()
    lines[3] = lines[3][:-1] + "x"  # row 2: no rating
    (source / "train.csv").write_text("\n".join([*lines, lines[1]]) + "\n")  # and row 0 once more
    (source / "README.md").write_text("---\ntask: sudoku\nlicense: cc-by-4.0\n---\n# Puzzles\n")
    build(source, tmp_path / "set", skip_invalid=True, min_difficulty=1, seed=7)
    manifest = read_manifest(tmp_path / "set")
    train, test = manifest["sources"]["train"][0], manifest["sources"]["test"][0]
    assert manifest["task"] == "sudoku-2x3"
    assert manifest["seed"] == 7
    assert manifest["options"]["min_difficulty"] == 1
    assert manifest["licence"] == "cc-by-4.0"
    assert (train["name"], train["rows"]) == ("train.csv", 11)
    assert train["left_out"] == {"invalid": [2], "too_easy": 2}
    assert train["sha256"] == hashlib.sha256((source / "train.csv").read_bytes()).hexdigest()
    assert (test["name"], test["rows"], test["left_out"]["too_easy"]) == ("test.csv.gz", 4, 1)
    assert manifest["counts"]["train"] == {"groups": 8, "puzzles": 8, "examples": 8, "duplicates": 0}
    assert str(tmp_path) not in (tmp_path / "set/manifest.json").read_text()


def test_repeated_puzzles_are_counted_and_shared_ones_refused(
    source: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    train = source / "train.csv"
    lines = train.read_text().splitlines()
    train.write_text("\n".join([*lines, lines[1], lines[1], lines[2]]) + "\n")
    with pytest.raises(UserError, match="13 of 13 test puzzles are in training too"):
        build_sudoku([train], tmp_path / "set", test=[train])
    with caplog.at_level(logging.WARNING, logger="loopscope"):
        manifest = build_sudoku(
            [train], tmp_path / "set", test=[train], options=Options(allow_leak=True, subsample=12)
        )
    assert manifest["counts"]["test"]["duplicates"] == 3
    shared = manifest["leaks"]["up_to_symmetry"]
    assert 12 <= shared <= 13  # the draw misses one of thirteen, perhaps one of the repeated
    assert f"{shared} of 13 test puzzles" in caplog.text


# -- mistakes


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"subsample": 0}, "subsample=0: expected at least 1"),
        ({"augmentations": -1}, "augmentations=-1: expected at least 0"),
        ({"compat": "hrm"}, "compat=hrm: expected trm"),
        ({"compat": "trm", "seed": 2**32}, "seeds below"),
        ({"compat": "trm"}, "builds sudoku-3x3, not sudoku-2x3"),
        ({"min_difficulty": 10}, "no puzzle is rated 10 or more"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    source: Path, tmp_path: Path, options: dict[str, Any], problem: str
):
    with pytest.raises(UserError, match=problem):
        build(source, tmp_path / "set", **options)
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_sources_that_do_not_fit_are_refused(source: Path, tmp_path: Path):
    out = tmp_path / "set"
    train = source / "train.csv"
    with pytest.raises(UserError, match=r"no such file or folder"):
        build(tmp_path / "nowhere", out)
    with pytest.raises(UserError, match=r"holds no train.csv or train.csv.gz"):
        build(tmp_path, out)
    write_puzzles(sudokus(Sudoku(2, 2), 2, 8), tmp_path / "small.csv")
    with pytest.raises(UserError, match="different tasks"):
        build_sudoku([train], out, test=[tmp_path / "small.csv"])
    unrated = sudokus(Sudoku(2, 3), 2, 18)
    write_puzzles(
        PuzzleSet(unrated.task, unrated.inputs, unrated.labels, unrated.puzzle_ids), tmp_path / "u.csv"
    )
    with pytest.raises(UserError, match=r"u.csv: has no ratings to select by"):
        build_sudoku([train, tmp_path / "u.csv"], out, options=Options(min_difficulty=1))
    (tmp_path / "cut.csv.gz").write_bytes(gzip.compress(train.read_bytes())[:-9])
    with pytest.raises(UserError, match="cut off"):
        build_sudoku([tmp_path / "cut.csv.gz"], out)
    (tmp_path / "u.csv").write_text(f"question,answer\n{'.' * 36},\n")
    with pytest.raises(UserError, match=r"u.csv line 2: the puzzle has several solutions"):
        build_sudoku([tmp_path / "u.csv"], out)
    assert not out.exists()


def test_a_crash_while_writing_leaves_nothing(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved = np.save

    def full(path: Path, *args: Any) -> None:
        if "labels" in str(path):
            raise OSError(28, "No space left on device", str(path))
        saved(path, *args)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match="No space left"):
        build(source, tmp_path / "set")
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


def test_an_existing_folder_is_refused_before_anything_is_read(tmp_path: Path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/file").write_text("")
    with pytest.raises(UserError, match="not a puzzle folder written by loopscope"):
        build(tmp_path / "nowhere", tmp_path / "set")


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.data())
def test_no_damaged_source_gives_anything_but_one_line(data: st.DataObject):
    """Bytes cut off, changed, removed or put in: the file is read, or one line names it and says why not."""
    rows = "1234341221434321,1234341221434321\n.2343412214343.1,\n"
    raw = f"question,answer\n{rows}".encode()
    packed = data.draw(st.booleans())
    damaged = bytearray(gzip.compress(raw, mtime=0) if packed else raw)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        damaged[at : at + data.draw(st.sampled_from([0, 1, 4, 1000]))] = data.draw(st.binary(max_size=4))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("train.csv.gz" if packed else "train.csv")
        path.write_bytes(bytes(damaged))
        message = problem(path)
    assert message.startswith((str(path), "none"))
    assert "\n" not in message


def problem(path: Path) -> str:
    """What is said of a file that is refused, or "none"."""
    try:
        read_puzzles(path)
    except UserError as error:
        return str(error)
    return "none"


# -- the Hub


def test_the_hub_is_asked_for_the_puzzle_files_only(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    asked: dict[str, Any] = {}
    commit = source.rename(tmp_path / "0123abcd")  # snapshots lie in folders named by commit

    def snapshot_download(repo: str, **options: Any) -> str:
        asked.update(options, repo=repo)
        return str(commit)

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=snapshot_download))
    manifest = build_sudoku(["hf:sapientinc/some-set@v2"], tmp_path / "set")
    assert asked["repo"] == "sapientinc/some-set"
    assert (asked["repo_type"], asked["revision"]) == ("dataset", "v2")
    assert set(asked["allow_patterns"]) == {
        "train.csv", "train.csv.gz", "test.csv", "test.csv.gz", "README.md"
    }  # fmt: skip
    assert manifest["sources"]["train"][0]["name"] == "hf:sapientinc/some-set@0123abcd/train.csv"
    assert len(read_folder(tmp_path / "set")) == 4


def test_without_network_or_package_one_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def offline(repo: str, **options: Any) -> str:
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "huggingface_hub", SimpleNamespace(snapshot_download=offline))
    with pytest.raises(UserError, match=r"ConnectionError: no route to host.*download the files") as error:
        build_sudoku(["hf:a/b"], tmp_path / "set")
    assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="expected hf:owner/name"):
        build_sudoku(["hf:a"], tmp_path / "set")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(UserError, match="pip install huggingface_hub"):
        build_sudoku(["hf:a/b"], tmp_path / "set")


# -- the real files


def test_the_folder_one_is_in_is_not_replaced(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here" / "below"
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    for out in (Path("."), Path(".."), here):
        with pytest.raises(UserError, match=r"is the folder you are in\. Name a new one"):
            build(source, out)
        with pytest.raises(UserError, match=r"is the folder you are in\. Name a new one"):
            save_model(tiny_model(), out)


@pytest.mark.parametrize(
    ("kind", "train", "test", "limit"),
    [
        ("sudoku", "sudoku_extreme_1k_train", "sudoku_extreme_test_8192", 1000),
        ("maze", "maze_30x30_hard_train", "maze_30x30_hard_test", 100),
    ],
)
def test_real_files_build_and_come_back(tmp_path: Path, kind: str, train: str, test: str, limit: int):
    files = [shared_path(f"data/{kind}/{name}.csv.gz") for name in (train, test)]
    options = Options(limit=limit, subsample=50, augmentations=2)
    manifest = build_puzzles(kind, files[:1], tmp_path / "set", test=files[1:], options=options)
    listed = shared_path("data/README.md").read_text()
    assert all(manifest["sources"][split][0]["sha256"] in listed for split in ("train", "test"))
    assert manifest["leaks"] is None
    puzzles, plain = read_folder(tmp_path / "set"), read_puzzles(files[1], limit=limit)
    assert puzzles.content_hash == plain.content_hash
    assert all((puzzles.facts[name] == plain.facts[name]).all() for name in plain.facts)
    assert len(read_folder(tmp_path / "set", "train")) == 150
    assert len(check_rules(read_folder(tmp_path / "set", "train"))) == 0
