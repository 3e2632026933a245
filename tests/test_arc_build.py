"""ARC files, builder and leakage, against recorded output of the official builder and the public sets."""

import copy
import gzip
import json
import logging
import random
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loopscope.errors import UserError
from loopscope.tasks import dihedral
from loopscope.tasks.arc import Arc
from loopscope.tasks.arc.arrays import ArcArrays, _groups, _Legacy, arc_arrays
from loopscope.tasks.arc.files import ArcTask, Pair, read_subset, subset_files, subsets_in
from loopscope.tasks.arc.leakage import leakage
from loopscope.tasks.arc.versions import Versions, expand_groups, parse_names
from loopscope.tasks.base import PuzzleSet
from shared import shared_path

GRID = [[0, 1, 2], [3, 4, 5]]
TASK = {"train": [{"input": GRID, "output": [[7]]}], "test": [{"input": [[1]]}]}


def official(name: str, subsets: tuple[str, ...] = ("training", "evaluation")) -> dict[str, list[ArcTask]]:
    return {subset: _read(shared_path(name) / "arc-agi", subset) for subset in subsets}


@cache
def _read(source: Path, subset: str) -> list[ArcTask]:
    return read_subset(source, subset)


def arrays(built: ArcArrays) -> dict[str, np.ndarray]:
    return {
        f"{split}/all__{name}": array
        for split, found in built.splits.items()
        for name, array in found._asdict().items()
    }


def small_set(**options: Any) -> ArcArrays:
    return arc_arrays(official("fixtures/official_format"), ["evaluation"], **options)


# -- the official builder, call by call


def test_compat_build_equals_the_recorded_one_byte_for_byte() -> None:
    built = small_set(augmentations=2, seed=42, compat="trm")
    recorded = np.load(shared_path("fixtures/official_format/arc_aug2.npz"))
    found = arrays(built)
    assert len(found) == 10
    for name, array in found.items():
        assert array.dtype == recorded[name].dtype, name
        assert np.array_equal(array, recorded[name]), name
    assert json.dumps(built.identifiers) == str(recorded["identifiers.json"])
    assert json.dumps(built.test_puzzles) == str(recorded["test_puzzles.json"])
    for split, rows in built.splits.items():
        said = json.loads(str(recorded[f"{split}/dataset.json"]))
        assert said["num_puzzle_identifiers"] == len(built.identifiers)
        assert said["total_groups"] == len(rows.group_indices) - 1
        assert said["total_puzzles"] == len(rows.puzzle_identifiers)
        assert said["mean_puzzle_examples"] == len(rows.inputs) / len(rows.puzzle_identifiers)


def test_compat_build_of_nine_tasks_equals_the_recorded_test_split() -> None:
    folder = shared_path("fixtures/official_arc_eval/dataset")
    subsets = official("fixtures/official_arc_eval/source")
    built = arc_arrays(subsets, ["evaluation"], augmentations=3, seed=42, compat="trm")
    for name, array in built.splits["test"]._asdict().items():
        recorded = np.load(folder / f"test/all__{name}.npy")
        assert array.dtype == recorded.dtype
        assert np.array_equal(array, recorded), name
    assert json.dumps(built.identifiers) == (folder / "identifiers.json").read_text()
    assert json.dumps(built.test_puzzles) == (folder / "test_puzzles.json").read_text()


@pytest.mark.slow
def test_compat_versions_of_arc_1_are_as_many_as_the_published_table_has_rows() -> None:
    from tqdm.auto import tqdm

    subsets = official("data/arc", ("training", "evaluation", "concept"))
    with tqdm(disable=True) as bar:
        groups = _groups(subsets, ["evaluation"], 1000, _Legacy(42), bar)
        names = {name for group in groups for name in group.names}
    assert len(names) + 1 == 876_406  # rows of the embedding table of the published ARC-1 model


# -- our own way


def test_same_seed_same_bytes_and_another_seed_other_bytes() -> None:
    first, again, other = (small_set(augmentations=5, seed=s, bake=True) for s in (1, 1, 2))
    for name, array in arrays(first).items():
        assert array.tobytes() == arrays(again)[name].tobytes(), name
    assert first.identifiers == again.identifiers
    assert first.identifiers != other.identifiers


def test_versions_of_a_task_do_not_depend_on_other_tasks() -> None:
    subsets = official("fixtures/official_format")
    task = subsets["training"][1]
    alone = arc_arrays({"training": [task]}, augmentations=20, bake=True)
    together = arc_arrays(subsets, ["evaluation"], augmentations=20, bake=True)
    of_task = [name for name in together.identifiers if name.startswith(task.id)]
    assert alone.identifiers[1:] == of_task
    assert of_task[0] == task.id
    rows = together.splits["train"]
    start, stop = rows.puzzle_indices[rows.group_indices[1:3]]
    assert np.array_equal(rows.inputs[start:stop], alone.splits["train"].inputs)


def test_the_hash_of_a_set_tells_which_versions_are_drawn() -> None:
    blank = np.zeros((1, 900), np.uint8)
    names = [small_set(augmentations=5, seed=seed).identifiers for seed in (1, 1, 2)]
    tasks = [Arc(parse_names(found).versions) for found in names]
    first, again, other = (PuzzleSet(task, blank, blank, np.array([3], np.int32)) for task in tasks)
    assert first.content_hash == again.content_hash != other.content_hash
    assert replace(first, puzzle_ids=np.array([4], np.int32)).content_hash != first.content_hash


def test_rows_made_when_drawn_are_the_baked_ones() -> None:
    plain, baked = (small_set(augmentations=30, seed=3, bake=bake) for bake in (False, True))
    assert plain.identifiers == baked.identifiers
    assert plain.test_puzzles == baked.test_puzzles
    drawn = Arc(parse_names(plain.identifiers).versions)
    to_corner = Arc(untranslated=1.0)
    for split, rows in plain.splits.items():
        groups, stored = expand_groups(rows, plain.identifiers), baked.splits[split]
        assert np.array_equal(groups.starts, stored.group_indices)
        assert np.array_equal(groups.ids, stored.puzzle_identifiers)
        assert np.array_equal(groups.stop - groups.first, np.diff(stored.puzzle_indices))
        spans = zip(groups.first, groups.stop, strict=True)
        source = np.concatenate([np.arange(first, stop) for first, stop in spans])
        ids = np.repeat(groups.ids, groups.stop - groups.first)
        made = drawn.as_named(rows.inputs[source], rows.labels[source], ids)
        corner = to_corner.augment(stored.inputs, stored.labels, np.random.default_rng(0))
        assert np.array_equal(made, corner)
        again = expand_groups(stored, baked.identifiers)
        assert np.array_equal(again.ids, stored.puzzle_identifiers)
        assert np.array_equal(again.first, stored.puzzle_indices[:-1])
    assert len(groups.ids) == 31


def test_baked_training_puzzles_keep_one_pair_in_the_corner_and_tests_all() -> None:
    built = small_set(augmentations=50, bake=True)
    in_corner = {split: rows.inputs[:, 0] >= 2 for split, rows in built.splits.items()}
    assert in_corner["test"].all()
    train = built.splits["train"]
    per_puzzle = np.add.reduceat(in_corner["train"], train.puzzle_indices[:-1], dtype=int)
    assert per_puzzle.min() == 1
    assert per_puzzle.mean() < 1.5


def test_demonstrations_of_test_tasks_are_trained_on_and_their_tests_are_not() -> None:
    subsets = official("fixtures/official_format")
    built = arc_arrays(subsets, ["evaluation"], augmentations=0)
    train, test = built.splits["train"], built.splits["test"]
    assert built.identifiers == ["<blank>", "007bbfb7", "239be575", "12997ef3"]
    assert list(built.test_puzzles) == ["12997ef3"]
    tested = subsets["evaluation"][0]
    assert Arc().decode(test.inputs)[1].tolist() == tested.pairs["test"][1].input.tolist()
    assert len(test.inputs) == 2
    assert len(train.inputs) == 6 + 8 + 4
    assert not {row.tobytes() for row in train.inputs} & {row.tobytes() for row in test.inputs}


def test_unknown_answers_are_not_trained_on(tmp_path: Path) -> None:
    write(tmp_path, {"a": TASK})
    tasks = read_subset(tmp_path, "x")
    trained = arc_arrays({"x": tasks}, augmentations=3).splits
    assert list(trained) == ["train"]
    assert len(trained["train"].inputs) == 1
    tested = arc_arrays({"x": tasks}, ["x"], augmentations=3).splits["test"]
    assert not tested.labels.any()
    official_way = arc_arrays({"x": tasks}, ["x"], augmentations=0, compat="trm").splits["test"]
    assert official_way.labels[0, :2].tolist() == [2, 1]  # a grid of one black cell


def test_rows_can_be_written_into_a_file(tmp_path: Path) -> None:
    made: list[Path] = []

    def allocate(shape: tuple[int, int]) -> np.ndarray:
        made.append(tmp_path / f"{len(made)}.npy")
        return np.lib.format.open_memmap(made[-1], mode="w+", dtype=np.uint8, shape=shape)

    built = small_set(augmentations=4, bake=True, allocate=allocate)
    in_memory = small_set(augmentations=4, bake=True)
    assert len(made) == 4
    assert np.array_equal(np.load(made[0]), in_memory.splits["train"].inputs)
    assert np.array_equal(built.splits["test"].labels, in_memory.splits["test"].labels)


def test_a_leaking_test_set_is_refused_unless_allowed(caplog: pytest.LogCaptureFixture) -> None:
    subsets = official("fixtures/official_format")
    subsets["copy"] = subsets["evaluation"]
    with pytest.raises(UserError, match="copy: 1 of 1 tasks of the test set evaluation are in there"):
        arc_arrays(subsets, ["evaluation"], augmentations=0)
    built = arc_arrays(subsets, ["evaluation"], augmentations=0, allow_leak=True)
    assert built.leaks is not None
    assert built.leaks.answers_given == 2
    with caplog.at_level(logging.WARNING, "loopscope"):
        once = arc_arrays(subsets, augmentations=0)
    assert "copy: left out 1 tasks" in caplog.text
    assert len(once.splits["train"].inputs) == 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_sets": ["evaluaton"]}, "Did you mean evaluation?"),
        ({"augmentations": -1}, "augmentations=-1"),
        ({"compat": "hrm"}, "compat=hrm: expected trm"),
        ({"seed": -1}, "seed=-1"),
        ({"subsets": {"evaluation": []}}, "no tasks"),
    ],
)
def test_wrong_options_are_said_in_a_line(options: dict[str, Any], message: str) -> None:
    arguments = {"subsets": official("fixtures/official_format"), **options}
    with pytest.raises(UserError, match=message):
        arc_arrays(**arguments)


# -- files


def write(folder: Path, tasks: Any, solutions: Any = None, zipped: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in (("challenges", tasks), ("solutions", solutions)):
        if content is not None:
            raw = json.dumps(content).encode()
            path = folder / f"p_x_{name}.json{'.gz' if zipped else ''}"
            path.write_bytes(gzip.compress(raw) if zipped else raw)
    return folder / "p_x_challenges.json"


def same(a: list[ArcTask], b: list[ArcTask]) -> bool:
    return [(t.id, json.dumps(t.as_json())) for t in a] == [(t.id, json.dumps(t.as_json())) for t in b]


def test_all_layouts_of_files_read_alike(tmp_path: Path) -> None:
    tasks = official("fixtures/official_format")["training"]
    for task in tasks:
        for folder in ("repo/data/training", "concepts/corpus/Center"):
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / f"{task.id}.json").write_text(json.dumps(task.as_json()))
    challenges = {
        t.id: {**t.as_json(), "test": [{"input": p.input.tolist()} for p in t.pairs["test"]]} for t in tasks
    }
    solutions = {t.id: [p.output.tolist() for p in t.pairs["test"]] for t in tasks}  # type: ignore[union-attr]
    write(tmp_path / "zipped", challenges, solutions, zipped=True)
    assert same(read_subset(tmp_path / "repo", "training"), tasks)
    assert same(read_subset(tmp_path / "repo/data", "training"), tasks)
    assert same(read_subset(tmp_path / "concepts", "corpus"), tasks)
    assert same(read_subset(tmp_path / "zipped", "x"), tasks)
    assert same(read_subset(tmp_path / "zipped/p", "x"), tasks)
    assert [p.name for p in subset_files(tmp_path / "zipped", "x")] == [
        "p_x_challenges.json.gz",
        "p_x_solutions.json.gz",
    ]
    assert subsets_in(tmp_path / "zipped") == subsets_in(tmp_path / "zipped/p") == ["x"]
    assert "training" in subsets_in(tmp_path / "repo")
    with pytest.raises(UserError, match=r"no subset 'trainin'\. Did you mean training"):
        read_subset(tmp_path / "repo", "trainin")


def test_the_order_of_keys_is_kept() -> None:
    sets = official("data/arc", ("training", "evaluation", "training2", "evaluation2", "concept"))
    assert {name: list(tasks[0].pairs) for name, tasks in sets.items()} == {
        "training": ["test", "train"],
        "evaluation": ["test", "train"],
        "training2": ["train", "test"],
        "evaluation2": ["train", "test"],
        "concept": ["train", "test"],
    }
    counts = {n: [sum(len(t.pairs[s]) for t in ts) for s in ("train", "test")] for n, ts in sets.items()}
    assert counts["training"] == [1302, 416]
    assert counts["training2"] == [3232, 1076]
    assert all(pair.output is not None for t in sets["concept"] for pair in t.pairs["test"])


def changed(*path: Any, to: Any = None) -> dict[str, Any]:
    """One task "a", with the value at `path` exchanged, or taken out."""
    tasks: dict[str, Any] = {"a": copy.deepcopy(TASK)}
    place: Any = tasks
    for step in path[:-1]:
        place = place[step]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return tasks


FAULTS = [
    (changed("a", "train"), "task a, key 'train': nothing, expected a list of pairs"),
    (changed("a", "test", to=[]), "task a, key 'test': an empty list"),
    (changed("a", "train", 0, "output"), "task a, train pair 1: has no 'output'"),
    (changed("a", "test", 0, "input"), "task a, test pair 1: an object without 'input'"),
    (
        changed("a", "train", 0, "input", to=[[1, 2], [3]]),
        "train pair 1, input: row 2 has 1 cells, row 1 has 2",
    ),
    (
        changed("a", "train", 0, "input", 1, 2, to=10),
        "input: 10 in row 2, column 3, expected a colour 0 to 9",
    ),
    (changed("a", "train", 0, "input", 1, 2, to=-1), "-1 in row 2, column 3"),
    (changed("a", "train", 0, "input", 0, 0, to=True), "true in row 1, column 1"),
    (changed("a", "train", 0, "input", 0, 0, to=1.5), "1.5 in row 1, column 1"),
    (changed("a", "train", 0, "input", 0, 0, to=10**30), "a huge number in row 1, column 1"),
    (changed("a", "train", 0, "input", 0, 0, to="1"), "in row 1, column 1"),
    (changed("a", "train", 0, "output", to=[[0] * 31]), "output: 1 x 31 cells, expected at most 30 x 30"),
    (changed("a", "train", 0, "output", to=[[]]), "output: a list, expected a list of rows"),
    (changed("a", "train", 0, "output", to=3), "output: a number, expected a list of rows"),
    (changed("a", to=[1]), "task a, holds a list, expected an object"),
    ([1], "holds a list, expected an object of task ids"),
    ({}, "holds no tasks"),
    ({"a|||b": TASK}, "is not a task id"),
]


@pytest.mark.parametrize(("tasks", "message"), FAULTS, ids=[message[:40] for _, message in FAULTS])
def test_a_faulty_file_is_said_in_one_line(tmp_path: Path, tasks: Any, message: str) -> None:
    path = write(tmp_path, tasks)
    with pytest.raises(UserError) as error:
        read_subset(tmp_path, "x")
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("solutions", "message"),
    [
        ({}, "task a, solutions: nothing, expected a list of 1 grids"),
        ({"a": [[[1]], [[1]]]}, "task a, 2 solutions, expected one for each of its 1 test pairs"),
        ({"a": [[[11]]]}, "task a, solution 1: 11 in row 1, column 1"),
        ([], "expected an object of task ids and output grids"),
    ],
)
def test_faulty_solutions_are_said_in_one_line(tmp_path: Path, solutions: Any, message: str) -> None:
    write(tmp_path, {"a": TASK}, solutions)
    with pytest.raises(UserError, match="p_x_solutions.json.*" + message):
        read_subset(tmp_path, "x")


@pytest.mark.parametrize(
    ("raw", "ending", "message"),
    [
        (b'{"a": ', "", "line 1: no JSON"),
        (b"\xff\xfe\xfa", "", "no text in UTF-8|no JSON"),
        (b'{"a": 1, "a": 2}', "", "key 'a' stands twice"),
        (b"[" * 200_000, "", "out of bounds"),
        (gzip.compress(json.dumps({"a": TASK}).encode())[:40], ".gz", "cut off"),
        (b"plain", ".gz", "not readable as gzip"),
        (gzip.compress(b"{}"), "", "no text in UTF-8|no JSON"),
    ],
)
def test_a_file_that_is_no_json_is_said_in_one_line(
    tmp_path: Path, raw: bytes, ending: str, message: str
) -> None:
    (tmp_path / f"p_x_challenges.json{ending}").write_bytes(raw)
    with pytest.raises(UserError, match=message) as error:
        read_subset(tmp_path, "x")
    assert "\n" not in str(error.value)


def mutated(value: Any, rng: random.Random) -> Any:
    """A JSON value with a random part exchanged for something else."""
    odd = [None, [], {}, "", "x\ny", -1, 1e300, True, [[]], [[1], [2, 3]], 10**400, {"input": [[1]]}]
    if rng.random() < 0.15 or not isinstance(value, dict | list) or not value:
        return rng.choice(odd)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = rng.choice(keys)
    if rng.random() < 0.1:
        return {k: value[k] for k in keys if k != key} if isinstance(value, dict) else value[:key]
    new = copy.copy(value)
    new[key] = mutated(value[key], rng)
    return new


def complaint(action: Callable[[], object]) -> str:
    """What a user would read; empty where all went well."""
    try:
        action()
    except UserError as error:
        return str(error)
    return ""


def test_mutated_files_build_or_are_said_in_one_line(tmp_path: Path) -> None:
    rng = random.Random(0)
    good = {"a": TASK, "b": TASK}, {"a": [[[1]]], "b": [[[2]]]}
    outcomes = {True: 0, False: 0}
    for _ in range(300):
        tasks, solutions = (mutated(g, rng) if rng.random() < 0.6 else g for g in good)
        write(tmp_path, tasks, solutions)
        path = tmp_path / f"p_x_{rng.choice(['challenges', 'solutions'])}.json"
        if rng.random() < 0.3 and path.exists():
            raw = bytearray(path.read_bytes())
            raw[rng.randrange(len(raw))] = rng.randrange(256)
            path.write_bytes(raw[: rng.randrange(1, len(raw) + 1)] if rng.random() < 0.5 else raw)
        said = complaint(lambda: arc_arrays({"x": read_subset(tmp_path, "x")}, augmentations=2))
        assert "\n" not in said
        outcomes[said == ""] += 1
    assert min(outcomes.values()) > 20, outcomes


# -- leakage


def test_leakage_between_the_public_sets() -> None:
    sets = official("data/arc", ("training", "evaluation", "training2", "evaluation2", "concept"))
    second = leakage(sets["training2"], sets["evaluation"])
    assert (second.tasks, second.answers, len(second.by_id)) == (400, 419, 376)
    assert len(leakage(sets["training2"], sets["training"]).by_id) == 391
    shared = leakage(sets["evaluation"], sets["evaluation2"])
    assert sorted(task.id for task in shared.by_id) == [
        "0934a4d8",
        "136b0064",
        "16b78196",
        "981571dc",
        "aa4ec2a5",
        "da515329",
    ]
    assert all(task.pairs == task.size for task in shared.by_id)  # the same tasks, pair by pair
    assert [(t.id, t.trained_id, t.pairs, t.tests, t.size) for t in shared.by_content] == [
        ("db695cfb", "55783887", 5, 0, 6)
    ]
    assert "by id: 6 of 120 tasks: 0934a4d8, " in str(shared)
    assert "db695cfb = 55783887 (5/6 pairs)" in str(shared)
    for train in ("training2", "concept"):
        clean = leakage(sets[train], sets["evaluation2"])
        assert not clean.by_id + clean.by_content
        assert clean.answers_given == 0


def test_the_first_sets_training_tasks_give_two_evaluation_answers_away() -> None:
    sets = official("data/arc")
    found = leakage(sets["training"], sets["evaluation"])
    assert not found.by_id
    assert [(t.id, t.trained_id, t.pairs, t.tests, t.size) for t in found.by_content] == [
        ("070dd51e", "40853293", 3, 1, 3),
        ("50a16a69", "caa06a1f", 2, 1, 4),
    ]
    assert found.answers_given == 2
    tasks = {task.id: task for subset in sets.values() for task in subset}
    for ours, theirs in (("070dd51e", "40853293"), ("50a16a69", "caa06a1f")):
        test = tasks[ours].pairs["test"][0]
        assert any(maps_onto(test, pair) for pairs in tasks[theirs].pairs.values() for pair in pairs)


def maps_onto(a: Pair, b: Pair) -> bool:
    """Whether turning and exchanging colours makes pair `a` of pair `b`, by trying."""
    for number in range(8):
        turned = [dihedral.transform(grid, number) for grid in a]
        if [g.shape for g in turned] == [g.shape for g in b]:
            cells = zip(
                np.hstack([g.ravel() for g in turned]), np.hstack([g.ravel() for g in b]), strict=True
            )
            used = {(int(x), int(y)) for x, y in cells}
            one_to_one = len(used) == len(dict(used)) == len({y for _, y in used})
            if one_to_one and all((x == 0) == (y == 0) for x, y in used):
                return True
    return False


def test_a_turned_and_recoloured_task_is_found_under_another_id() -> None:
    subsets = official("fixtures/official_format")
    version = Versions.numbered(np.array([1_234_567]))
    task = subsets["evaluation"][0]
    disguised = {
        split: tuple(Pair(*(version.apply(0, g) for g in pair if g is not None)) for pair in reversed(pairs))
        for split, pairs in task.pairs.items()
    }
    found = leakage([ArcTask("other", disguised)], subsets["evaluation"])
    assert not found.by_id
    assert [(t.id, t.trained_id, t.pairs, t.size) for t in found.by_content] == [("12997ef3", "other", 6, 6)]
    assert found.answers_given == found.answers == 2
