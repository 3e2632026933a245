"""Measuring: analytic orbits, one trajectory for everything, files that resume."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import xarray as xr

from loopscope.dynamics import measure as measuring
from loopscope.dynamics.lyapunov import lyapunov_spectrum
from loopscope.dynamics.measure import measure, open_measurement
from loopscope.dynamics.measurement_file import OtherMeasurement
from loopscope.errors import UserError
from loopscope.evaluation.evaluate import evaluate
from loopscope.evaluation.solve import solve
from loopscope.evaluation.starts import perturbed_start
from loopscope.latent import flatten
from loopscope.tasks import PuzzleSet
from tiny import Approach, tiny_model, tiny_puzzles
from together import finish, start, together

FULL = {
    "segments": 6,
    "exponents": 2,
    "exponent_segments": 3,
    "sigmas": [0.0, 0.5],
    "restarts": 2,
    "batch_size": 4,
}


def answered_by(model: object, puzzles: PuzzleSet, segments: int = 6) -> PuzzleSet:
    """The puzzles with the model's own answers as labels, of puzzle i after segment 1 + i % segments."""
    trace = solve(model, puzzles, segments=segments, trace=True).trace
    n = np.arange(len(puzzles))
    return dataclasses.replace(puzzles, labels=trace[n, n % segments])


def values(runs: xr.Dataset) -> xr.Dataset:
    """In memory, without the attributes of the whole, which tell the time."""
    return runs.load().drop_attrs(deep=False)


# -- numbers


def test_analytic_map():
    puzzles, rate = tiny_puzzles(5), 0.7
    runs = measure(Approach(rate), puzzles, segments=8, exponents=3, exponent_segments=4, batch_size=2)
    labels = puzzles.labels.astype(float)
    t = np.arange(1, 9)
    norms = np.linalg.norm(labels, axis=1)[:, None]
    np.testing.assert_allclose(runs.drift, rate ** (t - 1) * (1 - rate) * norms, rtol=1e-6)
    np.testing.assert_allclose(
        runs.residual, (rate ** (t - 1) * (1 - rate) / (1 - rate**t))[None].repeat(5, 0), rtol=1e-6
    )
    np.testing.assert_allclose(runs.growth[:, :4], math.log(rate), rtol=1e-9)
    assert np.isnan(runs.growth[:, 4:]).all()
    np.testing.assert_allclose(runs.ftle, math.log(rate), rtol=1e-9)
    solved = rate ** t[None] * labels.max(1, keepdims=True) < 0.5
    assert solved.any()
    assert not solved.all()
    np.testing.assert_array_equal(runs.solved, solved)
    np.testing.assert_array_equal(runs.first_solved, solved.argmax(1) + 1)
    np.testing.assert_allclose(
        runs.halt_logit, (1 - rate ** t[None]) * labels[:, :1] - 2.5, rtol=1e-5, atol=1e-6
    )
    right = np.rint((1 - rate ** t[None, :, None]) * labels[:, None]) == labels[:, None]
    np.testing.assert_allclose(runs.cell_accuracy, right.mean(2), rtol=1e-6)
    np.testing.assert_array_equal(runs.answer, puzzles.labels)
    assert runs.attrs["traj_dtype"] == "float64"
    assert "budget" not in runs.attrs


def test_two_parts():
    puzzles, (fast, slow) = tiny_puzzles(3), (0.3, 0.8)
    runs = measure(Approach(fast, slow), puzzles, segments=3, exponents=32)
    norms = np.linalg.norm(puzzles.labels.astype(float), axis=1)[:, None]
    t = np.arange(1, 4)
    drift_H, drift_L = fast ** (t - 1) * (1 - fast) * norms, slow ** (t - 1) * (1 - slow) * norms
    np.testing.assert_allclose(runs.drift_H, drift_H, rtol=1e-6)
    np.testing.assert_allclose(runs.drift_L, drift_L, rtol=1e-6)
    size = norms * np.hypot(1 - fast**t, 1 - slow**t)
    np.testing.assert_allclose(runs.residual, np.hypot(drift_H, drift_L) / size, rtol=1e-6)
    # all 32 directions together: the volume, whatever the tangents were
    np.testing.assert_allclose(runs.growth.sum("exponent"), 16 * math.log(slow * fast), rtol=1e-9)


def test_restarts_of_the_analytic_map():
    puzzles, rate = tiny_puzzles(4), 0.7
    runs = measure(Approach(rate), puzzles, segments=8, sigmas=[0.0, 0.5], restarts=2, restart_segments=3)
    assert not runs.basin_solved[:, 0].any()  # 3 segments are too few from the plain start
    assert (runs.basin_displacement[:, 0] == 0).all()
    labels, index = torch.from_numpy(puzzles.labels.astype(float)), np.arange(4)
    for r in range(2):
        z = perturbed_start(torch.zeros_like(labels), 0.5, seed=0, restart=r, puzzle_index=index)
        moved = rate * z.norm(dim=1) / ((1 - rate) * labels.norm(dim=1))
        np.testing.assert_allclose(runs.basin_displacement[:, 1, r], moved, rtol=1e-5)


def test_restarts_solved_at_some_and_at_the_last_segment():
    model, puzzles = tiny_model(), tiny_puzzles(6)
    puzzles = answered_by(model, puzzles)
    runs = measure(model, puzzles, segments=6, sigmas=[0.0], restarts=1, restart_segments=6)
    assert runs.basin_solved.all()  # each is solved at the segment whose answer is its label
    np.testing.assert_array_equal(runs.basin_final[:, 0, 0], runs.solved[:, -1])
    assert 0 < int(runs.basin_final.sum()) < 6


@pytest.mark.parametrize("settings", [{}, {"mlp_t": False, "pos_encodings": "rope"}])
def test_outcome_and_growth_come_from_the_evaluated_trajectory(settings):
    model = tiny_model(**settings)
    puzzles = answered_by(model, tiny_puzzles())
    runs = measure(model, puzzles, segments=6, exponents=2, exponent_segments=6, batch_size=10)
    scores = evaluate(model, puzzles, segments=range(1, 7), batch_size=10).scores
    for t in range(1, 7):
        assert float(runs.solved.sel(segment=t).mean()) == scores[t]["exact_accuracy"].value
    np.testing.assert_array_equal(runs.solved.values[np.arange(10), np.arange(10) % 6], True)
    np.testing.assert_array_equal(runs.answer, solve(model, puzzles, segments=4).tokens)  # budget 4
    table = lyapunov_spectrum(model, puzzles.batch(), segments=6, exponents=2)
    np.testing.assert_allclose(runs.growth, table.growth, rtol=1e-4, atol=1e-4)


def test_drift_of_a_model_by_hand():
    model, puzzles = tiny_model(), tiny_puzzles(3)
    runs = measure(model, puzzles, segments=2)
    with torch.no_grad():
        ctx = model.encode(puzzles.batch())
        z = [model.initial_state(ctx)]
        for _ in range(2):
            z.append(model.segment(z[-1], ctx))
    for t in (1, 2):
        for name in ("H", "L"):
            new, old = getattr(z[t], f"z_{name}"), getattr(z[t - 1], f"z_{name}")
            by_hand = (new - old).flatten(1).norm(dim=1)
            np.testing.assert_allclose(runs[f"drift_{name}"].sel(segment=t), by_hand, rtol=1e-5)
        new, old = flatten(z[t]), flatten(z[t - 1])
        by_hand = (new - old).norm(dim=1) / new.norm(dim=1)
        np.testing.assert_allclose(runs.residual.sel(segment=t), by_hand, rtol=1e-5)


def test_single_state_model_has_one_drift():
    runs = measure(tiny_model("trm-singlez"), tiny_puzzles(2), segments=2, exponents=1)
    assert "drift" in runs
    assert "drift_H" not in runs


def test_reorthonormalising_after_updates_or_segments_agrees():
    model, puzzles = tiny_model(), tiny_puzzles(4)
    by_segment, by_update = (
        measure(model, puzzles, segments=3, exponents=3, reorth=reorth) for reorth in ("segment", "update")
    )
    np.testing.assert_allclose(by_segment.growth, by_update.growth, atol=2e-3)
    assert by_segment.attrs["plan"] != by_update.attrs["plan"]


def test_does_not_depend_on_the_batch_size():
    model, puzzles = tiny_model(), tiny_puzzles(7)
    kw = {"segments": 3, "exponents": 2, "sigmas": [0.3], "restarts": 2}
    one, three, all_at_once = (measure(model, puzzles, **kw, batch_size=size) for size in (1, 3, 100))
    for other in (three, all_at_once):
        xr.testing.assert_allclose(values(one), values(other), rtol=1e-3, atol=1e-3)


def test_measures_in_float32_and_gives_the_dtype_back():
    model = tiny_model(forward_dtype="bfloat16")
    runs = measure(model, tiny_puzzles(2), segments=1, exponents=1)
    assert runs.attrs["traj_dtype"] == runs.attrs["tangent_dtype"] == "float32"
    assert model.dtype == torch.bfloat16


def test_a_detached_map_has_growth_minus_infinity():
    class Detached(Approach):
        def segment(self, z, ctx):
            return super().segment(z, ctx).detach()

    runs = measure(Detached(0.7), tiny_puzzles(2), segments=2, exponents=2)
    assert np.isneginf(runs.growth).all()
    np.testing.assert_array_equal(runs.solved, measure(Approach(0.7), tiny_puzzles(2), segments=2).solved)


# -- the file


def test_every_variable_says_units_and_what_it_is(tmp_path):
    runs = measure(tiny_model(), tiny_puzzles(5), **FULL, out=tmp_path / "r.zarr")
    for name in runs.variables:
        assert runs[name].attrs["units"], name
        assert runs[name].attrs["long_name"], name
    assert set(runs.dims) == {"puzzle", "segment", "exponent", "sigma", "restart", "cell"}
    assert runs["givens"].dims == runs["rating"].dims == ("puzzle",)
    assert "source" not in runs.variables  # words are left out
    assert "measured" not in runs.variables
    for key in (
        "model_hash",
        "data_hash",
        "seed",
        "versions",
        "command",
        "traj_dtype",
        "tangent_dtype",
        "budget",
    ):
        assert runs.attrs[key] not in (None, "")


def test_in_memory_and_on_disk_are_identical(tmp_path):
    model, puzzles = tiny_model(), tiny_puzzles(10)  # 10 = 4 + 4 + 2: the last block is shorter
    memory = measure(model, puzzles, **FULL)
    disk = measure(model, puzzles, **FULL, out=tmp_path / "r.zarr")
    xr.testing.assert_identical(values(memory), values(disk))
    np.testing.assert_array_equal(disk["givens"], puzzles.facts["givens"])


def cut_off(
    monkeypatch: pytest.MonkeyPatch, after: int, error: type[BaseException] = KeyboardInterrupt
) -> list[int]:
    """Let measuring die in the block after `after` whole ones; the list collects the blocks begun."""
    original, begun = measuring._measure_block, []

    def dying(model, puzzles, block, plan):
        begun.append(block.start)
        if len(begun) > after:
            raise error
        return original(model, puzzles, block, plan)

    monkeypatch.setattr(measuring, "_measure_block", dying)
    return begun


@pytest.mark.parametrize("after", [0, 1, 2])
def test_cut_off_and_resumed_is_the_same_file(tmp_path, monkeypatch, after):
    model, puzzles = tiny_model(), tiny_puzzles(10)
    measure(model, puzzles, **FULL, out=tmp_path / "whole.zarr")
    cut_off(monkeypatch, after)
    with pytest.raises(KeyboardInterrupt):
        measure(model, puzzles, **FULL, out=tmp_path / "cut.zarr")
    assert (tmp_path / "cut.zarr").exists() == (after > 0)
    if after:
        part = open_measurement(tmp_path / "cut.zarr")
        assert part.sizes["puzzle"] == 4 * after
        assert part.attrs["n"] == 10
    monkeypatch.undo()
    begun = cut_off(monkeypatch, 99)
    measure(model, puzzles, **FULL, out=tmp_path / "cut.zarr")
    assert begun == [0, 4, 8][after:]  # what was finished is not measured again
    assert bytes_of(tmp_path / "cut.zarr") == bytes_of(tmp_path / "whole.zarr")
    begun.clear()
    measure(model, puzzles, **FULL, out=tmp_path / "cut.zarr")
    assert begun == []


def bytes_of(folder: Path) -> dict[str, bytes]:
    """All files but the attributes of the whole, which tell the time."""
    files = [f for f in folder.rglob("*") if f.is_file() and f != folder / "zarr.json"]
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}


def share_of_the_work(out: Path, settings: dict) -> None:
    measure(tiny_model(), tiny_puzzles(10), **settings, out=out)


def test_two_processes_write_the_file_of_one_and_go_on_with_it(tmp_path, monkeypatch):
    share_of_the_work(tmp_path / "one.zarr", FULL)
    together(2, share_of_the_work, tmp_path / "two.zarr", FULL)
    assert bytes_of(tmp_path / "two.zarr") == bytes_of(tmp_path / "one.zarr")
    cut_off(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        share_of_the_work(tmp_path / "cut.zarr", FULL)
    monkeypatch.undo()
    assert finish(start(2, share_of_the_work, tmp_path / "cut.zarr", FULL | {"batch_size": 3})) == [1, 1]
    together(2, share_of_the_work, tmp_path / "cut.zarr", FULL)
    assert bytes_of(tmp_path / "cut.zarr") == bytes_of(tmp_path / "one.zarr")


def test_verified_and_logit_change():
    puzzles, rate = tiny_puzzles(3), 0.7
    runs = measure(Approach(rate), puzzles, segments=8)
    np.testing.assert_array_equal(runs.verified[:, -1], True)
    assert not runs.verified[:, 0].any()
    assert runs.logit_change[:, 0].isnull().all()
    labels, v = puzzles.labels.astype(float), np.arange(6.0)
    z = (1 - rate ** np.arange(1, 9))[:, None] * labels[:, None]
    logits = -((v - z[..., None]) ** 2)
    by_hand = np.linalg.norm(np.diff(logits, axis=1), axis=3).mean(2)
    np.testing.assert_allclose(runs.logit_change[:, 1:], by_hand, rtol=1e-5)


def test_cut_off_between_data_and_mark_is_measured_again(tmp_path, monkeypatch):
    model, puzzles, original = tiny_model(), tiny_puzzles(10), xr.Dataset.to_zarr

    def dying(self, *args, **kwargs):
        if list(self.data_vars) == ["measured"]:
            raise KeyboardInterrupt
        return original(self, *args, **kwargs)

    monkeypatch.setattr(xr.Dataset, "to_zarr", dying)
    with pytest.raises(KeyboardInterrupt):
        measure(model, puzzles, **FULL, out=tmp_path / "r.zarr")
    monkeypatch.undo()
    assert open_measurement(tmp_path / "r.zarr").sizes["puzzle"] == 4
    begun = cut_off(monkeypatch, 99)
    measure(model, puzzles, **FULL, out=tmp_path / "r.zarr")
    assert begun == [4, 8]


def test_resumed_with_another_batch_size(tmp_path, monkeypatch):
    model, puzzles, out = tiny_model(), tiny_puzzles(10), tmp_path / "r.zarr"
    kw = {"segments": 2, "exponents": 1}
    cut_off(monkeypatch, 1)
    with pytest.raises(KeyboardInterrupt):
        measure(model, puzzles, **kw, batch_size=4, out=out)
    monkeypatch.undo()
    runs = measure(model, puzzles, **kw, batch_size=3, out=out)
    xr.testing.assert_allclose(values(runs), values(measure(model, puzzles, **kw)), rtol=1e-3, atol=1e-3)


def test_another_measurement_is_refused(tmp_path):
    model, puzzles, out = tiny_model(), tiny_puzzles(4), tmp_path / "r.zarr"
    measure(model, puzzles, segments=2, out=out)
    measure(model, puzzles, segments=2, restarts=5, seed=1, out=out)  # no part in it: the same
    with pytest.raises(OtherMeasurement, match="segments is 2 there, 3 here"):
        measure(model, puzzles, segments=3, out=out)
    with pytest.raises(OtherMeasurement, match="of another model"):
        measure(tiny_model("trm-singlez"), puzzles, segments=2, out=out)
    with pytest.raises(OtherMeasurement, match="of other puzzles"):
        measure(model, puzzles[1:], segments=2, out=out)
    with pytest.raises(OtherMeasurement, match="dtype is the default there, bfloat16 here"):
        measure(model, puzzles, segments=2, dtype="bfloat16", out=out)
    assert open_measurement(out).sizes["puzzle"] == 4


def test_systems_that_are_no_modules_are_told_apart(tmp_path):
    puzzles, out = tiny_puzzles(3), tmp_path / "r.zarr"
    first = measure(Approach(0.3, 0.8), puzzles, segments=2, out=out)
    again = measure(Approach(0.3, 0.8), puzzles, segments=2, out=out)
    assert first.attrs["model_hash"] == again.attrs["model_hash"] != ""
    with pytest.raises(OtherMeasurement, match="of another model"):
        measure(Approach(0.4, 0.8), puzzles, segments=2, out=out)
    opaque = Approach(0.3, 0.8)
    opaque.hook = lambda z: z
    assert measure(opaque, puzzles, segments=2, out=tmp_path / "o.zarr").sizes["puzzle"] == 3
    with pytest.raises(OtherMeasurement, match="nothing tells whether it is of this model"):
        measure(opaque, puzzles, segments=2, out=tmp_path / "o.zarr")


def test_parts_of_other_names_have_a_joint_drift_to_follow():
    class Parts(NamedTuple):
        x: torch.Tensor
        y: torch.Tensor

    class Renamed(Approach):
        def initial_state(self, ctx):
            return Parts(*super().initial_state(ctx))

        def segment(self, z, ctx):
            return Parts(*super().segment(z, ctx))

    runs = measure(Renamed(0.3, 0.8), tiny_puzzles(3), segments=3)
    np.testing.assert_allclose(runs.drift, np.hypot(runs.drift_x, runs.drift_y), rtol=1e-6)


@pytest.mark.parametrize("kind", ["file", "empty", "foreign", "missing"])
def test_what_is_no_measurement_is_refused(tmp_path, kind):
    path = tmp_path / "r.zarr"
    if kind == "file":
        path.write_text("something")
    if kind == "empty":
        path.mkdir()
    if kind == "foreign":
        xr.Dataset({"x": ("y", np.zeros(3))}).to_zarr(path, consolidated=False)
    with pytest.raises(UserError, match=r"no such folder|not a measurement") as caught:
        open_measurement(path)
    assert "\n" not in str(caught.value)
    if kind != "missing":
        with pytest.raises(UserError, match=r"not a measurement.*Choose another --out"):
            measure(tiny_model(), tiny_puzzles(2), segments=1, out=path)
        assert path.exists()


# -- mistakes


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"segments": 0}, "segments=0"),
        ({"exponents": -1}, "exponents=-1"),
        ({"exponents": 10_000}, "expected 1 to 512"),
        ({"exponents": 1, "exponent_segments": 0}, "exponent_segments=0"),
        ({"sigmas": [-1.0]}, "sigmas="),
        ({"sigmas": [math.nan]}, "sigmas="),
        ({"sigmas": [1.0], "restarts": 0}, "restarts=0"),
        ({"sigmas": [1.0], "restart_segments": 0}, "restart_segments=0"),
        ({"reorth": "never"}, "reorth=never"),
        ({"exponents": 1, "tangent_seeds": 0}, "tangent_seeds=0"),
        ({"dtype": "float16"}, "dtype=float16"),
        ({"exponents": 1, "tangent_dtype": "bfloat16"}, "tangent_dtype=bfloat16"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_a_plan_that_cannot_be(arguments, message):
    with pytest.raises(UserError, match=message) as caught:
        measure(tiny_model(), tiny_puzzles(2), **arguments)
    assert "\n" not in str(caught.value)


def test_puzzles_that_cannot_be_measured():
    model, puzzles = tiny_model(), tiny_puzzles(2)
    with pytest.raises(UserError, match="no answers"):
        measure(model, dataclasses.replace(puzzles, labels=None))
    with pytest.raises(UserError, match="16 cells and 6 tokens, but the model was made for 9 and 7"):
        measure(tiny_model(seq_len=9, vocab_size=7), puzzles)
    with pytest.raises(UserError, match="no puzzles"):
        measure(model, puzzles[:0])
    with pytest.raises(UserError, match="tells no training budget"):
        measure(Approach(0.5), puzzles)
