"""Levers of inference, each where its effect is known: on a map with exact orbits and on fakes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import loopscope as ls
from loopscope.errors import UserError
from loopscope.evaluation.evaluate import evaluate
from loopscope.evaluation.levers import Levers, in_words, may_stop
from loopscope.evaluation.rollouts import all_jobs, follow
from loopscope.evaluation.solve import solve
from loopscope.evaluation.starts import kicked, random_start, row_keys
from loopscope.evaluation.views import draw_views
from loopscope.tasks import Maze, Sudoku
from loopscope.tasks.maze.generate import generate as mazes
from tiny import Approach, Pair, Readout, tiny_model, tiny_puzzles

RULES = ("halt", "settled", "unchanged", "halt+unchanged")


def at_stop(rule, trace, halt, residual):
    """The segment (1-based) at which a rule ends one orbit, by hand."""
    last = len(halt)
    for t in range(1, last + 1):
        same = [t - back >= 1 and (trace[t - 1] == trace[t - 1 - back]).all() for back in (1, 2)]
        if {
            "halt": halt[t - 1] >= 0,
            "settled": residual[t - 1] < 0.02,
            "unchanged": t > 2 and all(same),
            "halt+unchanged": halt[t - 1] >= 0 and t > 1 and same[0],
        }[rule]:
            return t
    return last


# -- stop rules and compaction


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    "system",
    [Approach(0.7), tiny_model(forward_dtype="float64")],  # a random network is chaotic: rounding grows
    ids=["analytic", "tiny"],
)
def test_stopping_gives_the_answer_of_that_segment(system, rule):
    puzzles = tiny_puzzles(9)
    whole = solve(system, puzzles, segments=12, trace=True, batch_size=9)
    ends = [
        at_stop(rule, *orbit)
        for orbit in zip(whole.trace, whole.trace_halt_logit, whole.trace_residual, strict=True)
    ]
    for size in (1, 4, 9):
        early = solve(system, puzzles, segments=12, stop=rule, batch_size=size, trace=True)
        assert early.segments[:, 0].tolist() == ends
        assert early.applications.tolist() == [t * system.applications_per_segment for t in ends]
        for i, t in enumerate(ends):
            np.testing.assert_array_equal(early.tokens[i], whole.trace[i, t - 1])
            np.testing.assert_array_equal(early.trace[i, t:], early.tokens[i][None].repeat(12 - t, 0))
            assert np.isnan(early.trace_residual[i, t:]).all()
            late = whole.trace_residual[i, max(t - 4, 0) : t].mean()
            assert early.residual[i] == pytest.approx(late, rel=1e-3)
    if isinstance(system, Approach):  # else the test could not fail
        assert min(ends) < 12


def test_free_slots_are_filled_at_once():
    puzzles, levers = tiny_puzzles(10), Levers(12, stop="halt+unchanged")
    used = solve(Approach(0.7), puzzles, segments=12, stop="halt+unchanged").segments[:, 0]
    assert len(set(used)) > 1
    jobs = all_jobs(10, levers)
    sizes = [len(s.job) for s, _ in follow(Approach(0.7), puzzles, jobs, levers, None, 3)]
    assert sum(sizes) == used.sum()
    assert max(sizes) == 3
    assert all(size == 3 for size in sizes[: sum(used[:7]) // 3])  # full while jobs wait


def test_rules_at_their_borders():
    halt = torch.tensor([0.0, -1e-9, torch.nan])
    residual, same = torch.tensor([0.02, 0.0199, torch.nan]), torch.tensor([1, 2, 3])
    expected = {
        "budget": [False] * 3,
        "halt": [True, False, False],
        "settled": [False, True, False],
        "unchanged": [False, True, True],
        "halt+unchanged": [True, False, False],
    }
    for rule, ends in expected.items():
        assert may_stop(rule, halt, residual, same).tolist() == ends


# -- restarts and noise


@pytest.mark.parametrize(
    "levers", [{"start": "random"}, {"segment_noise": 0.5}, {"views": 3}, {"stop": "unchanged"}], ids=str
)
def test_rollouts_do_not_depend_on_batches(levers):
    model, puzzles = tiny_model(), tiny_puzzles(5)
    given = {"segments": 3, "restarts": 3, "noise": 0.5, "seed": 3} | levers
    one, again, small = (solve(model, puzzles, **given, batch_size=size) for size in (15, 15, 4))
    np.testing.assert_array_equal(one.rollouts, again.rollouts)
    np.testing.assert_array_equal(one.rollouts, small.rollouts)
    np.testing.assert_allclose(one.residual, small.residual, rtol=1e-3)
    fewer = solve(model, puzzles, **(given | {"restarts": 2}))
    np.testing.assert_array_equal(fewer.rollouts, one.rollouts[:, : fewer.rollouts.shape[1]])
    other = solve(model, puzzles, **(given | {"seed": 4}))
    assert (one.rollouts[:, 1:] != other.rollouts[:, 1:]).any()


def test_random_starts_forget_the_plain_one():
    model, puzzles = tiny_model(), tiny_puzzles(4)
    ctx = model.encode(puzzles.batch())
    z0 = model.initial_state(ctx)
    which = {"seed": 0, "restart": np.ones(4, int), "puzzle_index": np.arange(4)}
    drawn = random_start(model, ctx, z0, **which)
    for new, old in zip(drawn, z0, strict=True):
        assert abs(float(torch.corrcoef(torch.stack([new[0].ravel(), old[0].ravel()]))[0, 1])) < 0.2
        assert float(new.std()) == pytest.approx(float(old.std()), rel=0.1)
    trained_so = tiny_model(random_init=True)
    z0 = trained_so.initial_state(ctx)
    drawn = random_start(trained_so, ctx, z0, **which)
    assert float(drawn.z_H.abs().max()) < 2.5  # the cut normal of training, not a plain one
    assert float(drawn.z_H.std()) == pytest.approx(1, rel=0.1)
    assert not torch.equal(drawn.z_H[0], drawn.z_H[1])


def test_noise_before_segments_acts_on_every_rollout_and_is_keyed():
    model, puzzles = tiny_model(), tiny_puzzles(6)
    plain = solve(model, puzzles, segments=3, restarts=2, noise=0.0)
    noisy = solve(model, puzzles, segments=3, restarts=2, noise=0.0, segment_noise=1.0)
    assert (plain.rollouts[:, 0] == plain.rollouts[:, 1]).all()
    assert (noisy.rollouts[:, 0] != plain.rollouts[:, 0]).any()
    assert (noisy.rollouts[:, 0] != noisy.rollouts[:, 1]).any()
    silent = solve(model, puzzles, segments=3, restarts=2, noise=0.0, segment_noise=0.0)
    np.testing.assert_array_equal(silent.rollouts, plain.rollouts)


def test_a_kick_has_the_size_asked_for_and_the_key_of_its_row():
    wide = torch.randn(2, 40, 50, generator=torch.Generator().manual_seed(0))
    z = Pair(10 * wide + 3, wide)
    keys = row_keys(torch.zeros(2, dtype=torch.int64), torch.arange(2), torch.ones(2, dtype=torch.int64))
    moved = kicked(z, 0.5, keys)
    noise = [(new - old) / old.flatten(1).std(1).view(-1, 1, 1) for new, old in zip(moved, z, strict=True)]
    assert [float(part.std()) for part in noise] == pytest.approx([0.5, 0.5], rel=0.05)
    assert abs(float((noise[0] * noise[1]).mean())) < 0.02  # the parts have noise of their own
    swapped = kicked(Pair(z.z_H.flip(0), z.z_L.flip(0)), 0.5, keys.flip(0))
    torch.testing.assert_close(swapped.z_H.flip(0), moved.z_H)
    assert len(set(row_keys(torch.zeros(9, dtype=torch.int64), torch.arange(9)).tolist())) == 9


# -- views


class Mirror:
    """Answers with the question itself: whatever view it is shown, undoing the view gives the question."""

    applications_per_segment = 1

    def encode(self, batch):
        return batch.inputs

    def initial_state(self, ctx):
        return ctx.double()

    def segment(self, z, ctx):
        return z

    def readout(self, z, ctx):
        return Readout(torch.nn.functional.one_hot(ctx, 12).float(), z[:, 0])


@pytest.mark.parametrize("task", [Sudoku(), Sudoku(2, 3), Maze(5, 5), Maze(4, 6)], ids=lambda t: t.name)
def test_views_of_an_equivariant_model_are_undone_exactly(task):
    if isinstance(task, Maze):
        puzzles = mazes(task, 6, 3, np.random.default_rng(0))
    else:
        from loopscope.tasks.sudoku.generate import generate

        puzzles = generate(task, 6, task.seq_len // 2, np.random.default_rng(0))
    views = draw_views(task, 4, 0, np.arange(6))
    puzzle, view = np.repeat(np.arange(6), 4), np.tile(np.arange(4), 6)
    shown = views.show(puzzles.inputs[puzzle], puzzle, view)
    solved = views.show(puzzles.labels[puzzle], puzzle, view)
    assert (shown != puzzles.inputs[puzzle]).any()
    assert task.verify(shown, solved).all()  # a symmetry: solutions stay solutions
    np.testing.assert_array_equal(shown[::4], puzzles.inputs)
    np.testing.assert_array_equal(views.undo(solved, puzzle, view), puzzles.labels[puzzle])
    answers = solve(Mirror(), puzzles, segments=1, views=4, restarts=2, select="majority")
    np.testing.assert_array_equal(answers.rollouts, puzzles.inputs[:, None].repeat(8, 1))


def test_more_views_keep_the_first_ones():
    few, many = (draw_views(Sudoku(), count, 5, np.arange(3)) for count in (2, 5))
    np.testing.assert_array_equal(few.cells, many.cells[:, :2])
    assert len({row.tobytes() for row in many.cells.reshape(15, -1)}) == 13  # three identities


def test_a_maze_has_eight_views_and_an_oblong_one_four():
    views = draw_views(Maze(5, 5), 8, 0, np.arange(2))
    assert all(len({row.tobytes() for row in of}) == 8 for of in views.cells)
    with pytest.raises(UserError, match="views=5: maze-4x6 has 4 symmetries"):
        draw_views(Maze(4, 6), 5, 0, np.arange(2))


# -- ensembles


def test_an_ensemble_of_one_is_that_one_and_of_two_the_rollouts_of_both():
    one, two, puzzles = tiny_model(), tiny_model(), tiny_puzzles(5)
    torch.nn.init.normal_(two.lm_head.weight, generator=torch.Generator().manual_seed(9))
    given = {"segments": 2, "restarts": 2, "select": "majority"}
    alone, listed = solve(one, puzzles, **given), solve([one], puzzles, **given)
    np.testing.assert_array_equal(alone.rollouts, listed.rollouts)
    np.testing.assert_array_equal(alone.halt_logit, listed.halt_logit)
    both = solve([one, two], puzzles, **given)
    np.testing.assert_array_equal(both.rollouts[:, :2], alone.rollouts)
    np.testing.assert_array_equal(both.rollouts[:, 2:], solve(two, puzzles, **given).rollouts)
    assert both.applications.tolist() == [2 * 2 * 2 * 6] * 5
    assert both.flops.tolist() == pytest.approx([24 * (one.application_flops + two.application_flops)] * 5)


def test_outvoted():
    """Two right models against one that is sure of something else."""
    puzzles = tiny_puzzles(4)
    answers = solve([tiny_model(), Approach(0.1), Approach(0.2)], puzzles, segments=4, select="majority")
    assert (answers.tokens == puzzles.labels).all()
    assert (answers.rollout > 0).all()


# -- scores


def test_costs_of_an_evaluation():
    puzzles = tiny_puzzles(6)
    early = evaluate(Approach(0.7), puzzles, segments=[4, 12], stop="halt+unchanged")
    for t in (4, 12):
        used = solve(Approach(0.7), puzzles, segments=t, stop="halt+unchanged").segments
        assert early.applications[t] == early.costs[t].applications == used.mean()
        assert early.costs[t].seconds > 0
        assert np.isnan(early.costs[t].flops)
    assert "pass_at_k" not in early.scores[4]
    model = tiny_model()
    plain = evaluate(model, puzzles, segments=[1, 3])
    assert plain.costs[3].flops == pytest.approx(18 * model.application_flops)
    assert plain.to_dict()["flops_per_puzzle"][1] == pytest.approx(6 * model.application_flops)
    assert plain.costs[1].seconds < plain.costs[3].seconds


def test_words():
    assert in_words(Levers(restarts=3, select="majority").to_dict()) == (
        "3 rollouts, noise 0.3, chosen by majority"
    )
    said = in_words(Levers(views=4, stop="halt", segment_noise=0.2).to_dict(), models=2)
    assert said == (
        "2 models, 4 views of each puzzle, noise 0.2 before every segment, stopped by halt, chosen by halt"
    )


@pytest.mark.parametrize(
    ("levers", "message"),
    [
        ({"start": "cold"}, "start=cold: unknown start. Choose one of perturbed, random."),
        ({"stop": "never"}, "stop=never: unknown rule. Choose one of budget, halt, settled"),
        ({"views": 0}, "views=0: expected at least 1"),
        ({"segment_noise": float("inf")}, "segment_noise=inf: expected a finite number from 0 up"),
    ],
)
def test_mistakes(levers, message):
    with pytest.raises(UserError, match=message):
        solve(tiny_model(), tiny_puzzles(1), **levers)


def test_no_model_at_all():
    with pytest.raises(UserError, match="expected at least one model"):
        evaluate([], tiny_puzzles(1))


# -- the shipped model


def test_stopping_and_votes_on_the_shipped_model():
    model, puzzles = ls.load("sudoku9-cpu", dtype="float32"), ls.read_puzzles("sudoku9-demo", limit=8)
    whole = solve(model, puzzles, segments=8, batch_size=8)
    early = solve(model, puzzles, segments=8, stop="halt+unchanged", batch_size=3)
    np.testing.assert_array_equal(whole.tokens, early.tokens)
    assert early.applications.sum() < 0.75 * whole.applications.sum()
    voted = solve(model, puzzles, segments=5, views=3, stop="halt+unchanged", select="majority")
    assert (voted.tokens == puzzles.labels).all(1).mean() >= 0.75
