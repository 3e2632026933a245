"""The order of training examples: the recorded official sequences, and what our own passes promise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from loopscope.errors import UserError
from loopscope.tasks import Sudoku, read_puzzles
from loopscope.tasks.base import Groups, PuzzleSet
from loopscope.training.order import OfficialOrder, PassOrder
from loopscope.training.stream import TrainingStream, split_validation
from shared import shared_path

FOLDERS = {"sudoku": "sudoku", "maze": "maze_aug8", "arc": "arc_aug2"}


def official_groups(name: str) -> Groups:
    arrays = np.load(shared_path(f"fixtures/official_format/{FOLDERS[name]}.npz"))
    rows = arrays["train/all__puzzle_indices"]
    ids, starts = arrays["train/all__puzzle_identifiers"], arrays["train/all__group_indices"]
    return Groups(rows[:-1], rows[1:], ids, starts)


def irregular(rng: np.random.Generator, num_groups: int = 6) -> Groups:
    """Groups of 1 to 4 puzzles of 1 to 5 examples each."""
    starts = np.concatenate([[0], np.cumsum(rng.integers(1, 5, num_groups))]).astype(np.int32)
    ends = np.concatenate([[0], np.cumsum(rng.integers(1, 6, starts[-1]))]).astype(np.int32)
    return Groups(ends[:-1], ends[1:], np.arange(starts[-1], dtype=np.int32) + 7, starts)


# -- the official order


@pytest.mark.parametrize("epochs", [1, 3])
@pytest.mark.parametrize("seed", [0, 7])
@pytest.mark.parametrize("name", FOLDERS)
def test_the_recorded_sequences_of_the_official_loader(name: str, seed: int, epochs: int) -> None:
    """Every batch of two iterations, in one process and in the slices of two."""
    recorded = np.load(shared_path(f"fixtures/official_loader/{name}.npz"))
    order = OfficialOrder(official_groups(name), 8, seed, epochs, np.random.RandomState(123))
    for number in (1, 2):
        made = list(order.iteration(number))
        for rank, processes in [(0, 1), (0, 2), (1, 2)]:
            start = f"train/seed{seed}/epochs{epochs}/rank{rank}of{processes}/iter{number}/"
            share = slice(rank * 8 // processes, (rank + 1) * 8 // processes)
            rows, ids = recorded[start + "example_index"], recorded[start + "puzzle_identifiers"]
            assert len(made) == len(rows) > 0
            assert (np.stack([draw.rows[share] for draw in made]) == rows).all()
            assert (np.stack([draw.ids[share] for draw in made]) == ids).all()


@pytest.mark.parametrize("name", FOLDERS)
def test_the_recorded_test_sequences_are_our_rows_in_order(name: str, tmp_path: Path) -> None:
    """Of a folder written as recorded, in one process and in the slices of two; only padding is theirs."""
    arrays = np.load(shared_path(f"fixtures/official_format/{FOLDERS[name]}.npz"))
    recorded = np.load(shared_path(f"fixtures/official_loader/{name}.npz"))
    for key in arrays.files:
        path = tmp_path / (key if key.endswith(".json") else f"{key}.npy")
        path.parent.mkdir(exist_ok=True)
        if key.endswith(".json"):
            path.write_text(str(arrays[key]))
        else:
            np.save(path, arrays[key])
    batch = read_puzzles(tmp_path, split="test").batch()
    for rank, processes in [(0, 1), (0, 2), (1, 2)]:
        start, local = f"test/rank{rank}of{processes}/iter1/", 8 // processes
        index = recorded[start + "example_index"]
        places = np.arange(len(index))[:, None] * 8 + rank * local + np.arange(local)
        real = places < len(batch.inputs)
        assert (index == np.where(real, places, -1)).all()
        for column in ("inputs", "labels", "puzzle_ids"):
            theirs = recorded[start + column.replace("puzzle_ids", "puzzle_identifiers")]
            assert (theirs[real] == getattr(batch, column).numpy()[places[real]]).all()
            assert (theirs[~real] == (-100 if column == "labels" else 0)).all()
    assert (index < 0).any()  # the sequences do hold padding


def test_official_batches_are_counted_over_iterations_and_can_be_asked_for_again() -> None:
    groups = official_groups("arc")
    order = OfficialOrder(groups, 4, 3, examples=np.random.RandomState(0))
    forward = [order.batch(step) for step in range(9)]
    fresh = OfficialOrder(groups, 4, 3, examples=np.random.RandomState(0))
    for step in (6, 2, 8, 0):
        assert all((a == b).all() for a, b in zip(fresh.batch(step), forward[step], strict=True))


def test_a_batch_that_no_iteration_fills() -> None:
    with pytest.raises(UserError, match=r"train\.batch_size=50 is more than data\.epochs_per_iter=1"):
        OfficialOrder(irregular(np.random.default_rng(0)), 50, 0).batch(0)


# -- our own


@given(st.integers(0, 2**32), st.integers(1, 40))
def test_a_pass_takes_one_whole_puzzle_of_every_group(seed: int, batch_size: int) -> None:
    rng = np.random.default_rng(seed)
    groups = irregular(rng)
    order = PassOrder(groups, batch_size, seed=seed % 1000)
    drawn = [order.batch(step) for step in range(60 // batch_size + 2)]
    rows, ids = (np.concatenate(column) for column in zip(*drawn, strict=True))
    puzzle = ids - 7
    assert ((groups.first[puzzle] <= rows) & (rows < groups.stop[puzzle])).all()
    position = 0
    while True:
        seen = []
        for _ in range(len(groups)):
            if position >= len(rows):
                return
            chosen = puzzle[position]
            size = groups.stop[chosen] - groups.first[chosen]
            mine = rows[position : position + size]
            assert len(set(mine)) == len(mine)
            assert (puzzle[position : position + size] == chosen).all()
            seen.append(np.searchsorted(groups.starts, chosen, side="right") - 1)
            position += size
        assert sorted(seen) == list(range(len(groups)))


@pytest.mark.parametrize("equal", [True, False])
def test_any_batch_can_be_asked_for_first(equal: bool) -> None:
    """The state of the sampler is the number of the step alone, passes of equal length or not."""
    groups = official_groups("arc") if equal else irregular(np.random.default_rng(1))
    forward = PassOrder(groups, 5, seed=0)
    batches = [forward.batch(step) for step in range(40)]
    for step in (39, 3, 17):
        again = PassOrder(groups, 5, seed=0).batch(step)
        assert all((a == b).all() for a, b in zip(again, batches[step], strict=True))


def test_puzzles_and_examples_are_drawn_uniformly() -> None:
    groups = Groups(*(np.array(a, np.int32) for a in ([0, 3, 6], [3, 6, 9], [1, 2, 3], [0, 3])))
    order = PassOrder(groups, 3, seed=0)
    rows = np.stack([order.batch(step).rows for step in range(6000)])
    orders, counts = np.unique(rows, axis=0, return_counts=True)
    assert len(orders) == 18  # 3 puzzles x 6 orders of their examples
    assert stats.chisquare(counts).pvalue > 1e-3


# -- in the stream

TASK = Sudoku(2, 2)


def puzzle_set(groups: Groups) -> PuzzleSet:
    count = int(groups.stop.max())
    inputs = np.full((count, TASK.seq_len), 1, np.uint8)
    inputs[:, :4] = 2 + np.arange(count)[:, None] // 4 ** np.arange(4) % 4
    return PuzzleSet(TASK, inputs, np.full_like(inputs, 3), np.zeros(count, np.int32), groups=groups)


@pytest.mark.parametrize("processes", [2, 4])
def test_the_shares_of_all_processes_are_the_batch_of_one(processes: int) -> None:
    puzzles = puzzle_set(irregular(np.random.default_rng(2)))
    options = {"seed": 1, "reveal": 0.5}
    whole = TrainingStream(puzzles, 8, **options)
    shares = [TrainingStream(puzzles, 8, share=(rank, processes), **options) for rank in range(processes)]
    for step in range(5):
        parts = [share.batch(step) for share in shares]
        for column, expected in zip(zip(*parts, strict=True), whole.batch(step), strict=True):
            assert np.concatenate([np.asarray(part) for part in column]).tolist() == expected.tolist()


def test_validation_keeps_every_identifier_in_training() -> None:
    """A group of several examples loses its last one, in all its versions; one of single examples goes."""
    groups = irregular(np.random.default_rng(4), 12)
    puzzles = puzzle_set(groups)
    train, held_out = split_validation(puzzles, 5, seed=0)
    assert train.groups is not None
    assert train.inputs is puzzles.inputs  # no row was copied
    rows = {board.tobytes(): i for i, board in enumerate(puzzles.inputs)}
    held = {rows[board.tobytes()] for board in held_out.inputs}
    trained = {row for a, b in zip(train.groups.first, train.groups.stop, strict=True) for row in range(a, b)}
    assert len(held) == 5
    assert not held & trained
    single = sum(groups.stop[groups.starts[g]] - groups.first[groups.starts[g]] == 1 for g in range(12))
    assert 12 - single <= len(train.groups) <= 12
    assert train.examples_per_pass == pytest.approx(
        len(train.groups) * (train.groups.stop - train.groups.first).mean()
    )
