"""Tangents and exponents: against numpy, full Jacobians, analytic maps and recorded reference numbers."""

from __future__ import annotations

import json
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor

from loopscope.dynamics.lyapunov import growth_dataset, lyapunov_spectrum
from loopscope.dynamics.tangents import advance, orthonormal_start, orthonormalise, push
from loopscope.dynamics.toys import Henon, LinearMap, Logistic, MatrixProduct
from loopscope.errors import UserError
from loopscope.latent import flatten, rows, unflatten
from loopscope.models import build_model
from loopscope.models.official import settings_from_arch, strip_prefix
from loopscope.tasks.base import Batch
from shared import shared_path
from tiny import tiny_model, tiny_puzzles

PARITY = "fixtures/official_parity"


class Pair(NamedTuple):
    a: Tensor
    b: Tensor


class Coupled:
    """A small nonlinear map on a two-part latent with an input; counts its calls."""

    applications_per_segment = 2

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(0)
        self.W = torch.randn(5, 5, generator=generator, dtype=torch.float64).to(dtype)
        self.calls = 0

    def encode(self, batch: Tensor) -> Tensor:
        return batch

    def initial_state(self, ctx: Tensor) -> Pair:  # expanded memory, as the starts of the networks
        return Pair(
            ctx.new_ones(1, 1, 3).expand(len(ctx), 1, 3), ctx.new_full((1, 2), 0.5).expand(len(ctx), 2)
        )

    def segment(self, z: Pair, ctx: Tensor) -> Pair:
        self.calls += 1
        out = torch.tanh(flatten(z) @ self.W.T + ctx)
        return Pair(out[:, :3].reshape(-1, 1, 3), out[:, 3:])

    def readout(self, z: Pair, ctx: Tensor) -> Any:
        raise NotImplementedError


def jacobian_at(system: Coupled, z: Pair, ctx: Tensor) -> Tensor:
    """The whole Jacobian of one puzzle, by reverse mode."""

    def f(x: Tensor) -> Tensor:
        return flatten(system.segment(unflatten(x[None], z), ctx))[0]

    return torch.autograd.functional.jacobian(f, flatten(z)[0])


def matrices(height: int, width: int, batch: int = 6) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).standard_normal((batch, height, width)))


# -- QR


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-12)])
def test_orthonormalise_equals_lapack(dtype: torch.dtype, tolerance: float) -> None:
    V = (matrices(50, 7) * torch.logspace(-6, 6, 7, dtype=torch.float64)).to(dtype)
    Q, growth = orthonormalise(V)
    R = np.linalg.qr(V.double().numpy())[1]
    expected = np.log(np.abs(np.diagonal(R, axis1=1, axis2=2)))
    np.testing.assert_allclose(growth.numpy(), expected, atol=1e-10)
    assert Q.dtype == dtype
    assert (Q.mT @ Q - torch.eye(7, dtype=dtype)).abs().max() < tolerance


@pytest.mark.parametrize("condition", [1e2, 1e4, 1e6, 1e8])
def test_orthonormalise_of_nearly_dependent_columns(condition: float) -> None:
    base = matrices(40, 3)
    V = base[:, :, :1] + base / condition  # columns differ from one another by 1 / condition
    Q, growth = orthonormalise(V)
    R = np.linalg.qr(V.numpy())[1]
    expected = np.log(np.abs(np.diagonal(R, axis1=1, axis2=2)))
    np.testing.assert_allclose(growth.numpy(), expected, atol=1e-6 if condition > 1e6 else 1e-9)
    assert (Q.mT @ Q - torch.eye(3)).abs().max() < 1e-12


def test_orthonormalise_keeps_the_leading_direction_positive() -> None:
    V = matrices(20, 3)
    Q, growth = orthonormalise(V)
    torch.testing.assert_close(Q[:, :, 0] * growth[:, :1].exp(), V[:, :, 0])
    assert ((Q * V).sum(1) > 0).all(), "diag R must be positive"


def test_vanishing_and_dependent_columns_give_minus_infinity() -> None:
    V = matrices(6, 3, batch=4)
    V[0] = 0
    V[1, :, 1] = 0
    V[2, :, 2] = V[2, :, 0] - 2 * V[2, :, 1]
    Q, growth = orthonormalise(V)
    inf = np.isneginf(growth.numpy())
    assert inf.tolist() == [[True] * 3, [False, True, False], [False, False, True], [False] * 3]
    assert not growth.isnan().any()
    torch.testing.assert_close(Q.mT @ Q, torch.eye(3, dtype=torch.float64).expand(4, 3, 3))


def test_a_broken_row_stays_alone() -> None:
    V = matrices(6, 2, batch=3)
    expected = orthonormalise(V)[1]
    V[1, 2, 0] = torch.nan
    V[2, 0, 1] = torch.inf
    growth = orthonormalise(V)[1]
    assert growth[1:].isnan().all()
    torch.testing.assert_close(growth[0], expected[0])


# -- tangents


def test_push_is_the_full_jacobian_and_computes_the_primal_once() -> None:
    system, ctx = Coupled(), matrices(4, 5, batch=1)[0]
    z = system.initial_state(ctx)
    Q = orthonormal_start(z, 4, seed=0)
    image, V = push(lambda s: system.segment(s, ctx), z, Q)
    assert system.calls == 1
    torch.testing.assert_close(flatten(image), flatten(system.segment(z, ctx)))
    for i in range(4):
        jacobian = jacobian_at(system, rows(z, slice(i, i + 1)), ctx[i : i + 1])
        torch.testing.assert_close(V[i], jacobian @ Q[i])


def test_start_depends_neither_on_batching_nor_on_k() -> None:
    z = torch.zeros(5, 3, 4)
    whole = orthonormal_start(z, 3, seed=7)
    parts = [orthonormal_start(z[i : i + 1], 3, seed=7, puzzle_index=[i]) for i in range(5)]
    assert torch.equal(whole, torch.cat(parts))
    torch.testing.assert_close(whole[:, :, :2], orthonormal_start(z, 2, seed=7))
    assert not torch.equal(whole, orthonormal_start(z, 3, seed=8))
    assert not torch.equal(whole[0], whole[1])
    torch.testing.assert_close(whole.mT @ whole, torch.eye(3).expand(5, 3, 3))


def test_exponents_do_not_depend_on_the_batch() -> None:
    ctx = matrices(3, 5, batch=1)[0]
    whole = lyapunov_spectrum(Coupled(), ctx, segments=6, exponents=5)
    alone = lyapunov_spectrum(Coupled(), ctx[:1], segments=6, exponents=5)
    np.testing.assert_allclose(whole.growth[:1], alone.growth, atol=1e-12)


def test_all_exponents_sum_to_the_determinant() -> None:
    system, ctx = Coupled(), matrices(2, 5, batch=1)[0]
    table = lyapunov_spectrum(system, ctx, segments=5, exponents=5)
    z = system.initial_state(ctx)
    for t in range(5):
        determinant = torch.linalg.det(jacobian_at(system, rows(z, slice(0, 1)), ctx[:1]))
        assert float(table.growth[0, t].sum()) == pytest.approx(math.log(abs(determinant)), abs=1e-10)
        z = system.segment(z, ctx)


def test_segment_and_update_give_the_same_growth() -> None:
    batch = matrices(4, 4, batch=6).view(2, 3, 4, 4)
    pair = [
        lyapunov_spectrum(MatrixProduct(3), batch, segments=4, exponents=3, reorth=r).growth
        for r in ("segment", "update")
    ]
    np.testing.assert_allclose(*pair, atol=1e-10)


def test_streaming_equals_the_whole() -> None:
    system, ctx = Coupled(), matrices(2, 5, batch=1)[0]
    table = lyapunov_spectrum(system, ctx, segments=4, exponents=2, seed=3)
    z = system.initial_state(ctx)
    Q, steps = orthonormal_start(z, 2, seed=3), []
    for _ in range(4):
        z, Q, growth = advance([lambda s: system.segment(s, ctx)], z, Q)
        steps.append(growth.numpy())
    assert np.array_equal(np.stack(steps, axis=1), table.growth.values)


# -- dull cases


def test_fixed_point_of_a_contraction() -> None:
    table = lyapunov_spectrum(LinearMap(0.5 * torch.eye(3, dtype=torch.float64)), segments=10, exponents=3)
    np.testing.assert_allclose(table.growth, math.log(0.5), atol=1e-12)


def test_a_map_that_forgets_everything() -> None:
    table = lyapunov_spectrum(LinearMap(torch.zeros(2, 2)), segments=4, exponents=2)
    assert np.isneginf(table.growth).all()
    assert np.isneginf(table.ftle).all()


def test_superstable_fixed_point() -> None:
    half = torch.full((1, 1), 0.5, dtype=torch.float64)  # logistic 2: f(.5) = .5, f'(.5) = 0
    assert np.isneginf(lyapunov_spectrum(Logistic(2.0), half, segments=3).growth).all()


def test_an_orbit_that_diverges_is_nan_and_leaves_the_others_alone() -> None:
    starts = torch.tensor([[0.1, 0.1], [5.0, 5.0]], dtype=torch.float64)
    table = lyapunov_spectrum(Henon(), starts, segments=50, exponents=2)
    assert np.isfinite(table.ftle[0]).all()
    assert np.isnan(table.ftle[1]).all()


# -- the labelled result


def test_dataset_is_labelled() -> None:
    table = lyapunov_spectrum(
        Coupled(torch.float32), torch.zeros(3, 5), segments=4, exponents=2, transient=1, seed=5
    )
    assert dict(table.sizes) == {"puzzle": 3, "segment": 4, "exponent": 2}
    assert table.segment.values.tolist() == [1, 2, 3, 4]
    for name in (*table.data_vars, *table.coords):
        assert table[name].attrs["units"], name
        assert table[name].attrs["long_name"], name
    assert table.growth.attrs["units"] == "nats per segment"
    assert table.attrs["applications_per_segment"] == 2
    assert (table.attrs["seed"], table.attrs["transient"]) == (5, 1)
    assert table.attrs["tangent_dtype"] == table.attrs["traj_dtype"] == "float32"
    np.testing.assert_allclose(table.ftle, table.growth[:, 1:].mean("segment"))
    assert table.equals(
        lyapunov_spectrum(
            Coupled(torch.float32), torch.zeros(3, 5), segments=4, exponents=2, transient=1, seed=5
        )
    )


def test_growth_dataset_keeps_minus_infinity() -> None:
    growth = np.array([[[0.5], [-np.inf]]])
    assert np.isneginf(growth_dataset(growth).ftle.values).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"segments": 4, "exponents": 3}, "exponents=3: expected 1 to 2"),
        ({"segments": 4, "exponents": 0}, "exponents=0: expected 1 to 2"),
        ({"segments": 4, "transient": 4}, "transient=4: expected 0 to 3"),
        ({"segments": 4, "reorth": "update"}, "Henon has no method updates"),
        ({"segments": 4, "z0": torch.zeros(1, 2).bfloat16()}, "latent of dtype bfloat16"),
    ],
)
def test_mistakes_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        lyapunov_spectrum(Henon(), **arguments)


# -- networks


def official_case(name: str, device: str = "cpu") -> tuple[Any, Batch]:
    facts = json.loads(shared_path(f"{PARITY}/{name}.json").read_text())
    arrays = np.load(shared_path(f"{PARITY}/{name}.npz"))
    model = build_model(settings_from_arch({"arch": name[:3], **facts["config"]}, {}))
    state = {k.removeprefix("state/"): torch.from_numpy(arrays[k]) for k in arrays if k.startswith("state/")}
    model.load_state_dict(strip_prefix(state))
    names = ("inputs", "puzzle_identifiers", "labels")
    batch = Batch(*(torch.from_numpy(arrays[f"eval/batch/{key}"]).long().to(device) for key in names))
    return model.to(device), batch


@pytest.mark.parametrize("reorth", ["segment", "update"])
@pytest.mark.parametrize("name", ["trm_mlp", "trm_att_rope", "hrm_rope"])
def test_recorded_exponents(name: str, reorth: Any, device: str) -> None:
    recorded = np.load(shared_path(f"{PARITY}/lyap_{name}.npz"))
    model, batch = official_case(name, device)
    start = torch.from_numpy(recorded["tangent0"]).to(device)
    table = lyapunov_spectrum(model, batch, segments=4, exponents=3, reorth=reorth, tangents=start)
    for t, tolerance in enumerate([1e-5, 1e-4, 1e-3, 5e-3], start=1):
        expected = recorded[f"log_abs_diag_R/seg{t}"]
        np.testing.assert_allclose(table.growth.sel(segment=t), expected, atol=tolerance)


@pytest.mark.parametrize("name", ["trm_mlp", "trm_att_rope", "hrm_rope"])
def test_recorded_tangent_image(name: str, device: str) -> None:
    recorded = np.load(shared_path(f"{PARITY}/lyap_{name}.npz"))
    model, batch = official_case(name, device)
    ctx = model.encode(batch)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        start = torch.from_numpy(recorded["tangent0"]).to(device)
        image = push(lambda z: model.segment(z, ctx), model.initial_state(ctx), start)[1]
    np.testing.assert_allclose(image.detach().cpu(), recorded["tangent_image_seg1"], atol=1e-4)


def test_post_norm_leaves_no_tangent_along_the_token() -> None:
    """Tokens stay on a sphere, so the image of J is orthogonal to every token."""
    model, batch = official_case("trm_att_rope")
    ctx = model.encode(batch)
    z = model.initial_state(ctx)
    Q = orthonormal_start(z, 3, seed=0)
    z, _, _ = advance([lambda s: model.segment(s, ctx)], z, Q)
    Q = orthonormal_start(z, 3, seed=1)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        image, V = push(lambda s: model.segment(s, ctx), z, Q)
    for column in V.unbind(2):
        for token, tangent in zip(image, unflatten(column, z), strict=True):
            assert torch.cosine_similarity(token, tangent, dim=2).abs().max() < 1e-4


# -- seeds, attribution, dtypes


def test_spread_over_tangent_seeds() -> None:
    """Every set equals a run of its own with the next seed."""
    ctx = matrices(3, 5, batch=1)[0]
    table = lyapunov_spectrum(Coupled(), ctx, segments=4, exponents=2, transient=1, tangent_seeds=3, seed=7)
    for s in range(3):
        alone = lyapunov_spectrum(Coupled(), ctx, segments=4, exponents=2, seed=7 + s)
        np.testing.assert_allclose(table.growth_by_seed[:, :, s], alone.growth, atol=1e-10)
    np.testing.assert_allclose(table.growth, table.growth_by_seed[:, :, 0])
    expected = table.growth_by_seed[:, 1:].mean("segment").std("tangent_seed", ddof=1)
    np.testing.assert_allclose(table.ftle_spread, expected, atol=1e-12)
    np.testing.assert_allclose(table.ftle_whole, table.growth.mean("segment"))


def test_growth_is_attributed_to_updates() -> None:
    model, batch = tiny_model().compute_in("float64"), tiny_puzzles(2).batch()
    table = lyapunov_spectrum(model, batch, segments=2, exponents=2, reorth="update")
    assert table["update"].values.tolist() == ["L", "H"]
    np.testing.assert_allclose(table.growth_by_update.sum("update"), table.growth, atol=1e-12)
    ctx = model.encode(batch)
    z = model.initial_state(ctx)
    Q, low = orthonormal_start(z, 2, seed=0), 0
    for which, f in zip(model.schedule, model.updates(ctx), strict=True):
        z, Q, growth = advance([f], z, Q)
        low = low + growth * (which == "L")
    np.testing.assert_allclose(table.growth_by_update.sel(update="L", segment=1), low, atol=1e-9)


@pytest.mark.parametrize("reorth", ["segment", "update"])
def test_tangents_along_an_orbit_of_another_dtype(reorth: Any) -> None:
    """The orbit is that of the bfloat16 model, bit for bit; the map is linearised in float32 upon it."""
    model, batch = tiny_model().compute_in("bfloat16"), tiny_puzzles(2).batch()
    answer = lambda z, ctx: {"halt": model.readout(z, ctx).halt_logit}  # noqa: E731
    table = lyapunov_spectrum(
        model, batch, segments=3, exponents=2, reorth=reorth, tangent_dtype="float32", record=answer
    )
    assert (table.attrs["traj_dtype"], table.attrs["tangent_dtype"]) == ("bfloat16", "float32")
    with torch.no_grad():
        ctx = model.encode(batch)
        z, plain = model.initial_state(ctx), []
        for _ in range(3):
            for f in model.updates(ctx):
                z = f(z)
            plain.append(model.readout(z, ctx).halt_logit)
    assert np.array_equal(table.halt, torch.stack(plain, 1))
    close = lyapunov_spectrum(tiny_model(), batch, segments=1, exponents=2)
    np.testing.assert_allclose(table.growth[:, :1], close.growth, atol=0.1)
    assert not np.allclose(table.growth[:, :1], close.growth, atol=1e-6)
    with pytest.raises(UserError, match="latent of dtype bfloat16"):
        lyapunov_spectrum(model, batch, segments=3)
