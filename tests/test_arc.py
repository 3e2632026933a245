"""ARC canvas, decoding and versions, against brute force and recorded official votes."""

import json
import re
from collections import Counter
from itertools import permutations, product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from loopscope.errors import UserError
from loopscope.tasks import TASKS, dihedral
from loopscope.tasks.arc import Arc
from loopscope.tasks.arc.board import EOS, encode_grid
from loopscope.tasks.arc.files import ArcTask, Pair
from loopscope.tasks.arc.versions import COUNT, Versions, draw_versions, drawn_from, parse_names
from loopscope.tasks.base import PAD, Task
from shared import shared_path

ARC = Arc()


def random_grid(rng: np.random.Generator, most: int = 30, colours: int = 10) -> np.ndarray:
    return rng.integers(0, colours, rng.integers(1, most + 1, 2)).astype(np.uint8)


def random_pairs(count: int, seed: int = 0, most: int = 30) -> list[Pair]:
    rng = np.random.default_rng(seed)
    return [Pair(random_grid(rng, most), random_grid(rng, most)) for _ in range(count)]


def encoded(pairs: list[Pair]) -> tuple[np.ndarray, np.ndarray]:
    return ARC.encode([p.input for p in pairs]), ARC.encode([p.output for p in pairs])


def random_versions(count: int, seed: int = 0) -> Versions:
    return drawn_from(np.random.default_rng(seed))(count)


grids = st.builds(lambda seed: random_grid(np.random.default_rng(seed)), st.integers(0, 2**32))
numbers = st.integers(0, COUNT - 1)


# -- canvas


def test_arc_is_a_registered_task_with_the_official_numbers() -> None:
    task = TASKS["arc"](900)
    assert isinstance(task, Task)
    assert (task.name, task.seq_len, task.vocab_size, task.grid) == ("arc-30x30", 900, 12, (30, 30))
    with pytest.raises(UserError, match="900 cells, not 81"):
        TASKS["arc"](81)


def test_end_marks_stand_below_and_right_and_the_corner_stays_empty() -> None:
    canvas = encode_grid(np.array([[0, 9, 3], [4, 5, 6]], np.uint8), 10, 20).reshape(30, 30)
    assert canvas[10:13, 20:24].tolist() == [[2, 11, 5, EOS], [6, 7, 8, EOS], [EOS, EOS, EOS, PAD]]
    assert np.count_nonzero(canvas) == 6 + 3 + 2


def test_end_marks_off_the_canvas_are_left_out() -> None:
    assert (encode_grid(np.full((30, 30), 4, np.uint8)) == 6).all()
    at_border = encode_grid(np.zeros((30, 17), np.uint8)).reshape(30, 30)
    assert (at_border[:, 17] == EOS).all()
    assert (at_border == EOS).sum() == 30


# -- decoding


@settings(max_examples=60, deadline=None)
@given(grid=grids, number=numbers)
def test_decoding_undoes_encoding_and_version(grid: np.ndarray, number: int) -> None:
    task = Arc(Versions.numbered(np.array([0, number])))
    tokens, _ = task.as_named(*[ARC.encode([grid])] * 2, np.array([1]))
    assert np.array_equal(task.decode(tokens, np.array([1]))[0], grid)
    assert np.array_equal(task.decode(ARC.encode([grid]))[0], grid)


def largest_rectangle(canvas: np.ndarray) -> tuple[int, int]:
    """Brute force over all rectangles in the corner; the flattest of the largest."""
    best = (0, 0)
    for height, width in product(range(1, 31), range(1, 31)):
        legal = (canvas[:height, :width] >= 2).all()
        if legal and height * width > best[0] * best[1]:
            best = (height, width)
    return best


def test_crop_is_the_largest_rectangle_of_colours() -> None:
    rng = np.random.default_rng(1)
    filled = rng.random((40, 30, 30)) < rng.choice([0.5, 0.9, 0.99, 0.999], (40, 1, 1))
    tokens = np.where(filled, rng.integers(2, 12, filled.shape), rng.integers(0, 2, filled.shape))
    found = ARC.crop(tokens.reshape(40, 900))
    assert [tuple(size) for size in found.tolist()] == [largest_rectangle(canvas) for canvas in tokens]
    assert found.prod(1).max() > 100  # not all trivial


def test_of_equal_crops_the_first_wins_and_an_empty_one_is_no_grid() -> None:
    tokens = np.zeros((3, 30, 30), np.uint8)
    tokens[0, 0, :4] = tokens[0, :4, 0] = 5  # 1 x 4 or 4 x 1
    tokens[2, 1:, 1:] = 5
    assert ARC.crop(tokens.reshape(3, 900)).tolist() == [[1, 4], [0, 0], [0, 0]]
    assert [grid.shape for grid in ARC.decode(tokens.reshape(3, 900))] == [(1, 4), (0, 0), (0, 0)]
    assert ARC.verify(tokens.reshape(3, 900), tokens.reshape(3, 900)).tolist() == [True, False, False]


@pytest.mark.parametrize("run", ["A", "edge"])
def test_votes_of_recorded_predictions_equal_those_of_the_official_evaluator(run: str) -> None:
    folder = shared_path("fixtures/official_arc_eval")
    rows = np.load(folder / f"predictions_{run}.npz")
    names = parse_names(json.loads((folder / "dataset/identifiers.json").read_text()))
    task, ids = Arc(names.versions), rows["puzzle_identifiers"]
    questions, answers = task.decode(rows["inputs"], ids), task.decode(rows["preds"], ids)
    puzzles = json.loads((folder / "dataset/test_puzzles.json").read_text())
    expected = json.loads((folder / "ranking.json").read_text())[run]
    for name, puzzle in puzzles.items():
        mine = [r for r in range(len(ids)) if names.bases[names.base[ids[r]]] == name]
        for number, pair in enumerate(puzzle["test"]):
            votes = Counter(
                (answers[r].shape, answers[r].tobytes())
                for r in mine
                if np.array_equal(questions[r], pair["input"])
            )
            label = np.array(pair["output"], np.uint8)
            found = sorted((n, shape, raw == label.tobytes()) for (shape, raw), n in votes.items())
            wanted = [(c["votes"], tuple(c["shape"]), c["is_label"]) for c in expected[name][number]]
            assert found == sorted(wanted), (name, number)


# -- versions


def slow_version(version: Versions, grid: np.ndarray) -> np.ndarray:
    """By the definition of section "dihedral ids": numpy's own turns."""
    turns: Any = {
        0: lambda g: g,
        1: lambda g: np.rot90(g, 1),
        2: lambda g: np.rot90(g, 2),
        3: lambda g: np.rot90(g, 3),
        4: np.fliplr,
        5: np.flipud,
        6: lambda g: g.T,
        7: lambda g: np.fliplr(np.rot90(g, 1)),
    }
    return turns[int(version.tids[0])](version.colours[0][grid])


@settings(max_examples=60, deadline=None)
@given(grid=grids, number=numbers)
def test_every_version_is_undone_by_its_inverse(grid: np.ndarray, number: int) -> None:
    version = Versions.numbered(np.array([number]))
    changed = version.apply(0, grid)
    assert np.array_equal(changed, slow_version(version, grid))
    assert np.array_equal(version.inverse().apply(0, changed), grid)
    back = dihedral.transform(changed, dihedral.INVERSE[version.tids[0]])  # the order of the official code
    assert np.array_equal(np.argsort(version.colours[0])[back], grid)


def test_version_numbers_name_all_versions_once() -> None:
    chosen = np.arange(0, COUNT, 97)
    versions = Versions.numbered(chosen)
    assert len({(t, c.tobytes()) for t, c in zip(*versions, strict=True)}) == len(chosen)
    assert COUNT == 8 * 362_880
    assert (np.sort(versions.colours, 1) == np.arange(10)).all()
    assert (versions.colours[:, 0] == 0).all()
    assert Versions.numbered(np.zeros(1, int)).names("a") == ["a"]


@settings(max_examples=60)
@given(number=numbers, task_id=st.sampled_from(["007bbfb7", "AboveBelow1", "my_task", "t3_x"]))
def test_names_of_both_kinds_parse(number: int, task_id: str) -> None:
    version = Versions.numbered(np.array([number]))
    name = version.names(task_id)[0]
    digits = "".join(map(str, version.colours[0]))
    for text in (name, f"{task_id}_t{version.tids[0]}_{digits}"):
        bases, base, parsed = parse_names(["<blank>", text, task_id])
        assert bases == ["<blank>", task_id]
        assert base.tolist() == [0, 1, 1]
        assert parsed.tids.tolist() == [0, version.tids[0], 0]
        assert parsed.colours[1].tolist() == version.colours[0].tolist()


@pytest.mark.parametrize(
    "name",
    [
        "a|||t8|||0123456789",
        "a|||t1|||1023456789",
        "a|||t1|||0113456789",
        "a|||t1|||012345678",
        "a|||t1|||01234567８9",
        "a|||t1",
        "a|||t1|||0123456789|||b",
    ],
)
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=re.escape(repr(name))):
        parse_names(["<blank>", "fine|||t1|||0987654321", name])


def test_drawn_versions_are_uniform() -> None:
    versions = random_versions(90_000, seed=3)
    assert chisquare(np.bincount(versions.tids, minlength=8)).pvalue > 1e-3
    for colour in range(1, 10):
        counts = np.bincount(versions.colours[:, colour], minlength=10)
        assert counts[0] == 0
        assert chisquare(counts[1:]).pvalue > 1e-4
    pairs = versions.colours[:, 1] * 8 + versions.tids  # colours do not depend on the symmetry
    assert chisquare(np.bincount(pairs, minlength=80)[8:]).pvalue > 1e-3


def puzzle_key(task: ArcTask, version: Versions) -> tuple[Any, ...]:
    """A puzzle by its content: its pairs, whatever their order."""
    made = [[version.apply(0, g) for g in pair] for pairs in task.pairs.values() for pair in pairs]
    return tuple(sorted(tuple((g.shape, g.tobytes()) for g in pair) for pair in made))


def small_task(seed: int) -> ArcTask:
    """Few colours and small grids, partly symmetric: many versions coincide."""
    rng = np.random.default_rng(seed)
    pairs = [Pair(random_grid(rng, 2, 3), random_grid(rng, 2, 3)) for _ in range(2)]
    return ArcTask("x", {"train": tuple(pairs), "test": (Pair(pairs[0].output, pairs[0].input),)})


@pytest.mark.parametrize("seed", range(8))
def test_versions_kept_are_those_that_one_by_one_comparison_keeps(seed: int) -> None:
    task, count = small_task(seed), 60
    found = draw_versions(task, count, drawn_from(np.random.default_rng(seed)))
    trials = drawn_from(np.random.default_rng(seed))(5 * count)
    seen, names = {puzzle_key(task, Versions.numbered(np.zeros(1, int)))}, ["x"]
    for i in range(5 * count):
        trial = trials.rows(slice(i, i + 1))
        key = puzzle_key(task, trial)
        if key not in seen and len(names) <= count:
            seen.add(key)
            names += trial.names("x")
    assert found.names("x") == names


def test_a_task_without_colours_has_one_version() -> None:
    blank = Pair(np.zeros((3, 3), np.uint8), np.zeros((1, 1), np.uint8))
    task = ArcTask("x", {"train": (blank,), "test": (blank._replace(output=None),)})
    assert draw_versions(task, 1000, drawn_from(np.random.default_rng(0))).names("x") == ["x"]


def test_fewer_augmentations_are_the_first_of_more() -> None:
    task = ArcTask("x", {"train": tuple(random_pairs(3, most=9)), "test": tuple(random_pairs(1, 5, 9))})
    few, many = (draw_versions(task, n, drawn_from(np.random.default_rng(4))).names("x") for n in (7, 200))
    assert len(few) == 8
    assert many[:8] == few
    assert len(set(many)) == 201


# -- augmentation


def moved_reference(pair: Pair, version: Versions, canvas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both grids of a pair under a version, at the place where the grid stands on `canvas`."""
    top, left = np.divmod(np.flatnonzero(canvas >= 2)[0], 30)
    grids = (slow_version(version, grid) for grid in pair)
    first, second = (encode_grid(grid, int(top), int(left)) for grid in grids)
    return first, second


def test_augment_makes_the_named_version_and_moves_both_grids_alike() -> None:
    pairs, versions = random_pairs(64, seed=2, most=24), random_versions(64)
    task = Arc(versions)
    inputs, labels = task.augment(*encoded(pairs), np.random.default_rng(0), np.arange(64))
    assert inputs.dtype == labels.dtype == np.uint8
    for i, pair in enumerate(pairs):
        expected = moved_reference(pair, versions.rows(slice(i, i + 1)), inputs[i])
        assert np.array_equal((inputs[i], labels[i]), expected), i
    assert set(versions.tids) == set(range(8))


def test_same_seed_same_rows() -> None:
    rows = encoded(random_pairs(20, most=20))
    first, again, other = (ARC.augment(*rows, np.random.default_rng(s))[0] for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_moves_are_uniform_over_those_that_keep_both_grids_on_the_canvas() -> None:
    pair = Pair(np.ones((27, 5), np.uint8), np.ones((3, 28), np.uint8))
    rows = [np.repeat(tokens, 6000, 0) for tokens in encoded([pair])]
    moved, _ = Arc(untranslated=0.0).augment(*rows, np.random.default_rng(0))
    places = Counter((moved >= 2).argmax(1).tolist())
    assert set(places) == {30 * down + right for down in range(4) for right in range(3)}
    assert chisquare(list(places.values())).pvalue > 1e-3
    quarter, _ = Arc(untranslated=0.25).augment(*rows, np.random.default_rng(0))
    in_corner = (quarter[:, 0] >= 2).mean()
    assert abs(in_corner - (0.25 + 0.75 / 12)) < 0.025
    fixed, _ = Arc(untranslated=1.0).augment(*rows, np.random.default_rng(0))
    assert np.array_equal(fixed, rows[0])


def test_a_grid_that_is_not_in_the_corner_is_moved_all_the_same() -> None:
    rows = encoded(random_pairs(50, most=25))
    moved = ARC.augment(*rows, np.random.default_rng(0))
    back = Arc(untranslated=1.0).augment(*moved, np.random.default_rng(0))
    assert np.array_equal(back, rows)
    assert not np.array_equal(moved, rows)


def test_an_unknown_label_stays_empty() -> None:
    inputs, labels = ARC.encode([np.ones((3, 3), np.uint8)]), ARC.encode([None])
    assert not ARC.augment(inputs, labels, np.random.default_rng(0))[1].any()


# -- canonical keys


def test_keys_do_not_change_with_version_or_place() -> None:
    pairs = random_pairs(40, seed=6, most=28)
    rows = encoded(pairs)
    keys = ARC.canonical(*rows)
    assert len(set(keys)) == 40
    for seed in range(3):
        task = Arc(random_versions(40, seed))
        changed = task.augment(*rows, np.random.default_rng(seed), np.arange(40))
        assert ARC.canonical(*changed) == keys


def test_keys_are_equal_only_where_a_symmetry_maps_the_pairs() -> None:
    rng = np.random.default_rng(0)
    pairs = [Pair(*(rng.integers(0, 4, s).astype(np.uint8) for s in ((2, 2), (1, 2)))) for _ in range(60)]
    maps = [np.array([0, *order], np.uint8) for order in permutations((1, 2, 3))]

    def orbit(pair: Pair) -> set[tuple[Any, ...]]:
        made = ([dihedral.transform(m[g], t) for g in pair] for m, t in product(maps, range(8)))
        return {tuple((g.shape, g.tobytes()) for g in grids) for grids in made}

    keys, orbits = ARC.canonical(*encoded(pairs)), [orbit(pair) for pair in pairs]
    same = [[bool(a & b) for b in orbits] for a in orbits]
    assert [[a == b for b in keys] for a in keys] == same
    assert 60 < np.sum(same) < 3600


# -- text


def test_render_shows_digits_that_outlive_their_colours() -> None:
    text = ARC.render(encode_grid(np.array([[1, 2], [0, 9]], np.uint8), 1, 1))
    plain = re.sub("\033\\[[0-9;]*m", "", text)
    assert [line.rstrip() for line in plain.split("\n")] == ["", "  1 2", "  0 9"]
    assert "\033[48;2;0;116;217" in text
    assert ARC.render(np.zeros(900, int)) == "(no grid)"
