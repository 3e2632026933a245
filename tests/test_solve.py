"""Answers: every selection rule on constructed rollouts, restarts that reproduce, the trace."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from loopscope.errors import UserError
from loopscope.evaluation.selection import choose
from loopscope.evaluation.solve import solve
from loopscope.evaluation.starts import perturbed_start
from loopscope.tasks import PuzzleSet
from loopscope.tasks.arc import Arc
from tiny import Approach, Pair, tiny_model, tiny_puzzles

A, B, C = [1, 2], [2, 1], [2, 2]


def pick(rule, answers, halt=None, residual=None, change=None, passed=None):
    k = len(answers)
    numbers = [[float(i) for i in range(k)] if x is None else x for x in (halt, residual, change)]
    passed = [False] * k if passed is None else passed
    table = np.array([answers], np.uint8)
    return int(choose(rule, table, *(np.array([x]) for x in numbers), np.array([passed]))[0])


def test_halt_takes_the_highest_logit():
    assert pick("halt", [A, B, C], halt=[0.0, 3.0, 1.0]) == 1
    assert pick("halt", [A, B, C], halt=[2.0, 2.0, 1.0]) == 0
    assert pick("halt", [A, B, C], halt=[np.nan, -5.0, np.nan]) == 1


def test_residual_takes_the_smallest():
    assert pick("residual", [A, B, C], residual=[0.3, 0.2, 0.1]) == 2
    assert pick("residual", [A, B, C], residual=[0.1, 0.1, 0.3]) == 0
    assert pick("residual", [A, B, C], residual=[np.nan, 0.9, np.nan]) == 1


def test_logit_change_takes_the_smallest():
    assert pick("logit_change", [A, B, C], residual=[0.1, 0.2, 0.3], change=[0.3, 0.1, 0.2]) == 1
    assert pick("logit_change", [A, B], change=[np.nan, 0.9]) == 1


def test_majority_counts_whole_answers():
    assert pick("majority", [A, B, B], halt=[9.0, 0.0, 0.0]) == 1
    # two cells agree with the majority cell by cell, but the whole answer stands alone
    assert pick("majority", [C, A, A, B], halt=[9.0, 1.0, 1.0, 9.0]) == 1


def test_majority_breaks_ties_by_mean_halt_logit():
    assert pick("majority", [A, A, B, B], halt=[5.0, 0.0, 3.0, 3.0]) == 2  # means 2.5 and 3
    assert pick("majority", [A, B, C], halt=[0.0, 2.0, 1.0]) == 1
    assert pick("majority", [A, B, B], halt=[0.0, np.nan, np.nan]) == 1


def test_verified_takes_the_first_that_passes_or_falls_back():
    assert pick("verified", [A, B, C], halt=[9.0, 0.0, 1.0], passed=[False, True, True]) == 1
    assert pick("verified", [A, B, C], halt=[0.0, 9.0, 1.0]) == 1


def test_every_puzzle_chooses_for_itself():
    answers = np.array([[A, B], [A, B]], np.uint8)
    halt, passed = np.array([[1.0, 0.0], [0.0, 1.0]]), np.zeros((2, 2), bool)
    assert choose("halt", answers, halt, halt, halt, passed).tolist() == [0, 1]


def test_the_chosen_rollout_is_the_one_reported():
    puzzles = tiny_puzzles(6)
    answers = solve(tiny_model(), puzzles, segments=3, restarts=4, noise=1.0, select="halt")
    n = np.arange(6)
    assert len(set(answers.rollout)) > 1
    np.testing.assert_array_equal(answers.tokens, answers.rollouts[n, answers.rollout])
    np.testing.assert_array_equal(answers.verified, puzzles.task.verify(puzzles.inputs, answers.tokens))


def test_verified_flag():
    puzzles = tiny_puzzles(4)
    assert solve(Approach(0.1), puzzles, segments=3).verified.all()
    assert not solve(tiny_model(), puzzles, segments=3).verified.any()


def test_verified_finds_the_only_right_rollout():
    """From far away starts the approach needs several segments: only the plain start arrives in time."""
    puzzles = tiny_puzzles(4)
    answers = solve(Approach(0.25), puzzles, segments=2, restarts=4, noise=8.0, select="verified")
    right = (answers.rollouts == puzzles.labels[:, None]).all(2)
    assert right[:, 0].all()
    assert not right[:, 1:].all()
    assert (answers.rollout == 0).all()
    assert answers.verified.all()


def test_restarts_reproduce_and_do_not_depend_on_batches():
    model, puzzles = tiny_model(), tiny_puzzles(7)
    kw = {"segments": 3, "restarts": 3, "noise": 0.5, "seed": 3}
    one, again, single = (solve(model, puzzles, **kw, batch_size=size) for size in (7, 7, 2))
    np.testing.assert_array_equal(one.rollouts, again.rollouts)
    np.testing.assert_array_equal(one.rollouts, single.rollouts)
    np.testing.assert_allclose(one.residual, single.residual, rtol=1e-3)
    other = solve(model, puzzles, **(kw | {"seed": 4}))
    np.testing.assert_array_equal(one.rollouts[:, 0], other.rollouts[:, 0])  # the plain start has no seed
    assert (one.rollouts[:, 1:] != other.rollouts[:, 1:]).any()
    assert (one.rollouts[:, 1] != one.rollouts[:, 2]).any()


def test_without_noise_all_rollouts_are_the_plain_one():
    answers = solve(tiny_model(), tiny_puzzles(3), segments=3, restarts=3, noise=0.0)
    np.testing.assert_array_equal(answers.rollouts, answers.rollouts[:, :1].repeat(3, 1))


def test_trace():
    model, puzzles = tiny_model(), tiny_puzzles(5)
    answers = solve(model, puzzles, segments=6, trace=True, batch_size=2)
    assert answers.trace.shape == (5, 6, 16)
    assert answers.trace_halt_logit.shape == answers.trace_residual.shape == (5, 6)
    for t in (1, 4):
        np.testing.assert_array_equal(answers.trace[:, t - 1], solve(model, puzzles, segments=t).tokens)
    np.testing.assert_array_equal(answers.tokens, answers.trace[:, -1])
    np.testing.assert_allclose(answers.residual, answers.trace_residual[:, -4:].mean(1))
    without = solve(model, puzzles, segments=2)
    assert without.trace is without.trace_halt_logit is without.trace_residual is None


def test_residual_of_the_analytic_map():
    rate, t = 0.7, np.arange(1, 7)
    answers = solve(Approach(rate), tiny_puzzles(2), segments=6, trace=True)
    exact = rate ** (t - 1) * (1 - rate) / (1 - rate**t)
    np.testing.assert_allclose(answers.trace_residual, exact[None].repeat(2, 0), rtol=1e-9)
    np.testing.assert_allclose(answers.residual, exact[-4:].mean(), rtol=1e-9)


def test_labels_are_not_looked_at():
    model, puzzles = tiny_model(), tiny_puzzles(3)
    blind = dataclasses.replace(puzzles, labels=None)
    np.testing.assert_array_equal(
        solve(model, puzzles, segments=2).tokens, solve(model, blind, segments=2).tokens
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"select": "best"}, "select=best: unknown rule. Choose one of halt, residual, logit_change,"),
        ({"segments": 0}, r"segments=\[0\]: expected positive numbers"),
        ({"restarts": 0}, "restarts=0"),
        ({"noise": -0.1}, "noise=-0.1"),
        ({"noise": float("nan")}, "noise=nan"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(UserError, match=message):
        solve(tiny_model(), tiny_puzzles(1), **arguments)


def test_arc_answers_cannot_be_verified():
    blank = np.ones((1, 900), np.uint8)
    tasks = PuzzleSet(Arc(), blank, None, np.zeros(1, np.int32), name="arc")
    with pytest.raises(UserError, match=r"select=verified: arc-30x30 has no rules to go by\. Choose another"):
        solve(tiny_model(seq_len=900, vocab_size=12), tasks, restarts=2, select="verified")


# -- perturbed starts


def test_noise_is_in_units_of_each_part_and_row():
    generator = torch.Generator().manual_seed(0)
    wide = torch.randn(2, 40, 50, generator=generator) * torch.tensor([1.0, 10.0])[:, None, None] + 3
    z0 = Pair(wide, 0.1 * wide)
    moved = perturbed_start(z0, 0.5, seed=0, restart=1, puzzle_index=np.arange(2))
    for new, old in zip(moved, z0, strict=True):
        size = (new - old).flatten(1).std(1) / old.flatten(1).std(1)
        assert size.tolist() == pytest.approx([0.5, 0.5], rel=0.05)


def test_a_constant_start_is_moved_by_sigma_itself():
    moved = perturbed_start(torch.zeros(1, 5000), 0.5, seed=0, restart=1, puzzle_index=np.arange(1))
    assert float(moved.std()) == pytest.approx(0.5, rel=0.05)


def test_every_puzzle_and_restart_has_noise_of_its_own_and_sigma_scales_it():
    z0 = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))

    def move(sigma, restart, index):
        return perturbed_start(z0, sigma, seed=0, restart=restart, puzzle_index=index) - z0

    plain = move(1.0, 0, np.arange(3))
    torch.testing.assert_close(move(2.0, 0, np.arange(3)), 2 * plain)
    torch.testing.assert_close(move(1.0, 0, np.array([2, 1, 0]))[1], plain[1])
    noise = plain / z0.std(1, correction=0, keepdim=True)
    assert not torch.allclose(noise[0], noise[1])
    assert not torch.allclose(move(1.0, 1, np.arange(3)), plain)
