"""What follows from exponents: windows, running values, errors in time, dimension, entropy, directions."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr

from loopscope.dynamics.covariant import covariant_vectors
from loopscope.dynamics.exponents import (
    entropy_bound,
    exponent_error,
    kaplan_yorke_dimension,
    per_application,
    running_exponents,
    window_exponents,
)
from loopscope.dynamics.local_growth import finite_growth, two_trajectory_exponent
from loopscope.dynamics.lyapunov import lyapunov_spectrum
from loopscope.dynamics.toys import Henon, LinearMap
from loopscope.errors import UserError
from loopscope.latent import flatten
from tiny import tiny_model, tiny_puzzles


def series(T: int = 400, correlation: float = 0.0) -> xr.DataArray:
    """AR(1) noise around .5 for 50 puzzles; the spread of the noise is 1."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((50, T + 200, 1))
    for t in range(1, T + 200):
        x[:, t] = correlation * x[:, t - 1] + math.sqrt(1 - correlation**2) * x[:, t]
    growth = 0.5 + x[:, 200:]
    return xr.DataArray(growth, dims=("puzzle", "segment", "exponent"), attrs={"units": "nats per segment"})


@pytest.mark.parametrize(
    ("exponents", "dimension", "words"),
    [
        ([0.41922, -1.62319], 1.25826, "1.258"),
        ([0.9056, 0.0, -14.5723], 2.06214, "2.062"),
        ([-0.1, -0.2], 0.0, "0"),
        ([0.3, 0.1], 2.0, ">= 2"),
        ([0.2, -0.1, -np.inf], 2.0, "2"),
        ([0.2, -0.1], 2.0, ">= 2"),
        ([np.nan, 0.1], np.nan, "nan"),
    ],
)
def test_kaplan_yorke(exponents: list[float], dimension: float, words: str) -> None:
    found = kaplan_yorke_dimension(np.array(exponents))
    assert found.value == pytest.approx(dimension, abs=1e-4, nan_ok=True)
    assert str(found) == words


def test_entropy_bound() -> None:
    assert entropy_bound(np.array([0.5, 0.2, -1.0]), escape_rate=0.1) == (pytest.approx(0.6), True)
    assert str(entropy_bound(np.array([0.5, 0.25]))) == ">= 0.75"


def test_windows_and_running_values() -> None:
    growth = series(8)
    running = running_exponents(growth, 2)
    np.testing.assert_allclose(running.isel(segment=-1), growth[:, 2:].mean("segment"))
    np.testing.assert_allclose(running.isel(segment=0), growth.isel(segment=2))
    np.testing.assert_allclose(window_exponents(growth, 4, 8), growth[:, 4:].mean("segment"))
    assert running.attrs["units"] == "nats per segment"
    with pytest.raises(UserError, match="segments 5 to 9: expected a window within 1 to 8"):
        window_exponents(growth, 4, 9)


def test_values_that_are_missing_stay_missing() -> None:
    growth = series(6).copy()
    growth[0, 3:] = np.nan
    assert np.isnan(running_exponents(growth)[0, 3:]).all()
    assert np.isnan(window_exponents(growth, 0, 6)[0]).all()


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_errors_in_time_see_the_correlation(correlation: float) -> None:
    """AR(1): the variance of the mean is (1 + c) / (1 - c) / T."""
    found = exponent_error(series(400, correlation), block=20, resamples=300)
    exact = math.sqrt((1 + correlation) / (1 - correlation) / 400)
    assert float(found.mean()) == pytest.approx(exact, rel=0.12)
    with pytest.raises(UserError, match="block=30: expected 1 to 20"):
        exponent_error(series(40), block=30)


def test_per_application() -> None:
    model = tiny_model()
    table = lyapunov_spectrum(model, tiny_puzzles(2).batch(), segments=2, exponents=2)
    scaled = per_application(table)
    np.testing.assert_allclose(scaled.ftle * len(model.schedule), table.ftle)
    assert scaled.growth.attrs["units"] == "nats per application"
    with pytest.raises(UserError, match="applications_per_segment: missing"):
        per_application(table.assign_attrs(applications_per_segment=None))


# -- directions


def test_covariant_vectors_are_carried_onto_one_another() -> None:
    table = covariant_vectors(Henon(), segments=20, exponents=2, forward=60, backward=60, vectors=True)
    z = torch.tensor([Henon.start], dtype=torch.float64)
    for _ in range(60):
        z = Henon().segment(z, None)
    for t in range(19):
        jacobian = torch.func.jacfwd(lambda s: Henon().segment(s[None], None)[0])(z[0]).numpy()
        image = jacobian @ table.vector.values[0, t]
        lengths = np.linalg.norm(image, axis=0)
        np.testing.assert_allclose(np.log(lengths), table.growth[0, t], atol=1e-8)
        aligned = np.abs((image / lengths * table.vector.values[0, t + 1]).sum(axis=0))
        np.testing.assert_allclose(aligned, 1, atol=1e-8)
        z = Henon().segment(z, None)


def test_covariant_vectors_of_a_linear_map_are_its_eigenvectors() -> None:
    matrix = np.array([[1.5, 0.4, 0.0], [0.0, 0.9, 0.3], [0.1, 0.0, 0.3]])
    table = covariant_vectors(
        LinearMap(torch.from_numpy(matrix)), segments=2, exponents=3, forward=80, backward=80
    )
    values, vectors = np.linalg.eig(matrix)
    order = np.argsort(-np.abs(values))
    np.testing.assert_allclose(table.growth[0, 0], np.log(np.abs(values[order])), atol=1e-10)
    angles = np.arccos(np.clip(np.abs(vectors[:, order].T @ vectors[:, order]), 0, 1))
    off = ~np.eye(3, dtype=bool)
    np.testing.assert_allclose(table.angle.values[0, 0][off], angles[off], atol=1e-8)


def test_two_orbits_agree_with_the_tangents_of_a_network() -> None:
    model, batch = tiny_model().compute_in("float64"), tiny_puzzles(3).batch()
    tangents = lyapunov_spectrum(model, batch, segments=4)
    orbits = two_trajectory_exponent(model, batch, segments=4)
    np.testing.assert_allclose(orbits.growth, tangents.growth, atol=2e-5)


def test_small_perturbations_grow_as_tangents_and_large_ones_do_not() -> None:
    model, batch = tiny_model().compute_in("float64"), tiny_puzzles(2).batch()
    table = finite_growth(model, batch, segments=3, sizes=[1e-7, 10.0], directions=2)
    z, one = model.initial_state(model.encode(batch)), lyapunov_spectrum(model, batch, segments=3)
    assert flatten(z).shape[0] == table.sizes["puzzle"] == 2
    np.testing.assert_allclose(
        table.growth.isel(size=0, direction=0).sum("segment"), one.growth[..., 0].sum("segment"), atol=1e-4
    )
    assert (
        np.abs(table.growth.isel(size=1).sum("segment") - table.growth.isel(size=0).sum("segment")) > 0.1
    ).all()
    with pytest.raises(UserError, match="sizes above 0"):
        finite_growth(model, batch, segments=1, sizes=[0.0])
