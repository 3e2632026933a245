"""Fixed points, cycles, periods, chaos and dimension: maps whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from loopscope.dynamics.fixed_points import fixed_points, leading_multipliers
from loopscope.dynamics.lyapunov import lyapunov_spectrum
from loopscope.dynamics.projection import participation_ratio, principal_components
from loopscope.dynamics.recurrence import estimate_period, late_states, recurrence, zero_one_test
from loopscope.dynamics.toys import Henon, LinearMap, Logistic, TanhNet
from loopscope.errors import UserError
from tiny import Approach, tiny_puzzles


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)[:, None]


# -- fixed points


def test_the_cycle_of_logistic_3_2_and_not_the_unstable_fixed_point_beside_it():
    z = column(0.513, 0.8)
    found = fixed_points(Logistic(3.2), z, z=z, max_period=4)
    r = 3.2
    roots = [(r + 1 + s * math.sqrt((r - 3) * (r + 1))) / (2 * r) for s in (-1, 1)]
    assert found.period.tolist() == [2, 2]
    np.testing.assert_allclose(found.state[:, 0], roots, atol=1e-10)
    np.testing.assert_allclose(found.multipliers[:, 0], 4 + 2 * r - r * r, atol=1e-8)
    assert (found.residual <= 1e-10).all()


def test_one_period_alone_finds_the_unstable_fixed_point():
    z = column(0.68)
    found = fixed_points(Logistic(3.2), z, z=z)
    assert found.state.item() == pytest.approx(1 - 1 / 3.2, abs=1e-10)
    assert found.multipliers[0, 0] == pytest.approx(2 - 3.2, abs=1e-8)
    assert found.spectral_radius[0] == pytest.approx(1.2)


def test_henon():
    z = torch.tensor([[0.6, 0.2]], dtype=torch.float64)
    found = fixed_points(Henon(), z, z=z, multipliers=2)
    x = (-0.7 + math.sqrt(0.49 + 5.6)) / 2.8
    np.testing.assert_allclose(found.state[0], [x, 0.3 * x], atol=1e-10)
    eigenvalues = [-1.4 * x - math.sqrt(1.96 * x * x + 0.3), -1.4 * x + math.sqrt(1.96 * x * x + 0.3)]
    np.testing.assert_allclose(found.multipliers[0], eigenvalues, atol=1e-8)


@pytest.mark.parametrize("gain", [0.7, 1.5])
def test_tanh_network_beyond_the_size_of_lapack(gain):
    rng = np.random.default_rng(0)
    weights = torch.from_numpy(rng.standard_normal((100, 100)) * gain / 10)
    system = TanhNet(weights)
    z = torch.from_numpy(0.05 * rng.standard_normal((1, 100)))
    found = fixed_points(system, z, z=z, multipliers=3)
    assert found.period[0] == 1
    root = found.state[0]
    np.testing.assert_allclose(system.segment(root[None], None)[0], root, atol=1e-9)
    jacobian = weights * (1 - torch.tanh(root) ** 2)
    exact = np.linalg.eigvals(jacobian.numpy())
    exact = np.sort(np.abs(exact))[::-1][:3]
    np.testing.assert_allclose(np.abs(found.multipliers[0]), exact, rtol=1e-5)


def test_transient_growth_is_not_chaos():
    """A shear: every multiplier 0.5, and growth over few segments all the same."""
    system = LinearMap(torch.tensor([[0.5, 10.0], [0.0, 0.5]]))
    z = torch.zeros(1, 2, dtype=torch.float64)
    assert abs(leading_multipliers(system, z, z)[0]) == pytest.approx(0.5)
    tangents = torch.tensor([[[0.0], [1.0]]], dtype=torch.float64)
    assert float(lyapunov_spectrum(system, z, segments=2, tangents=tangents).ftle[0, 0]) > 0.5


def test_no_root_is_said():
    class Shift(LinearMap):
        def segment(self, z, ctx):
            return z + 1

    z = torch.zeros(1, 2, dtype=torch.float64) + 1
    found = fixed_points(Shift(torch.eye(2)), z, z=z, max_period=2)
    assert found.period[0] == 0
    assert np.isnan(found.multipliers).all()


def test_fixed_point_of_a_labelled_map_of_two_parts():
    system, batch = Approach(0.5, 0.9), tiny_puzzles(2).batch()
    ctx = system.encode(batch)
    found = fixed_points(system, batch, z=system.initial_state(ctx))
    np.testing.assert_allclose(found.state.z_L, ctx, atol=1e-8)
    np.testing.assert_allclose(found.spectral_radius, 0.9, atol=1e-9)


def test_float32_has_its_own_tolerance():
    class Half(LinearMap):
        def segment(self, z, ctx):
            return 0.5 * z + torch.tensor([1.0, 2.0])

    z = torch.ones(1, 2)
    found = fixed_points(Half(torch.eye(2)), z, z=z)
    np.testing.assert_allclose(found.state[0], [2.0, 4.0], rtol=1e-5)
    assert found.multipliers[0, 0] == pytest.approx(0.5)


def test_impossible_numbers_are_refused():
    z = column(0.5)
    with pytest.raises(UserError, match="multipliers=2"):
        fixed_points(Logistic(3.2), z, z=z, multipliers=2)


# -- recurrence


@pytest.mark.parametrize(("r", "period"), [(2.8, 1), (3.2, 2), (3.5, 4), (3.83, 3), (4.0, 0)])
def test_known_periods(r, period):
    states = late_states(Logistic(r), column(0.3, 0.4), segments=3000, window=40)
    assert estimate_period(states, 16).tolist() == [period, period]


def test_recurrence_by_hand():
    states = torch.tensor([[[1.0], [2.0], [1.0], [2.0]]])
    np.testing.assert_allclose(recurrence(states, 2)[0], [1 / 1.5, 0.0])
    with pytest.raises(UserError, match="longer window"):
        recurrence(states, 4)


def test_zero_one_test():
    for r, low, high in ((3.5, -0.1, 0.1), (3.97, 0.95, 1.0), (4.0, 0.95, 1.0)):
        series = late_states(Logistic(r), column(0.3), segments=2500, window=2000)[:, :, 0].numpy()
        assert low <= zero_one_test(series)[0] <= high, r
    assert np.isnan(zero_one_test(np.ones((1, 1000)))).all()
    with pytest.raises(UserError, match="999"):
        zero_one_test(np.ones((1, 999)))


# -- dimension


def test_participation_ratio_of_known_variances():
    points = torch.cat([torch.eye(5), -torch.eye(5)])[None]  # 5 directions, equal shares
    assert float(participation_ratio(points)) == pytest.approx(5)
    line = torch.arange(4.0)[None, :, None] * torch.ones(3)
    assert float(participation_ratio(line)) == pytest.approx(1)
    assert participation_ratio(torch.ones(1, 4, 3)).isnan().all()


def test_projection_tells_what_it_hides():
    t = torch.arange(200, dtype=torch.float64)
    orbit = torch.stack([10 * torch.cos(0.01 * t), 10 * torch.sin(0.01 * t), (-1.0) ** t], dim=1)[None]
    plane = principal_components(orbit, 2)
    steps = orbit.diff(dim=1)
    fast = float(steps[..., 2].square().sum() / steps.square().sum())
    assert fast > 0.99
    assert float(plane.speed_shown) < 0.02
    assert float(plane.variance_shown) > 0.95
    assert "99% of the squared" in plane.warning or "100% of the squared" in plane.warning
    whole = principal_components(orbit, 3)
    np.testing.assert_allclose(whole.variance_shown, 1)
    rebuilt = whole.coordinates @ whole.axes.mT + orbit.mean(1, keepdim=True)
    np.testing.assert_allclose(rebuilt, orbit, atol=1e-9)
