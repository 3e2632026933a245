"""The transient-chaos toy against its exact values, and the exact values against one another."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import integrate

from loopscope.dynamics import toys
from loopscope.dynamics.statistics import auc


@pytest.fixture(scope="module")
def run() -> xr.Dataset:
    return toys.run_toy(20_000, 16, seed=0)


def test_measured_agree_with_exact(run: xr.Dataset) -> None:
    checks = toys.toy_checks(run)
    assert all(check.passed for check in checks), [str(check) for check in checks]
    assert {check.name.split(",")[0] for check in checks} >= {"escape rate", "AUC of -FTLE for solved"}


@pytest.mark.parametrize("seed", [2, 4])
def test_orbits_that_lose_digits_near_one_half_fail_no_check(seed: int) -> None:
    checks = {c.name: c for c in toys.toy_checks(toys.run_toy(20_000, 16, seed=seed))}
    assert checks["sum of growth, error of identity, 99 %"].passed


def test_success_by_length() -> None:
    """Against a quasi-random count of 6e7 orbits (.217079 at 4, .387556 at 8) and published digits."""
    survival, _ = toys.exact_toy(128)
    solved = 1 - survival
    assert solved[[4, 8]] == pytest.approx([0.217079, 0.387556], abs=1e-5)
    assert solved[[16, 32, 64, 128]] == pytest.approx([0.62271, 0.85179, 0.97405, 0.99876], abs=1e-4)


def test_survival_by_counting_preimages() -> None:
    """P(not captured in 2) with x0 uniform, from the intervals that lead into the hole."""
    s, eps = 0.4, 0.04
    grid = (np.arange(4_000_000) + 0.5) / 4_000_000
    one = 4 * grid * (1 - grid)
    two = 4 * one * (1 - one)
    counted = [np.mean(np.abs(one - s) >= eps), np.mean((np.abs(one - s) >= eps) & (np.abs(two - s) >= eps))]
    masses = islice(toys.search_mass(np.array([s]), eps, cells=16384), 1, 3)
    assert [float(mass.sum()) for mass in masses] == pytest.approx(counted, abs=1e-5)


def test_capture_probability_is_the_invariant_measure() -> None:
    for s in (0.15, 0.5, 0.8):
        expected = integrate.quad(lambda x: 1 / (math.pi * math.sqrt(x * (1 - x))), s - 0.04, s + 0.04)[0]
        assert toys.capture_probability(np.array([s]))[0] == pytest.approx(expected)
    assert toys.mean_capture_probability() == pytest.approx(0.05657, abs=5e-6)


def test_escape_rates_by_solution() -> None:
    targets = np.array([0.15, 0.25, 0.345, 0.5, 0.6, 0.75, 0.85])
    published = [0.0660, 0.0799, 0.0494, 0.0667, 0.0542, 0.0348, 0.1440]
    assert toys.exact_escape_rate(targets) == pytest.approx(published, abs=2e-4)


def test_exponents_of_solved_and_unsolved(run: xr.Dataset) -> None:
    ftle, solved = run.ftle.values[:, 0], run.solved.values[:, -1]
    assert np.median(ftle[~solved]) == pytest.approx(0.68222, abs=0.004)
    assert ftle[~solved].mean() == pytest.approx(0.66660, abs=0.004)
    assert ftle[solved].mean() == pytest.approx(-0.05648, abs=0.02)


def test_separation_rises_and_the_failing_class_vanishes() -> None:
    values, failures = [], []
    for T in (4, 16, 64):
        table = toys.run_toy(4000, T, seed=1)
        found = auc(-table.ftle.values[:, 0], table.solved.values[:, -1], resamples=10)
        values.append(found.value)
        failures.append(found.n_neg)
    assert values == pytest.approx([0.769, 0.9624, 0.998], abs=0.015)
    assert failures[0] > failures[1] > failures[2] > 0


def test_early_exponents_do_not_foretell_once_solved_puzzles_are_left_out(run: xr.Dataset) -> None:
    """The leak: over all puzzles the first segments know who is solved already."""
    early, solved = -run.growth.values[:, :4, 0].mean(axis=1), run.solved.values[:, -1]
    open_at_4 = (run.first_solved.values == -1) | (run.first_solved.values > 4)
    leaky = auc(early, solved, resamples=200)
    honest = auc(early[open_at_4], solved[open_at_4], resamples=200)
    assert leaky.low > 0.55
    assert honest.value == pytest.approx(0.5, abs=0.02)


def test_run_is_labelled_and_seeded(run: xr.Dataset) -> None:
    assert dict(run.sizes) == {"puzzle": 20_000, "segment": 16, "exponent": 1}
    for name in (*run.data_vars, *run.coords):
        assert run[name].attrs["units"], name
        assert run[name].attrs["long_name"], name
    assert toys.run_toy(50, 4, seed=2).equals(toys.run_toy(50, 4, seed=2))
    assert not toys.run_toy(50, 4, seed=2).equals(toys.run_toy(50, 4, seed=3))
    first = run.first_solved.values
    assert (run.solved.values[np.arange(20_000), first - 1] | (first == -1)).all()
    assert ((first == -1) == ~run.solved.values.any(axis=1)).all()


def test_a_start_inside_the_hole_still_searches() -> None:
    system, puzzle = (
        toys.TransientChaos(),
        toys.ToyPuzzle(torch.tensor([0.4]).double(), torch.tensor([0.4]).double()),
    )
    z = system.segment(system.initial_state(puzzle), puzzle)
    assert z.x.item() == pytest.approx(0.96)
    assert z.captured.item() == 0


def test_captured_orbits_halve_their_distance() -> None:
    system, puzzle = (
        toys.TransientChaos(),
        toys.ToyPuzzle(torch.tensor([0.1]).double(), torch.tensor([0.35]).double()),
    )
    z = system.segment(system.initial_state(puzzle), puzzle)  # .36: captured
    assert z.captured.item() == 1
    assert system.segment(z, puzzle).x.item() == pytest.approx(0.355)
    answer = system.readout(z, puzzle)
    assert answer.logits.shape == (1, 1, 2)
    assert answer.logits.argmax(-1).item() == 1


@pytest.mark.parametrize("segments", [1, 2, 3])
def test_short_toys_have_a_table(segments: int) -> None:
    assert toys.toy_checks(toys.run_toy(500, segments))


def test_first_exit_by_hand() -> None:
    at = toys.first_exit(lambda x: x + 1, lambda x: x >= 3, np.array([0, 1, 2, -9]), 4)
    assert at.tolist() == [3, 2, 1, -1]


def test_doubling_is_exact() -> None:
    x = np.array([0b1011 << 60], dtype=np.uint64)
    assert int(toys.double(x)[0]) == 0b0110 << 60
