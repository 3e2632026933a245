"""Budgets and policies, and sweeps with their front."""

from __future__ import annotations

import itertools
import json
import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from loopscope.cli import main
from loopscope.errors import UserError
from loopscope.evaluation import anytime as module
from loopscope.evaluation.anytime import anytime, luby, moments
from loopscope.evaluation.budget import evaluate_budget
from loopscope.evaluation.evaluate import evaluate
from loopscope.evaluation.levers import Levers
from loopscope.evaluation.solve import solve
from loopscope.evaluation.starts import perturbed_start
from loopscope.evaluation.sweep import labels, pareto_front, parse_grid, run_sweep
from loopscope.models.folder import save_model
from loopscope.tasks import write_puzzles
from tiny import Approach, tiny_model, tiny_puzzles

# -- policies


def test_luby_as_published():
    assert [luby(n) for n in range(1, 16)] == [1, 1, 2, 1, 1, 2, 4, 1, 1, 2, 1, 1, 2, 4, 8]
    assert sum(luby(n) for n in range(1, 2**10)) == 10 * 2**9  # k 2^(k-1) for the first 2^k - 1 entries


def test_deepening_is_one_orbit():
    model, puzzles = tiny_model(), tiny_puzzles(5)
    found = anytime(model, puzzles, budget=6 * 5, batch_size=5)
    assert found.spent.tolist() == [[6, 12, 18, 24, 30]] * 5
    plain = solve(model, puzzles, segments=5, trace=True)
    np.testing.assert_array_equal(found.tokens, plain.trace)
    np.testing.assert_allclose(found.confidence, 1 / (1 + np.exp(-plain.trace_halt_logit)), rtol=1e-4)
    assert (found.rollout == 0).all()


@pytest.mark.parametrize(("policy", "lengths"), [("restart", [2, 2, 2]), ("luby", [2, 2, 4])])
def test_new_orbits_are_those_of_solve_and_the_best_end_is_kept(policy, lengths):
    model, puzzles = tiny_model(), tiny_puzzles(6)
    found = anytime(model, puzzles, budget=6 * sum(lengths), policy=policy, cutoff=2, noise=1.0, batch_size=6)
    halt, tokens = [], []
    for number, length in enumerate(lengths):
        orbit = solve(model, puzzles, segments=length, restarts=3, noise=1.0, batch_size=18)
        tokens.append(orbit.rollouts[:, number])
        halt.append(ended(model, puzzles, length, number))
    best = np.argmax(halt, axis=0)
    assert len(set(best)) > 1
    assert found.rollout[:, -1].tolist() == best.tolist()
    np.testing.assert_array_equal(found.tokens[:, -1], np.array(tokens)[best, np.arange(6)])
    after = np.cumsum(lengths)[:2] - 1  # the end of an orbit is never forgotten
    assert (np.diff(found.confidence[:, [*after, -1]], axis=1) >= 0).all()


def ended(model, puzzles, segments, number):
    """Halt logits at the end of one restart, each puzzle by itself."""
    ctx = model.encode(puzzles.batch())
    z = model.initial_state(ctx)
    if number:
        z = perturbed_start(z, 1.0, seed=0, restart=number, puzzle_index=np.arange(len(puzzles)))
    for _ in range(segments):
        z = model.segment(z, ctx)
    return model.readout(z, ctx).halt_logit.detach().numpy()


@pytest.mark.parametrize("policy", module.POLICIES)
def test_budgets_are_kept(policy):
    for budget in (6, 11, 12, 47):
        found = anytime(tiny_model(), tiny_puzzles(3), budget=budget, policy=policy, cutoff=2, batch_size=2)
        assert found.spent.max() <= budget < found.spent.max() + 6


def test_seconds_are_kept_and_batches_may_differ(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))  # a second per segment
    found = anytime(Approach(0.7), tiny_puzzles(5), seconds=2.0, batch_size=3)
    assert found.seconds.max() <= 2.0
    assert found.spent[:3].max(axis=1).tolist() == [6, 6, 6]  # 3 puzzles, 2 s each
    assert found.spent[3:].max(axis=1).tolist() == [4, 4]
    assert found.spent[4].tolist() == [1, 2, 3, 4, 4, 4]
    np.testing.assert_array_equal(found.tokens[4, 3], found.tokens[4, 5])


def test_moments_are_those_of_a_set_and_can_be_left_at_any_time():
    model, puzzles = tiny_model(), tiny_puzzles(4)
    how = {"policy": "luby", "cutoff": 1, "noise": 1.0}
    whole = anytime(model, puzzles, budget=6 * 7, batch_size=4, **how)
    watched = moments(model, puzzles, seconds=3600.0, **how)
    for column, moment in zip(range(7), watched, strict=False):
        np.testing.assert_array_equal(moment.tokens, whole.tokens[:, column])
        np.testing.assert_array_equal(moment.rollout, whole.rollout[:, column])
        assert moment.spent == whole.spent[0, column]
    with pytest.raises(UserError, match="unknown policy"):  # at once, not at the first moment
        moments(model, puzzles, budget=6, policy="hope")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "expected one of the two"),
        ({"budget": 6, "seconds": 1.0}, "expected one of the two"),
        ({"budget": 5}, "one segment of this model takes 6 block applications"),
        ({"seconds": 0.0}, "seconds=0.0: expected more than 0"),
        (
            {"budget": 6, "policy": "hope"},
            "policy=hope: unknown policy. Choose one of deepen, restart, luby.",
        ),
        ({"budget": 6, "cutoff": 0}, "cutoff=0: expected at least 1 segment"),
    ],
)
def test_mistakes(arguments, message):
    with pytest.raises(UserError, match=message):
        anytime(tiny_model(), tiny_puzzles(1), **arguments)


# -- scores along the way


def test_scores_of_deepening_are_those_of_its_segments():
    model, puzzles = tiny_model(), tiny_puzzles(30, 13)
    found = evaluate_budget(model, puzzles, budget=6 * 5 + 2, batch_size=7, answers=True)
    plain = evaluate(model, puzzles, segments=[1, 2, 4, 5], batch_size=7, answers=True)
    assert list(found.scores) == [1, 2, 4, 5]
    for t, columns in found.outcomes.items():
        for name, column in columns.items():
            np.testing.assert_array_equal(column, plain.outcomes[t][name])
        assert found.costs[t].applications == 6 * t
        assert found.costs[t].flops == plain.costs[t].flops
    for name in ("exact_accuracy", "cell_accuracy", "halt_accuracy", "risk_area"):
        assert found.scores[5][name] == plain.scores[5][name]
    assert 0 < found.scores[5]["cell_accuracy"].value < 1
    assert found.bands == plain.bands


@pytest.mark.parametrize("policy", ["restart", "luby"])
def test_scores_of_new_orbits_are_of_the_answers_of_anytime(policy):
    model, puzzles = tiny_model(), tiny_puzzles(9)
    how = {"budget": 6 * 6, "policy": policy, "cutoff": 1, "noise": 1.0, "seed": 3, "batch_size": 4}
    found, moments_of = evaluate_budget(model, puzzles, answers=True, **how), anytime(model, puzzles, **how)
    for t in (1, 2, 4, 6):
        np.testing.assert_array_equal(found.outcomes[t]["answer"], moments_of.tokens[:, t - 1])
        right = (moments_of.tokens[:, t - 1] == puzzles.labels).mean()
        assert found.scores[t]["cell_accuracy"].value == pytest.approx(right)
    assert (found.outcomes[6]["answer"] != found.outcomes[1]["answer"]).any()
    assert {key: found.facts[key] for key in how if key != "batch_size"} == {
        key: value for key, value in how.items() if key != "batch_size"
    }


def test_seconds_are_scored_at_their_end(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))  # a second per segment
    found = evaluate_budget(Approach(0.7), tiny_puzzles(5), seconds=2.0, batch_size=3)
    assert list(found.scores) == [6]  # the most that a batch of 3 puzzles ran; the other one ran 4
    assert found.costs[6].applications == pytest.approx((3 * 6 + 2 * 4) / 5)
    assert found.costs[6].seconds == 2.0


def test_a_budget_at_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_model(tiny_model(), tmp_path / "model")
    write_puzzles(tiny_puzzles(6), "data.csv")
    told = "eval model --data data.csv --budget 20 --policy restart --cutoff 2 --json s.json --out a.csv"
    assert main_code(told) == 0
    shown = capsys.readouterr().out
    assert "budget 20 block applications per puzzle, policy restart: a new orbit every 2 segments" in shown
    known = json.loads((tmp_path / "s.json").read_text())
    assert list(known["segments"]) == ["1", "2", "3"]
    assert (known["budget"], known["policy"], known["cutoff"]) == (20, "restart", 2)
    assert pd.read_csv("a.csv")["segments"].tolist() == [3] * 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--budget 5", "one segment of this model takes 6 block applications"),
        ("--budget 12 --segments 9", "--segments 9: cannot be combined with --budget"),
        ("--budget 12 --ensemble model", "--ensemble model: cannot be combined with --budget"),
        ("--budget 12 --sweep views=1,2", "--sweep views=1,2: cannot be combined with --budget"),
        ("--policy luby", "--policy luby: has no effect without --budget"),
    ],
)
def test_a_budget_that_does_not_go_is_one_line(tmp_path, monkeypatch, capsys, options, message):
    monkeypatch.chdir(tmp_path)
    save_model(tiny_model(), tmp_path / "model")
    write_puzzles(tiny_puzzles(2), "data.csv")
    assert main_code(f"eval model --data data.csv {options}") == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def main_code(line):
    with pytest.raises(SystemExit) as caught:
        main(line.split())
    return caught.value.code


# -- sweeps


def test_grid():
    points = parse_grid("segments=16,64 restarts=1,4 stop=budget,halt+unchanged", {"noise": 0.5})
    assert len(points) == 8
    assert points[0] == Levers(16, noise=0.5)
    assert points[-1] == Levers(64, restarts=4, noise=0.5, stop="halt+unchanged")
    assert parse_grid("views=1,1", {}, [8]) == [Levers(8)]


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("", "--sweep: is empty"),
        ("segment=16", "--sweep segment=16: unknown lever. Did you mean segments?"),
        ("segments", "--sweep segments: expected lever=value,value"),
        ("segments=", "--sweep segments=: expected lever=value,value"),
        ("segments=1,x", "--sweep segments=1,x: expected numbers"),
        ("segments=0", "segments=0: expected at least 1"),
        ("stop=never", "stop=never: unknown rule"),
    ],
)
def test_grid_mistakes(grid, message):
    with pytest.raises(UserError, match=re.escape(message)):
        parse_grid(grid, {})


def test_front_by_hand_and_by_brute_force():
    cost, right = np.array([1.0, 2, 2, 3, 4]), np.array([0.5, 0.7, 0.6, 0.7, 0.9])
    assert pareto_front(cost, right).tolist() == [True, True, False, False, True]
    assert pareto_front(np.ones(2), np.ones(2)).tolist() == [True, True]  # equals do not beat each other
    rng = np.random.default_rng(0)
    cost, right = rng.integers(0, 9, 40).astype(float), rng.integers(0, 9, 40).astype(float)
    for i, found in enumerate(pareto_front(cost, right)):
        beaten = any(
            c <= cost[i] and r >= right[i] and (c, r) != (cost[i], right[i])
            for c, r in zip(cost, right, strict=True)
        )
        assert found == (not beaten)


def test_names_tell_settings_apart():
    grid = parse_grid("segments=8,16 restarts=1,4 noise=0.3,1 stop=budget,halt", {})
    assert labels(grid)[0] == "8 segments"
    assert labels(grid)[-1] == "16 segments, 4 restarts, noise 1, halt"
    assert labels([Levers()]) == ["one setting"]
    assert labels([Levers(), Levers(restarts=4)]) == ["1 restart", "4 restarts"]
    assert labels([Levers(restarts=4), Levers(restarts=4, select="majority")]) == ["halt", "majority"]


def test_settings_that_do_the_same_are_run_once():
    grid = parse_grid("segments=2 restarts=1,2 noise=0.3,1 select=halt,majority", {})
    points, facts = run_sweep(tiny_model(), tiny_puzzles(4), grid)
    assert [p.cost.applications for p in points] == [12, 24, 24, 24, 24]
    assert facts["n"] == 4
    assert "restarts" not in facts


def test_sweep_on_the_command_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_model(tiny_model(), tmp_path / "model")
    write_puzzles(tiny_puzzles(3), tmp_path / "puzzles.csv")
    words = ["eval", "model", "--data", "puzzles.csv", "--sweep", "segments=1,2 stop=budget,halt"]
    with pytest.raises(SystemExit) as caught:
        main([*words, "--json", "s.json", "--figure", "s.svg"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert re.search(r"^setting +exact +applications +GFLOP +ms per puzzle$", out, re.M)
    assert "* on the front" in out
    found = json.loads((tmp_path / "s.json").read_text())
    assert found["n"] == 3
    cost = [point["applications"] for point in found["points"]]
    assert cost == sorted(cost)
    assert len(cost) == 4
    table = pd.read_csv(tmp_path / "s.csv")
    assert table["label"].tolist() == [point["label"] for point in found["points"]]
    text = "".join(ElementTree.parse(tmp_path / "s.svg").getroot().itertext())
    assert "block applications per puzzle" in text
    assert "2 segments" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--figure a.svg", "--figure a.svg: only a sweep is drawn"),
        ("--sweep segments=1 --figure a.pdf", "expected a name that ends in .svg or .png"),
        ("--sweep segments=1 --out a.csv", "--out a.csv: a sweep keeps no answers"),
        ("--sweep segmnts=1", "Did you mean segments?"),
        ("--stop never", "stop=never: unknown rule"),
        ("--views 0", "Invalid value for '--views'"),
        ("--ensemble nothing", "nothing: no such model"),
    ],
)
def test_command_line_mistakes(options, message, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["eval", "sudoku6-cpu", "--data", "sudoku6-test", "--limit", "1", *options.split()])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
