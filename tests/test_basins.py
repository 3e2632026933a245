"""Restarts, basins and restart times, against closed forms, enumeration and systems with known basins."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from loopscope.dynamics.basins import basin_entropy, basin_stability, best_of, follow_basins, outcome_split
from loopscope.dynamics.restart_times import (
    expected_time,
    luby,
    optimal_cutoff,
    restart_advantage,
    restart_policy,
    solved_within,
)
from loopscope.dynamics.restarts import kick
from loopscope.errors import UserError
from loopscope.evaluation.intervals import clopper_pearson, wilson
from tiny import tiny_model, tiny_puzzles


class Sides(NamedTuple):
    """Starts, the right side (1 or 2) as label."""

    start: Tensor
    labels: Tensor


class State(NamedTuple):
    z_H: Tensor
    z_L: Tensor


class Well:
    """z_H' = 2 z_H - z_H^3, z_L' = z_L / 2; the answer is the sign of z_H."""

    applications_per_segment = 2

    def encode(self, batch: Sides) -> Sides:
        return batch

    def initial_state(self, ctx: Sides) -> State:
        return State(ctx.start, torch.zeros_like(ctx.start))

    def segment(self, z: State, ctx: Sides) -> State:
        return State(2 * z.z_H - z.z_H**3, z.z_L / 2)

    def readout(self, z: State, ctx: Sides) -> Any:
        sign = torch.where(z.z_H > 0, 1.0, -1.0)
        logits = torch.stack((torch.full_like(sign, -9), -sign, sign), dim=-1)
        return type("Readout", (), {"logits": logits, "halt_logit": sign[:, 0]})


def sides(starts: list[float]) -> Sides:
    start = torch.tensor(starts, dtype=torch.float64)[:, None]
    return Sides(start, torch.full((len(starts), 1), 2))


def test_basin_of_a_half_line() -> None:
    """From x with noise sigma the answer is right with probability Phi(x / sigma)."""
    found = follow_basins(Well(), sides([0.0, 0.1, -0.1, 0.3]), sigmas=[0.1, 0.2], restarts=100, segments=12)
    stability = basin_stability(found.solved.values & found.final.values, resamples=50)
    exact = 0.5 * (1 + np.vectorize(math.erf)(np.array([[0.0], [0.1], [-0.1], [0.3]]) / [0.1, 0.2] / 2**0.5))
    assert (np.abs(stability.value - exact) < 4 * np.sqrt(exact * (1 - exact) / 100) + 1e-2).all()
    assert stability.low[0, 0] == wilson(int(found.final[0, 0].sum()), 100).low
    assert found.answer.values.max() == 1
    assert found.displacement.attrs["units"] == "1"


def test_parts_and_moment_of_the_kick() -> None:
    batch = sides([0.2, -0.2])
    settings: dict[str, Any] = {"sigmas": [3.0], "restarts": 20, "segments": 25}
    idle = follow_basins(Well(), batch, **settings, parts=["z_L"])
    assert idle.final.values[0].all()  # z_L decides nothing
    assert not idle.final.values[1].any()
    late = follow_basins(Well(), batch, sigmas=[0.3], restarts=20, segments=25, at=8)
    assert late.final.values[0].all()  # by then the orbits are near +1 and -1, out of reach
    assert not late.solved.values[1].any()
    assert late.solved_before.values.tolist() == [True, False]
    z = State(torch.ones(2, 3), torch.ones(2, 3))
    moved = kick(z, 0.5, parts=["z_H"], seed=0, restart=1, puzzle_index=np.arange(2))
    assert torch.equal(moved.z_L, z.z_L)
    assert not torch.equal(moved.z_H, z.z_H)
    with pytest.raises(UserError, match=r"parts=\['z_X'\]: expected fields of the latent \(z_H, z_L\)"):
        kick(z, 0.5, parts=["z_X"], seed=0, restart=1, puzzle_index=np.arange(2))


def test_basins_of_a_network_do_not_depend_on_batching() -> None:
    model, batch = tiny_model(), tiny_puzzles(6).batch()
    whole = follow_basins(model, batch, sigmas=[0.0, 1.0], restarts=3, segments=3, parts=["z_H"])
    parts = follow_basins(
        model, batch, sigmas=[0.0, 1.0], restarts=3, segments=3, parts=["z_H"], batch_size=4
    )
    np.testing.assert_allclose(whole.displacement, parts.displacement, atol=1e-5)
    assert (whole.answer[:, 0] == whole.answer[:, 0, 0]).all()  # no kick, one answer
    assert (whole.displacement[:, 0] == 0).all()
    assert (whole.displacement[:, 1] > 0).all()


def test_best_of_by_enumeration() -> None:
    solved = np.random.default_rng(0).random((5, 6)) < 0.3
    for k in (1, 2, 5, 6):
        any_of = [np.mean([row[list(c)].any() for c in combinations(range(6), k)]) for row in solved]
        assert best_of(solved, k, resamples=50).value == pytest.approx(np.mean(any_of))
    with pytest.raises(UserError, match="k=7: expected 1 to 6"):
        best_of(solved, 7)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_split_between_input_and_start(share: float) -> None:
    """p of a puzzle ~ Beta(a, a): intraclass correlation 1 / (2a + 1)."""
    rng, B, R = np.random.default_rng(1), 1500, 6
    a = (1 / share - 1) / 2 if 0 < share < 1 else None
    p = rng.beta(a, a, B) if a else np.full(B, 0.5) if share == 0 else (rng.random(B) < 0.5).astype(float)
    found = outcome_split(rng.random((B, R)) < p[:, None], resamples=200)
    assert found.input_share.low - 1e-9 <= share <= found.input_share.high + 1e-9
    assert found.start_share.value == pytest.approx(1 - found.input_share.value)
    assert found.variance == pytest.approx(0.25, abs=0.01)
    assert found.always + found.never + found.mixed == B


def test_split_of_outcomes_that_do_not_vary() -> None:
    apart = outcome_split(np.array([[1, 1]] * 5 + [[0, 0]] * 5, bool))  # no mixed puzzle of ten
    room = clopper_pearson(0, 10).high
    assert (apart.input_share.value, apart.input_share.low, apart.input_share.high) == (1, 1 - room, 1)
    alike = outcome_split(np.array([[1, 0]] * 6, bool)).input_share
    assert (alike.value, alike.low, alike.high) == (0, 0, clopper_pearson(0, 6).high)
    found = outcome_split(np.ones((4, 3), bool))
    assert math.isnan(found.input_share.value)
    assert "4 always" in found.reason
    with pytest.raises(UserError, match="expected at least 2"):
        outcome_split(np.ones((4, 1), bool))


def test_entropy_of_answers() -> None:
    rng = np.random.default_rng(2)
    answer = np.concatenate([np.zeros((50, 400), int), rng.integers(4, size=(50, 400))])
    found = basin_entropy(answer, resamples=50)
    assert (found.value[:50] == 0).all()
    assert found.boundary.value == pytest.approx(math.log(4), abs=2e-3)
    assert found.mean.value == pytest.approx(math.log(4) / 2, abs=2e-3)
    assert found.distinct.tolist() == [1] * 50 + [4] * 50
    assert math.isnan(basin_entropy(answer[:9], resamples=50).boundary.value)


# -- restart theory


def test_luby() -> None:
    assert [luby(n) for n in range(1, 17)] == [1, 1, 2, 1, 1, 2, 4, 1, 1, 2, 1, 1, 2, 4, 8, 1]
    with pytest.raises(UserError, match="n=0"):
        luby(0)


t = np.arange(20_001.0)
SOURCES = {
    "geometric": (0.95**t, 20.0, 20.0, 0.01),
    "mixture": (0.5 * 0.8**t + 0.5 * 0.995**t, 102.5, 9.76, 0.01),
    "weibull": (np.exp(-np.sqrt(t / 20)), 40.5, 4.99, 0.01),
    "shifted": (np.where(t <= 6, 1, 0.9 ** (t - 6)), 16.0, 16.0, 0.01),
}


@pytest.mark.parametrize("name", SOURCES)
def test_optimal_cutoff(name: str) -> None:
    survival, without, expected, tolerance = SOURCES[name]
    found = optimal_cutoff(survival)
    assert found.without == pytest.approx(without, abs=0.05)
    assert found.expected == pytest.approx(expected, abs=tolerance)
    assert (found.gain > 1.01) == (name in ("mixture", "weibull"))


def test_expected_time_is_that_of_a_simulation() -> None:
    survival = SOURCES["mixture"][0]
    cutoff = optimal_cutoff(survival).cutoff
    times = np.random.default_rng(3).geometric(np.repeat([0.2, 0.005], 100_000))
    measured = np.minimum(times, cutoff).sum() / (times <= cutoff).sum()
    assert measured == pytest.approx(expected_time(survival)[cutoff - 1], rel=0.02)
    assert math.isnan(optimal_cutoff(np.ones(5)).expected)


def test_a_policy_is_charged_on_other_puzzles() -> None:
    rng = np.random.default_rng(4)
    times = rng.geometric(np.where(rng.random((400, 8)) < 0.5, 0.2, 0.005))
    found = restart_policy(np.where(times > 200, -1, times), stop=200, resamples=200)
    assert found.expected.low < 9.76 < found.expected.high * 1.02
    assert found.gain.low > 2
    assert len(found.cutoffs) == 5
    plain = rng.geometric(0.05, (400, 8))
    assert restart_policy(np.where(plain > 200, -1, plain), stop=200, resamples=200).gain.low < 1.02
    assert "0 and 0 answers" in restart_policy(np.full((9, 2), -1), stop=5).reason


def test_advantage_of_a_fresh_start() -> None:
    rng, n = np.random.default_rng(5), 3000
    p = rng.beta(1, 10, n)
    memoryless = rng.geometric(np.maximum(p, 1e-9))
    fresh = rng.geometric(np.maximum(p, 1e-9)[:, None], (n, 4))
    same = restart_advantage(memoryless, fresh, at=10, within=10, resamples=300)
    assert same.ratio.low < 1 < same.ratio.high
    assert same.verdict == "no difference is seen"
    naive = ((fresh <= 10).mean()) / ((memoryless > 10) & (memoryless <= 20)).sum() * (memoryless > 10).sum()
    assert naive > 1.2  # fresh starts of all puzzles would look better: the easy ones are among them
    stuck = np.where(rng.random(n) < 0.5, memoryless, 10**6)
    assert (
        restart_advantage(stuck, fresh, at=10, within=10, resamples=300).verdict == "a fresh start is better"
    )
    late = 6 + rng.geometric(0.1, (n, 5))
    going = restart_advantage(late[:, 0], late[:, 1:], at=10, within=10, resamples=300)
    assert going.verdict == "going on is better"
    few = restart_advantage(np.array([3, -1, -1, -1]), np.ones((4, 2), int), at=2, within=3)
    assert few.ratio.value == 4
    assert math.isnan(few.ratio.low)
    assert few.verdict == "undefined: 4 puzzles unsolved at 2: an interval needs 10"
    nothing = restart_advantage(np.full(4, -1), fresh[:4], at=2, within=3)
    assert "0 by going on" in nothing.reason
    assert math.isnan(nothing.ratio.value)


def test_equal_work_by_enumeration() -> None:
    times = np.array([[1, 5, -1, -1], [-1, 2, -1, 3]])
    found = solved_within(times, 6, [3, 6, 1], resamples=50)
    pairs = list(combinations(range(4), 2))
    within = [np.mean([((row[list(c)] > 0) & (row[list(c)] <= 3)).any() for c in pairs]) for row in times]
    assert found[3].value == pytest.approx(np.mean(within))
    assert found[6].value == pytest.approx(0.5)
    assert math.isnan(found[1].value)  # six orbits are asked for, four were run
