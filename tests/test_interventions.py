"""Interventions: what is held stays, what is swapped is the other's, and everything composes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from loopscope.dynamics.fixed_points import fixed_points
from loopscope.dynamics.interventions import ablated, damped, frozen, kicked_at, noisy, started_at, swapped
from loopscope.dynamics.lyapunov import lyapunov_spectrum
from loopscope.dynamics.measure import measure
from loopscope.dynamics.system import check_system, own_memory, require
from loopscope.errors import UserError
from loopscope.evaluation.solve import solve
from loopscope.latent import distance, rows
from tiny import Approach, tiny_model, tiny_puzzles

PUZZLES = tiny_puzzles(4)
BATCH = PUZZLES.batch()
PURE = {  # name -> intervention on a model whose parts are z_H and z_L
    "frozen": lambda s: frozen(s, "z_L"),
    "ablated": lambda s: ablated(s, "z_H"),
    "damped": lambda s: damped(s, 0.5),
    "kicked": lambda s: kicked_at(s, 2, sigma=0.3, seed=0),
    "swapped": lambda s: swapped(s, rows(BATCH, slice(0, 1)), 2),
    "several": lambda s: damped(frozen(kicked_at(s, 1, sigma=0.1, seed=0), "z_H"), 0.9),
}


def orbit(system, batch, segments):
    with torch.no_grad():
        ctx = system.encode(batch)
        z = [system.initial_state(ctx)]
        for _ in range(segments):
            z.append(system.segment(z[-1], ctx))
    return z


@pytest.mark.parametrize("name", PURE)
def test_changed_systems_keep_the_rules_and_can_be_measured(name):
    system = PURE[name](tiny_model())
    require(check_system(system, BATCH))
    runs = measure(system, PUZZLES, segments=2, exponents=1, batch_size=4)
    plain = measure(tiny_model(), PUZZLES, segments=2, exponents=1, batch_size=4)
    assert not np.allclose(runs.growth, plain.growth)
    assert runs.attrs["model_hash"] != plain.attrs["model_hash"]
    assert solve(system, PUZZLES, segments=2).tokens.shape == (4, 16)


def test_a_frozen_part_stays_and_its_tangent_is_zero():
    system = frozen(tiny_model(), "z_L")
    z = orbit(system, BATCH, 3)
    assert torch.equal(z[3].z_L, z[0].z_L)
    assert not torch.equal(z[3].z_H, z[0].z_H)
    ctx = system.encode(BATCH)
    z = [own_memory(z[0])]
    tangent = tuple(torch.ones_like(part) for part in z[0])
    moved = torch.func.jvp(lambda z: system.segment(z, ctx), (z[0],), (type(z[0])(*tangent),))[1]
    assert (moved.z_L == 0).all()
    assert not (moved.z_H == 0).all()


def test_an_analytic_part_frozen_leaves_the_other_exponents():
    system = frozen(Approach(0.3, 0.8), "z_H")
    growth = lyapunov_spectrum(system, BATCH, segments=2, exponents=17).growth
    np.testing.assert_allclose(growth[:, 1, :16], math.log(0.8), rtol=1e-9)
    assert np.isneginf(growth[:, 1, 16]).all()


def test_a_part_is_held_through_the_updates_of_a_system_that_starts_elsewhere():
    model, donor = tiny_model(), rows(BATCH, slice(0, 1))
    plain = orbit(frozen(model, "z_L"), BATCH, 2)[2]
    for same in (
        started_at(model, 0),
        kicked_at(model, 0, sigma=0.0, seed=0),
        started_at(started_at(model, 0), 0),
    ):
        assert torch.equal(orbit(frozen(same, "z_L"), BATCH, 2)[2].z_H, plain.z_H)
    swap = swapped(model, donor, 0)  # the start is the same for every puzzle
    assert torch.equal(orbit(frozen(swap, "z_L"), BATCH, 2)[2].z_H, plain.z_H)
    for changed in (damped(model, 0.5), frozen(model, "z_L")):
        assert not hasattr(changed, "updates")


def test_ablated_is_zero_and_unknown_parts_are_refused():
    assert (orbit(ablated(tiny_model(), "z_L"), BATCH, 2)[2].z_L == 0).all()
    with pytest.raises(UserError, match="z_H, z_L"):
        frozen(tiny_model(), "z_X").encode(BATCH)
    with pytest.raises(UserError, match="no named parts"):
        frozen(Approach(0.5), "z_H").encode(BATCH)


def test_started_later_is_the_rest_of_the_orbit():
    model = tiny_model()
    whole = measure(model, PUZZLES, segments=6)
    rest = measure(started_at(model, 2), PUZZLES, segments=4)
    np.testing.assert_allclose(rest.drift_H, whole.drift_H[:, 2:], rtol=1e-4)
    again = orbit(started_at(started_at(model, 1), 1), BATCH, 0)[0]
    assert float(distance(again, orbit(model, BATCH, 2)[2]).max()) < 1e-5


def test_swapped_is_the_others_state_under_this_input():
    model, donor = tiny_model(), rows(BATCH, slice(3, 4))
    start = orbit(model, donor, 2)[2]
    z = orbit(swapped(model, donor, 2), BATCH, 1)
    ctx = model.encode(BATCH)
    with torch.no_grad():
        for i in range(4):
            assert float(distance(rows(z[0], slice(i, i + 1)), start)) < 1e-5
            by_hand = model.segment(start, rows(ctx, slice(i, i + 1)))
            assert float(distance(rows(z[1], slice(i, i + 1)), by_hand)) < 1e-4
    with pytest.raises(UserError, match="2 donors for 4 puzzles"):
        swapped(model, rows(BATCH, slice(0, 2)), 2).encode(BATCH)


def test_kick_has_its_size_and_does_not_depend_on_the_batch():
    model = tiny_model()
    plain = orbit(model, BATCH, 2)[2]
    for sigma in (0.01, 0.1):
        moved = orbit(kicked_at(model, 2, sigma=sigma, seed=0), BATCH, 0)[0]
        for a, b in zip(moved, plain, strict=True):
            np.testing.assert_allclose((a - b).flatten(1).std(1), sigma * b.flatten(1).std(1), rtol=0.15)
    other = orbit(kicked_at(model, 2, sigma=0.1, seed=1), BATCH, 0)[0]
    assert (distance(moved, other) > 0.01).all()
    # from a start that is bitwise the same, the kick of a row is that of the row alone
    kick = kicked_at(Approach(0.5, 0.6), 0, sigma=0.1, seed=0)
    alone = orbit(kick, rows(BATCH, slice(2, 3)), 0)[0]
    assert torch.equal(orbit(kick, BATCH, 0)[0].z_H[2:3], alone.z_H)


def test_damping_keeps_the_fixed_point_and_moves_the_multiplier():
    system = damped(Approach(0.6), 0.5)
    z = orbit(system, BATCH, 5)[5]
    found = fixed_points(system, BATCH, z=z)
    np.testing.assert_allclose(found.state, system.encode(BATCH), atol=1e-8)
    np.testing.assert_allclose(found.spectral_radius, 1 + 0.5 * (0.6 - 1), atol=1e-8)


def test_noise_has_the_variance_of_an_autoregression():
    """z' = c + r (z - c) + sigma n: the variance around c settles at sigma^2 / (1 - r^2)."""
    rate, sigma, system = 0.6, 0.2, noisy(Approach(0.6), 0.2, seed=0)
    z = torch.stack(orbit(system, BATCH, 300)[20:]) - system.encode(BATCH)
    assert float(z.var()) == pytest.approx(sigma**2 / (1 - rate**2), rel=0.05)
    steps = (z[1:] - rate * z[:-1]).flatten(1)  # the noise itself: not the same twice
    assert abs(float((steps[1:] * steps[:-1]).mean())) < 0.05 * sigma**2
    growth = lyapunov_spectrum(system, BATCH, segments=5, exponents=2).growth
    np.testing.assert_allclose(growth, math.log(rate), rtol=1e-9)
    again = torch.stack(orbit(system, BATCH, 300)[20:]) - system.encode(BATCH)
    assert torch.equal(z, again)
