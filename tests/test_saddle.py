"""The chaotic saddle and its border, on maps where both are known sets."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from loopscope.dynamics.edge import edge_track, geodesic_middle
from loopscope.dynamics.escape import escape_rate
from loopscope.dynamics.saddle import saddle_numbers, sprinkler, stagger_and_step
from loopscope.dynamics.sensitivity import final_state_sensitivity, uncertainty_exponent
from loopscope.dynamics.toys import Map, ToyPuzzle, TransientChaos
from loopscope.errors import UserError

LN2, LN3 = math.log(2), math.log(3)


class OpenTent(Map):
    """x' = slope min(x, 1 - x): for slope 3 the saddle is Cantor's middle-thirds set."""

    def __init__(self, slope: float = 3.0) -> None:
        self.slope = slope

    def segment(self, z: Tensor, ctx: Any) -> Tensor:
        return self.slope * torch.minimum(z, 1 - z)


class Cubic(Map):
    """x' = 2x - x^3: 0 is the border between -1 and 1, left at ln 2 per segment."""

    def segment(self, z: Tensor, ctx: Any) -> Tensor:
        return 2 * z - z**3


class Thirds(Map):
    """x' = 3x mod 1 outside the middle third, in which an orbit stays; y counts the segments before."""

    def segment(self, z: Tensor, ctx: Any) -> Tensor:
        x, y = z.unbind(1)
        inside = (x > 1 / 3) & (x < 2 / 3)
        return torch.stack((torch.where(inside, x, torch.remainder(3 * x, 1)), y + (~inside).double()), dim=1)


def in_unit(z: Tensor, ctx: Any) -> Tensor:
    return ((z >= 0) & (z <= 1)).all(dim=1)


def column(values: Any) -> Tensor:
    return torch.as_tensor(np.asarray(values, dtype=float))[:, None]


def to_cantor(x: np.ndarray, levels: int) -> np.ndarray:
    """Whether the first `levels` thirds of x avoid the middle one."""
    kept = np.ones(len(x), bool)
    for _ in range(levels):
        kept &= (x <= 1 / 3) | (x >= 2 / 3)
        x = 3 * np.minimum(x, 1 - x)
    return kept


def test_sprinkler_finds_the_cantor_set() -> None:
    starts = column(np.random.default_rng(0).random(40_000))
    found = sprinkler(OpenTent(), starts, in_unit, segments=15, middle=(4, 7), exponents=1)
    rate = escape_rate(found.escaped_at, start=0, stop=15)
    assert abs(rate.value - math.log(1.5)) < 3 * (rate.high - rate.low) / 3.92
    assert len(found.survivors) == (found.escaped_at == -1).sum()
    assert (found.escaped_at[found.survivors] == -1).all()
    x = torch.stack([s[:, 0] for s in found.states]).numpy()
    assert to_cantor(x[-1], 15 - 7).all()  # they live 8 segments more
    assert not to_cantor(starts[:, 0].numpy(), 8).all()
    assert abs((x[-1] < 0.5).mean() - 0.5) < 4 * 0.5 / math.sqrt(x.shape[1])  # symbols are fair coins
    numbers = saddle_numbers(rate, found.growth, resamples=200)
    assert numbers.exponent.value == pytest.approx(LN3)
    # Kantz-Grassberger holds here: the entropy of fair coins and the dimension of the Cantor set
    assert numbers.entropy.low < LN2 < numbers.entropy.high
    assert numbers.dimension.low < LN2 / LN3 < numbers.dimension.high


def test_the_saddle_of_the_search_has_exponent_ln_2() -> None:
    n, rng = 20_000, np.random.default_rng(1)
    puzzles = ToyPuzzle(torch.from_numpy(rng.random(n)), torch.full((n,), 0.5, dtype=torch.float64))
    searching = lambda z, ctx: z.captured[:, 0] < 0.5  # noqa: E731
    found = sprinkler(TransientChaos(), puzzles, searching, segments=45, middle=(15, 30), exponents=1)
    rate = escape_rate(found.escaped_at, start=5, stop=45)
    numbers = saddle_numbers(rate, found.growth, resamples=500)
    assert numbers.rate.low < 0.0667 < numbers.rate.high
    assert numbers.exponent.low < LN2 < numbers.exponent.high
    assert numbers.exponent.high - numbers.exponent.low < 0.02
    assert numbers.dimension.value == pytest.approx(0.9037, abs=0.01)


def test_the_start_of_a_life_is_not_the_saddle() -> None:
    """Shown to fail when broken: first segments and whole crowds do not lie near the saddle."""
    starts = column(np.random.default_rng(2).random(20_000))
    found = sprinkler(OpenTent(), starts, in_unit, segments=9, middle=(8, 9))
    assert not to_cantor(found.states[0][:, 0].numpy(), 3).all()
    with pytest.raises(UserError, match="latent of dtype bfloat16"):
        sprinkler(OpenTent(), column([0.5]).bfloat16(), in_unit, segments=3, exponents=1)
    nobody = sprinkler(OpenTent(), column([0.5, 0.4]), in_unit, segments=9)
    assert nobody.reason == "no orbit lived for 9 segments"
    assert nobody.escaped_at.tolist() == [1, 1]
    rate = escape_rate(nobody.escaped_at, start=0, stop=9)
    assert math.isnan(saddle_numbers(rate, nobody.growth).exponent.value)


def test_stagger_and_step_stays_near_the_saddle() -> None:
    orbit = stagger_and_step(
        OpenTent(), column([0.23]), column([0.23]), in_unit, length=300, hold=8, exponents=1, seed=3
    )
    x = orbit.states[:, 0].numpy()
    assert (len(x), orbit.reason) == (300, "")
    assert to_cantor(x, 8).all()
    assert orbit.growth.mean() == pytest.approx(LN3)
    assert 0 < orbit.staggers < 300
    jumps = np.abs(x[1:] - 3 * np.minimum(x[:-1], 1 - x[:-1]))
    assert (jumps > 1e-9).sum() <= orbit.staggers  # between kicks it is an orbit of the map
    assert 0.3 < (x < 0.5).mean() < 0.7
    again = stagger_and_step(OpenTent(), column([0.23]), column([0.23]), in_unit, length=300, hold=8, seed=3)
    assert torch.equal(again.states, orbit.states)


def test_stagger_and_step_gives_up_with_a_reason() -> None:
    nowhere = lambda z, ctx: torch.zeros(len(z), dtype=torch.bool)  # noqa: E731
    orbit = stagger_and_step(OpenTent(), column([0.2]), column([0.2]), nowhere, length=5, hold=3, rounds=2)
    assert len(orbit.states) == 0
    assert "no kick within 0.1" in orbit.reason
    with pytest.raises(UserError, match="2 rows"):
        stagger_and_step(OpenTent(), column([0, 1]), column([0, 1]), in_unit, length=5, hold=3)


# -- the border


def sign(z: Tensor, ctx: Any) -> Tensor:
    return (z[:, 0] > 0).long()


def test_edge_of_the_cubic_map() -> None:
    first, second = column([-0.3, -0.9, 0.2]), column([0.9, 0.1, 0.5])
    found = edge_track(Cubic(), first, first, second, sign, horizon=60, segments=40, close=1e-10, part=1e-6)
    assert found.outcomes.tolist() == [[0, 1], [0, 1], [1, 1]]
    assert max(abs(float(z[i, 0])) for z in found.path for i in (0, 1)) < 1e-5
    np.testing.assert_allclose(found.exponents[:2], LN2, atol=1e-5)
    assert found.reason == ("", "", "both sides end in outcome 1")
    assert math.isnan(found.exponents[2])
    assert torch.equal(found.below[2:], column([0.2])) is False  # untracked rows just run on
    assert found.exponent.n == 2


def test_a_pair_that_ends_alike_has_lost_the_border() -> None:
    """What is captured within 16 segments changes along an orbit; every pair without a reason is astride."""

    class Hole(Map):
        def segment(self, z: Tensor, ctx: Any) -> Tensor:
            return torch.where((z > 1) | ((z - 0.5).abs() < 0.04), 2.0, 4 * z * (1 - z))

    system, horizon = Hole(), 16
    captured = lambda z, ctx: (z[:, 0] > 1).long()  # noqa: E731
    draw = torch.Generator().manual_seed(0)
    first, second = (torch.rand(400, 1, generator=draw, dtype=torch.float64) for _ in range(2))
    found = edge_track(
        system, first, first, second, captured, horizon=horizon, segments=40, close=1e-9, part=1e-3
    )

    def end(z: Tensor) -> Tensor:
        for _ in range(horizon):
            z = system.segment(z, None)
        return captured(z, None)

    kept = np.array([reason == "" for reason in found.reason])
    lost = np.array(["was lost" in reason for reason in found.reason])
    assert kept.sum() > 20
    assert lost.sum() > 20
    assert (end(found.below) != end(found.above)).numpy()[kept].all()
    assert np.isfinite(found.exponents[kept]).all()


def test_edge_whose_growth_fluctuates() -> None:
    """x' = tanh(a(y) x), y chaotic: the border x = 0 is left at E ln a = 2, however widely ln a spreads."""

    class Driven(Map):
        def segment(self, z: Tensor, ctx: Any) -> Tensor:
            x, y = z.unbind(1)
            return torch.stack((torch.tanh(torch.exp(2 + 3 * (2 * y - 1)) * x), 4 * y * (1 - y)), 1)

    y = torch.rand(48, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second = (torch.cat((torch.full_like(y, x), y), 1) for x in (-0.5, 0.7))
    found = edge_track(
        Driven(),
        first,
        first,
        second,
        lambda z, ctx: (z[:, 0] > 0).long(),
        horizon=1,
        segments=100,
        close=1e-6,
        part=1e-3,
    )
    assert found.exponent.low < 2 < found.exponent.high


def test_edge_on_a_sphere() -> None:
    """The border of 'north or south' is the equator, though the straight line would leave the sphere."""

    class Polar(Map):
        def segment(self, z: Tensor, ctx: Any) -> Tensor:
            moved = z * torch.tensor([1.0, 1.0, 1.5], dtype=z.dtype)
            return 2 * moved / moved.norm(dim=-1, keepdim=True)

    first = torch.tensor([[[0.6, 1.2, 1.2]]], dtype=torch.float64)
    second = torch.tensor([[[0.6, 1.2, -0.4]]], dtype=torch.float64)
    first, second = (2 * v / v.norm(dim=-1, keepdim=True) for v in (first, second))
    north = lambda z, ctx: (z[:, 0, 2] > 0).long()  # noqa: E731
    found = edge_track(
        Polar(),
        first[:, 0],
        first,
        second,
        north,
        horizon=40,
        segments=12,
        close=1e-9,
        part=1e-6,
        sphere=True,
    )
    assert max(abs(float(z[0, 0, 2])) for z in found.path) < 1e-5
    assert all(float(z.norm()) == pytest.approx(2, abs=1e-12) for z in found.path)
    assert found.exponents[0] == pytest.approx(math.log(1.5), abs=1e-4)
    assert math.isnan(found.exponent.low)  # one row has no interval
    middle = geodesic_middle(first, second)
    assert float(middle.norm()) == pytest.approx(2)
    assert float((middle - first).norm()) == pytest.approx(float((middle - second).norm()))


def test_edge_needs_a_range() -> None:
    with pytest.raises(UserError, match="expected 0 < close < part"):
        edge_track(Cubic(), column([-1]), column([-1]), column([1]), sign, horizon=3, segments=3, close=1e-2)


# -- uncertainty


def test_a_fractal_border_has_the_exponent_of_its_dimension() -> None:
    """Even or odd life outside the middle third: the border is the Cantor set, alpha = 1 - ln 2 / ln 3."""
    rng = np.random.default_rng(4)
    starts = torch.from_numpy(np.stack((rng.uniform(0.05, 0.95, 10_000), np.zeros(10_000)), axis=1))
    parity = lambda z, ctx: (z[:, 1].round() % 2).long()  # noqa: E731
    found = _pairs(Thirds(), starts, parity, [3.0**-j for j in range(2, 9)])
    assert found.alpha.low < 1 - LN2 / LN3 < found.alpha.high
    assert found.alpha.high - found.alpha.low < 0.1


def _pairs(system: Any, starts: Tensor, outcome: Any, sizes: list[float]) -> Any:
    """Pairs that differ in x only."""
    rng = np.random.default_rng(5)
    shift = torch.zeros_like(starts)
    shift[:, 0] = torch.from_numpy(rng.choice([-1.0, 1.0], len(starts)))

    def end(z: Tensor) -> Tensor:
        for _ in range(30):
            z = system.segment(z, None)
        return outcome(z, None)

    known = end(starts)
    different = torch.stack([end(starts + size * shift) != known for size in sizes], dim=1)
    return uncertainty_exponent(different[:, None].numpy(), sizes, resamples=100)


def test_a_smooth_border_has_exponent_one() -> None:
    starts = column(np.random.default_rng(6).uniform(-0.5, 0.5, 5_000))
    sizes = [0.01, 0.02, 0.04, 0.08]
    found = final_state_sensitivity(Cubic(), starts, sign, sizes=sizes, segments=20, resamples=100)
    assert found.alpha.low < 1 < found.alpha.high
    assert found.alpha.high - found.alpha.low < 0.35
    # |noise| = eps |N(0, 1)|, density 1 on both sides of 0: f = 2 eps E max(N, 0) * ... = eps E|N|
    assert found.fraction[1].value == pytest.approx(0.02 * math.sqrt(2 / math.pi), rel=0.3)


def test_sensitivity_without_batching_and_without_doubt() -> None:
    starts = column(np.random.default_rng(7).uniform(-0.5, 0.5, 300))
    settings: dict[str, Any] = {
        "sizes": [0.1, 0.4],
        "segments": 20,
        "starts": 3,
        "spread": 0.2,
        "resamples": 50,
    }
    whole = final_state_sensitivity(Cubic(), starts, sign, **settings)
    parts = final_state_sensitivity(Cubic(), starts, sign, **settings, batch_size=7)
    assert whole == parts
    nothing = final_state_sensitivity(Cubic(), column([0.5] * 9), sign, sizes=[1e-9, 1e-8], segments=5)
    assert math.isnan(nothing.alpha.value)
    assert "pairs differed at 0 of 2 sizes" in nothing.reason
    everything = uncertainty_exponent(np.ones((3, 2, 2), bool), [1e-3, 1e-1])
    assert math.isnan(everything.alpha.value)
    assert "levelled off" in everything.reason
    with pytest.raises(UserError, match="all starts would be equal"):
        final_state_sensitivity(Cubic(), starts, sign, sizes=[0.1, 0.2], segments=5, starts=2)


def test_exponent_is_the_poisson_regression() -> None:
    import statsmodels.api as sm

    sizes, counts = np.array([0.01, 0.03, 0.1, 0.3]), np.array([3, 9, 15, 40])
    different = np.arange(60)[:, None, None] < counts
    found = uncertainty_exponent(different, sizes.tolist(), resamples=100)
    glm = sm.GLM(counts, sm.add_constant(np.log(sizes)), family=sm.families.Poisson()).fit()
    assert found.alpha.value == pytest.approx(glm.params[1], abs=1e-6)
