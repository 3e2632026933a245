"""The stream of training batches: complete, uniform, and a function of (seed, step) alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from loopscope.errors import UserError
from loopscope.tasks.base import BLANK, IGNORE, PAD, PuzzleSet
from loopscope.tasks.sudoku import Sudoku
from loopscope.training.setup import resolve
from loopscope.training.stream import TrainingStream, reveal_givens, split_validation, step_generator
from small_runs import recipe
from small_sets import mazes

TASK = Sudoku(2, 2)


def numbered(count: int) -> PuzzleSet:
    """Different boards, row i with identifier i: its cells spell i in base 4."""
    inputs = np.full((count, TASK.seq_len), BLANK, np.uint8)
    inputs[:, :5] = 2 + np.arange(count)[:, None] // 4 ** np.arange(5) % 4
    return PuzzleSet(TASK, inputs, np.full_like(inputs, 5), np.arange(count, dtype=np.int32))


def stream(count: int, batch_size: int, **options: object) -> TrainingStream:
    options = {"seed": 0, "augment": False, **options}
    return TrainingStream(numbered(count), batch_size, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (10, 10), (7, 16), (9, 1), (5, 3)])
def test_every_pass_is_a_permutation(count: int, batch_size: int) -> None:
    source = stream(count, batch_size)
    passes = 6 * batch_size
    drawn = np.concatenate([source.draw(step).rows for step in range(6 * count)]).reshape(passes, count)
    assert (np.sort(drawn, axis=1) == np.arange(count)).all()
    assert len(np.unique(drawn, axis=0)) > 1  # not the same permutation every time


def test_orders_are_uniform() -> None:
    """All six orders of three puzzles, over 3000 passes."""
    source = stream(3, 3)
    orders = np.stack([source.draw(step).rows for step in range(3000)]) @ [9, 3, 1]
    _, counts = np.unique(orders, return_counts=True)
    assert len(counts) == 6
    assert stats.chisquare(counts).pvalue > 1e-3


def test_a_batch_is_a_function_of_seed_and_step() -> None:
    once, again = (stream(50, 8, augment=True, reveal=0.5) for _ in range(2))
    forward = [once.batch(step) for step in range(20)]
    for step in reversed(range(20)):  # asked for in another order
        for a, b in zip(again.batch(step), forward[step], strict=True):
            assert a.equal(b)
    other = stream(50, 8, augment=True, reveal=0.5, seed=1).batch(0)
    assert not other.puzzle_ids.equal(forward[0].puzzle_ids)


def test_symmetries_are_drawn_anew_every_pass() -> None:
    source = stream(1, 1, augment=True)
    boards = {source.batch(step).inputs.numpy().tobytes() for step in range(20)}
    assert len(boards) > 5


def test_rows_stay_together() -> None:
    """Input, label and identifier of a batch row belong to one puzzle; label 0 becomes -100."""
    puzzles = numbered(30)
    puzzles.labels[:, 3] = PAD
    batch = TrainingStream(puzzles, 7, seed=0, augment=False).batch(2)
    ids = batch.puzzle_ids.numpy()
    assert (batch.inputs.numpy() == puzzles.inputs[ids]).all()
    assert (batch.labels.numpy()[:, 3] == IGNORE).all()
    assert (np.delete(batch.labels.numpy(), 3, axis=1) == 5).all()


def test_reveal_share_falls_linearly() -> None:
    falling, constant = stream(4, 2, reveal=0.6, reveal_steps=100), stream(4, 2, reveal=0.6)
    shares = [falling.reveal_share(step) for step in (0, 25, 50, 100, 1000)]
    assert shares == pytest.approx([0.6, 0.45, 0.3, 0.0, 0.0])
    assert constant.reveal_share(10**6) == 0.6


def test_reveal_fills_a_uniform_share_of_a_share_of_the_rows() -> None:
    rng = np.random.default_rng(0)
    inputs = np.full((4000, 100), BLANK, np.uint8)
    inputs[:, :20] = 3  # givens
    labels = np.full_like(inputs, 7)
    easier = reveal_givens(inputs, labels, 0.4, rng)
    assert (easier[:, :20] == 3).all()
    filled = (easier[:, 20:] == 7).mean(1)
    assert set(np.unique(easier[:, 20:])) == {BLANK, 7}
    touched = filled[filled > 0]
    # 0.4 of the rows, less the 1/81 of them whose share fills no cell
    assert stats.binomtest(len(touched), 4000, 0.4 * 80 / 81).pvalue > 1e-3
    # a uniform share makes every number of filled cells 1..80 equally likely
    counts = np.bincount(np.round(touched * 80).astype(int), minlength=81)[1:]
    assert stats.chisquare(counts).pvalue > 1e-3


def test_unsupervised_cells_are_never_revealed() -> None:
    inputs = np.full((50, 16), BLANK, np.uint8)
    labels = np.full_like(inputs, PAD)
    assert (reveal_givens(inputs, labels, 1.0, np.random.default_rng(0)) == BLANK).all()


def test_validation_split_is_disjoint_complete_and_reproducible() -> None:
    puzzles = numbered(300)
    train, held_out = split_validation(puzzles, 60, seed=3)
    again = split_validation(puzzles, 60, seed=3)
    assert (len(train), len(held_out)) == (240, 60)
    assert set(train.puzzle_ids) | set(held_out.puzzle_ids) == set(range(300))
    assert (again[0].content_hash, again[1].content_hash) == (train.content_hash, held_out.content_hash)
    assert split_validation(puzzles, 60, seed=4)[1].content_hash != held_out.content_hash
    assert len(split_validation(puzzles, 0, seed=3)[1]) == 0


def test_held_out_rows_are_spread_over_the_file() -> None:
    held = np.concatenate([split_validation(numbered(100), 10, seed)[1].puzzle_ids for seed in range(200)])
    assert stats.chisquare(np.bincount(held // 10, minlength=10)).pvalue > 1e-3


def test_a_repeated_puzzle_is_never_on_both_sides() -> None:
    puzzles = numbered(40)
    doubled = puzzles[np.tile(np.arange(40), 2)]
    train, held_out = split_validation(doubled, 10, seed=0)
    shared = {row.tobytes() for row in train.inputs} & {row.tobytes() for row in held_out.inputs}
    assert not shared
    assert len(train) < 70


def test_neighbours_of_held_out_puzzles_are_not_trained_on() -> None:
    puzzles = numbered(60)
    family = np.tile(np.arange(20) + 7, 3)  # 20 puzzles, then two neighbours of each
    train, held_out = split_validation(replace(puzzles, facts={"family": family}), 5, seed=0)
    assert (len(train), len(held_out)) == (45, 5)
    assert held_out.puzzle_ids.max() < 20
    assert not set(train.facts["family"]) & set(held_out.facts["family"])
    kept, most = split_validation(replace(puzzles, facts={"family": family}), 60, seed=0)
    assert (len(kept), len(most)) == (0, 20)


def test_step_generators_differ() -> None:
    seeds = {step_generator(seed, step).initial_seed() for seed in range(5) for step in range(200)}
    assert len(seeds) == 1000
    assert step_generator(2, 7).initial_seed() == step_generator(2, 7).initial_seed()


def test_extra_givens_are_for_sudoku_alone() -> None:
    with pytest.raises(UserError, match=r"data\.reveal=0\.5: extra givens are for Sudoku, not for maze-4x4"):
        resolve(recipe(data={"reveal": 0.5}), mazes(4, 4, 4))
