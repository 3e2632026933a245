"""The instruments of structure on a trained network: one orbit at rest, one slow, one that never settles.

The page `docs/howto/structure.md` is run once, block by block, and its variables are judged here.
"""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import loopscope as ls
from loopscope.dynamics import (
    covariant_vectors,
    estimate_period,
    frozen,
    judged,
    late_states,
    sprinkler,
    stagger_and_step,
    state_after,
)
from loopscope.dynamics.edge import edge_track
from loopscope.dynamics.fixed_points import fixed_points, leading_multipliers
from loopscope.dynamics.system import exact_arithmetic
from loopscope.errors import UserError
from loopscope.latent import distance, flatten, norm, rows, tree_map, unflatten
from tiny import tiny_model, tiny_puzzles

PAGE = Path(__file__).parent.parent / "docs" / "howto" / "structure.md"
FAILED, SLOW, QUICK = range(3)  # the puzzles of the page


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the blocks of the page leave behind."""
    names: dict[str, Any] = {}
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.M | re.S)
    with contextlib.chdir(tmp_path_factory.mktemp("page")):
        for text in blocks:
            exec(compile(text, str(PAGE), "exec"), names)
    return names


def test_the_three_puzzles_are_what_the_page_says(page: dict[str, Any]) -> None:
    first, moving = page["runs"].first_solved.values, page["runs"].residual[:, -1].values
    assert first[FAILED] == -1
    assert first[SLOW] > first[QUICK] > 0
    assert moving[FAILED] > 0.1
    assert (moving[[SLOW, QUICK]] < 1e-3).all()
    states = late_states(page["model"], rows(page["batch"], [FAILED, QUICK]), segments=24, window=4)
    assert estimate_period(states, 3).tolist() == [0, 1]


def test_solved_puzzles_rest_at_an_attracting_fixed_point_that_is_the_answer(page: dict[str, Any]) -> None:
    points, model, batch = page["points"], page["model"], page["batch"]
    assert points.period.tolist() == [0, 1, 1]
    assert (points.residual[[SLOW, QUICK]] < 1e-5).all()
    assert (points.moved[[SLOW, QUICK]] < 1e-3).all()
    with exact_arithmetic():
        ctx = model.encode(batch)
        image = model.segment(points.state, ctx)
        assert (distance(image, points.state) / norm(image))[[SLOW, QUICK]].max() < 1e-5
        tokens = model.readout(points.state, ctx).logits.argmax(-1)
    assert (tokens == batch.labels).all(1).tolist() == [False, True, True]
    assert np.isnan(points.spectral_radius[FAILED])
    assert points.residual[FAILED] > 0.01


def test_the_multiplier_is_the_exponent_of_the_orbit_at_rest(page: dict[str, Any]) -> None:
    """Two ways that share nothing: ARPACK on reverse mode, and QR on tangents written by hand."""
    radius, exponent = page["points"].spectral_radius, page["late"].ftle.values[:, 0]
    assert (radius[[SLOW, QUICK]] < 1).all()
    np.testing.assert_allclose(exponent[[SLOW, QUICK]], np.log(radius[[SLOW, QUICK]]), atol=0.12)
    assert exponent[FAILED] > 0.1


def test_products_with_the_derivative_by_reverse_mode_twice_and_by_forward_mode() -> None:
    """A map that hides part of itself from reverse mode gets the same multipliers."""
    model = tiny_model().compute_in(torch.float64)
    batch = tiny_puzzles(1).batch()
    z = state_after(model, batch, 2)
    ctx = model.encode(batch)

    class Hidden:
        def segment(self, z: Any, ctx: Any) -> Any:
            with torch.no_grad():
                return model.segment(z, ctx)

    plain = leading_multipliers(model, ctx, z, 3)
    np.testing.assert_allclose(np.abs(leading_multipliers(Hidden(), ctx, z, 3)), np.abs(plain), rtol=1e-6)
    flat = flatten(z)
    f = lambda x: flatten(model.segment(unflatten(x, z), ctx))  # noqa: E731
    with exact_arithmetic():
        dense = torch.func.jacfwd(f)(flat)[0, :, 0]
    exact = np.sort(np.abs(np.linalg.eigvals(dense.numpy())))[::-1][:3]
    np.testing.assert_allclose(np.abs(plain), exact, rtol=1e-6)


def test_states_with_few_digits_are_refused() -> None:
    model, batch = tiny_model(forward_dtype="bfloat16"), tiny_puzzles(1).batch()
    z = state_after(model, batch, 1)
    system = judged(model)
    with pytest.raises(UserError, match="bfloat16: expected float32"):
        fixed_points(model, batch, z=z)
    with pytest.raises(UserError, match="bfloat16: expected float32"):
        edge_track(system, batch, z, z, system.solved, horizon=1, segments=1)
    with pytest.raises(UserError, match="expected 0 or more"):
        state_after(model, batch, -1)


# -- the border


def test_the_border_lies_between_the_outcomes_and_is_left(page: dict[str, Any]) -> None:
    edge, system = page["edge"], page["system"]
    assert edge.outcomes.tolist() == [[1, 0]]
    assert edge.reason == ("",)
    assert edge.gap.shape == (1, 3)
    assert edge.gap.min() < 1e-3  # the two sides all but touch
    assert edge.exponents[0] > 0
    ctx = system.encode(page["one"])
    with exact_arithmetic():
        x = system.inside.encode(page["one"])
        for token_norms in (edge.path[0].z_H.norm(dim=-1), edge.below.z_H.norm(dim=-1)):
            torch.testing.assert_close(
                token_norms, token_norms.mean().expand_as(token_norms), rtol=0.05, atol=0
            )
    assert torch.equal(x.x, ctx.ctx.x)


def test_doubt_matters_to_the_wanderer_alone(page: dict[str, Any]) -> None:
    shares = [share.value for share in page["doubt"].fraction]
    assert shares == sorted(shares)
    assert 0 < shares[-1] <= 0.5  # 2 of 6 pairs belong to the failure
    assert page["doubt"].alpha.value < 0.5


# -- where it would wander


def test_the_sprinkler_keeps_what_a_measurement_calls_unsolved(page: dict[str, Any]) -> None:
    system, batch = page["system"], page["batch"]
    found = sprinkler(system, batch, system.unsolved, segments=4, middle=(1, 3), exponents=1)
    first = page["runs"].first_solved.values
    assert found.escaped_at.tolist() == [int(t) if 0 < t <= 4 else -1 for t in first]
    assert found.survivors.tolist() == [FAILED, SLOW]
    growth = ls.lyapunov_spectrum(page["model"], batch, segments=3).growth.values[found.survivors, 1:3]
    np.testing.assert_allclose(found.growth, growth, atol=1e-3)


def test_stagger_and_step_stays_where_the_puzzle_is_unsolved(page: dict[str, Any]) -> None:
    system, one = page["system"], page["one"]
    z = state_after(system, one, 4)
    orbit = stagger_and_step(system, one, z, system.unsolved, length=5, hold=3, tries=4, rounds=2)
    assert (flatten(orbit.states).shape[0], orbit.reason) == (5, "")
    with exact_arithmetic():
        for i in range(5):
            assert system.unsolved(rows(orbit.states, slice(i, i + 1)), system.encode(one)).all()
    if orbit.staggers == 0:  # then it is the plain orbit
        assert distance(rows(orbit.states, slice(0, 1)), state_after(system, one, 5))[0] < 1e-3


def test_covariant_vectors_are_carried_onto_one_another(page: dict[str, Any]) -> None:
    model, batch = page["model"], rows(page["batch"], slice(QUICK, QUICK + 1))
    z = state_after(model, batch, 10)
    table = covariant_vectors(
        model, batch, segments=2, exponents=2, forward=4, backward=4, z0=z, vectors=True
    )
    at = state_after(model, batch, 4, z0=z)
    V = torch.from_numpy(table.vector.values).float()
    with exact_arithmetic():
        ctx = model.encode(batch)
        for i in range(2):
            v = unflatten(V[:, 0, :, i], at)
            image = flatten(torch.func.jvp(lambda z: model.segment(z, ctx), (at,), (v,))[1])
            assert float(image.norm().log()) == pytest.approx(table.growth.values[0, 0, i], abs=1e-2)
            cosine = torch.cosine_similarity(image, V[:, 1, :, i]).abs()
            assert float(cosine) > 0.999
    assert (table.growth.values < 0).all()  # at rest everything shrinks


# -- interventions


def test_both_parts_are_needed_and_a_foreign_solution_is_forgotten(page: dict[str, Any]) -> None:
    outcomes = {name: solved[:, -1] for name, solved in page["outcomes"].items()}
    assert outcomes["plain"][QUICK]
    assert not outcomes["z_L frozen"].any()
    assert not outcomes["z_H frozen"].any()
    # the state of the third holds its solution; under another input it leads to the answer of that input
    assert page["outcomes"]["state of the third"][SLOW, -1]
    donor, own = page["batch"].labels[QUICK], page["batch"].labels[SLOW]
    assert (donor != own).float().mean() > 0.3
    assert page["outcomes"]["kicked at 8"][QUICK, -1]


def test_judged_changes_nothing_and_carries_the_answers(page: dict[str, Any]) -> None:
    model, batch = page["model"], page["batch"]
    system = judged(model)
    with exact_arithmetic():
        ctx = system.encode(batch)
        z = state_after(model, batch, 8)
        assert distance(state_after(system, batch, 8), z).max() == 0
        assert system.solved(z, ctx).tolist() == page["runs"].solved[:, 7].values.astype(int).tolist()
        assert (system.unsolved(z, ctx).long() + system.solved(z, ctx) == 1).all()
        twice = tree_map(lambda t: torch.cat([t, t]), z)
        answers = system.answer(twice, tree_map(lambda t: torch.cat([t, t]), ctx))
    assert torch.equal(answers[:3], answers[3:])
    assert len(answers.unique()) == 3
    held = frozen(system, "z_L")  # through every update, as with the model itself
    bare = frozen(model, "z_L")
    assert distance(state_after(held, batch, 2), state_after(bare, batch, 2)).max() == 0
    with pytest.raises(UserError, match="no labels"):
        system.encode(ls.Batch(batch.inputs))


# -- restarts


def test_restart_times_of_the_page(page: dict[str, Any]) -> None:
    times = page["times"]
    assert times.shape == (3, 6)
    assert (times[QUICK] > 0).all()
    assert (times[FAILED] > 0).mean() < 0.5
    found = page["restart_advantage"](page["onward"], times, at=4, within=8)
    assert found.fresh.n == 2  # those unsolved at 4
    shares = page["solved_within"](times, budget=12, cutoffs=[12])[12]
    assert shares.value == pytest.approx((times > 0).mean())
