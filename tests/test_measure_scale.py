"""Measuring at scale and in other ways: memory, the plan of a run, sets of tangents, dtypes, updates."""

from __future__ import annotations

import gc
import math
import os
import re
import tracemalloc
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

from command_line import is_plain
from loopscope.dynamics import cost as costs
from loopscope.dynamics import measure as measuring
from loopscope.dynamics.cost import measure_cost
from loopscope.dynamics.lyapunov import lyapunov_spectrum
from loopscope.dynamics.measure import measure, open_measurement
from loopscope.dynamics.measurement_file import FORMAT, stream
from loopscope.errors import UserError
from loopscope.evaluation.evaluate import evaluate
from loopscope.evaluation.subject import blocks
from tiny import Approach, tiny_model, tiny_puzzles

# -- memory


def test_memory_is_that_of_one_block(tmp_path):
    """A million puzzles of 128 segments are a gigabyte; a block of 4096 is 4 MB."""
    n, size, attrs = 1_000_000, 4096, {"format": FORMAT, "plan": "{}", "model_hash": "m", "data_hash": "d"}

    def measure_block(block):
        if block.start == 2 * size:
            raise KeyboardInterrupt
        index = np.arange(block.start, block.stop)
        return xr.Dataset(
            {"x": (("puzzle", "segment"), np.ones((size, 128)) * index[:, None])}, {"puzzle": index}
        )

    tracemalloc.start()
    with pytest.raises(KeyboardInterrupt):
        stream(tmp_path / "r.zarr", blocks(n, size), measure_block, attrs)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6
    runs = open_measurement(tmp_path / "r.zarr")
    np.testing.assert_array_equal(runs.x[:, 0], np.arange(2 * size))
    np.testing.assert_array_equal(runs.puzzle, np.arange(2 * size))
    assert sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) < 10e6


def alive() -> int:
    """Bytes of all tensors that somebody still holds."""
    found = (o for o in gc.get_objects() if type(o) is Tensor)
    return sum({t.data_ptr(): t.numel() * t.element_size() for t in found}.values())


@pytest.mark.parametrize("settings", [{"exponents": 2, "exponent_segments": 32}, {"sigmas": [0.5]}])
def test_memory_grows_neither_with_puzzles_nor_with_segments(tmp_path, settings):
    """Tensors held at any read-out: those of a block and what is noted per segment, no latent of the past."""
    most: list[int] = []
    calls: list[int] = []

    class Watched(Approach):
        def readout(self, z, ctx):
            calls.append(1)
            if len(calls) % 16 == 8:  # a look at everything takes its time
                most.append(alive())
            return super().readout(z, ctx)

    peaks = []
    for n, segments in ((4, 8), (12, 8), (4, 32)):
        most.clear()
        calls.clear()
        start = alive()
        how = {"segments": segments, "restart_segments": segments, "restarts": 2, "batch_size": 4}
        measure(Watched(0.9), tiny_puzzles(n), **how | settings, out=tmp_path / f"{n}-{segments}.zarr")
        peaks.append(max(most) - start)
    latent, noted = 4 * 16 * 8, 4 * (6 + 9) * 8  # bytes of a block: its latent, its numbers per segment
    assert peaks[1] - peaks[0] < latent
    assert peaks[2] - peaks[0] < 24 * noted
    assert 24 * noted < 24 * 3 * latent / 1.5  # what states and tangents of the past would be


# -- the plan


def test_a_plan_counts_the_calls_that_a_measurement_makes():
    calls = []

    class Counted(Approach):
        def segment(self, z, ctx):
            calls.append(len(z))
            return super().segment(z, ctx)

    how: dict[str, Any] = {"segments": 9, "exponents": 3, "exponent_segments": 5, "sigmas": [0.1, 1.0]}
    how |= {"restarts": 2, "restart_segments": 4}
    cost = measure_cost(Counted(0.9), tiny_puzzles(5), batch_size=2, probe=False, **how)
    assert not calls
    measure(Counted(0.9), tiny_puzzles(5), batch_size=2, **how)
    assert cost["block applications"] == sum(calls) == 5 * (9 + 2 * 2 * 4 + 1)
    assert (cost["puzzles"], cost["chunks"]) == (5, 3)
    assert cost["bytes of tangents"] == 2 * 3 * 16 * 8
    assert math.isnan(cost["FLOPs"])
    assert "seconds" not in cost


def test_flops_are_forwards_and_one_more_for_every_tangent():
    model, puzzles = tiny_model(), tiny_puzzles(3)
    one = 3 * model.applications_per_segment * model.application_flops
    how: dict[str, Any] = {"segments": 9, "exponents": 3, "exponent_segments": 5, "probe": False}
    assert measure_cost(model, puzzles, **how)["FLOPs"] == pytest.approx(one * (9 + 3 * 5))
    assert measure_cost(model, puzzles, **how, tangent_seeds=2)["FLOPs"] == pytest.approx(one * (9 + 6 * 5))
    wide = measure_cost(model, puzzles, **how, tangent_dtype="float64")
    assert wide["FLOPs"] == pytest.approx(one * (9 + 4 * 5))
    assert wide["bytes of tangents"] == 3 * 3 * 512 * 8


def test_the_room_of_a_plan_is_that_of_the_result(monkeypatch):
    monkeypatch.setattr(costs, "LONG", 0.0)
    puzzles = tiny_puzzles(5)
    how: dict[str, Any] = {"segments": 5, "exponents": 2, "exponent_segments": 3, "tangent_seeds": 2}
    how |= {"reorth": "update", "sigmas": [0.1, 1.0], "restarts": 3, "batch_size": 2}
    cost = measure_cost(tiny_model(), puzzles, **how)
    runs = measure(tiny_model(), puzzles, **how)
    assert cost["bytes on disk"] == sum(v.nbytes for v in runs.variables.values() if "puzzle" in v.dims)


def test_the_time_of_a_plan_is_that_of_its_segments(monkeypatch):
    """A clock that charges 2 s for a block, 3 for a plain segment, 7 with tangents, 5 for a restarted one."""

    def seconds(model: Any, puzzles: Any, block: slice, plan: Any) -> xr.Dataset:
        followed = plan.exponent_segments if plan.exponents else 0
        clock[0] += 2 + 7 * followed + 3 * (plan.segments - followed) + 5 * plan.restarted
        return original(model, puzzles, block, plan)

    def timed(act: Any, device: Any) -> float:
        began = clock[0]
        act()
        return clock[0] - began

    clock, original = [0.0], measuring._measure_block
    monkeypatch.setattr(costs, "_measure_block", seconds)
    monkeypatch.setattr(costs, "seconds_of", timed)
    how: dict[str, Any] = {"segments": 100, "exponents": 2, "exponent_segments": 10}
    cost = measure_cost(Approach(0.9), tiny_puzzles(6), batch_size=4, **how)
    assert cost["seconds per block"] == 2 + 10 * 7 + 90 * 3
    assert cost["seconds"] == pytest.approx(1.5 * cost["seconds per block"])
    how = {"segments": 9, "sigmas": [0.1, 1.0], "restarts": 3, "restart_segments": 6}
    kicked = measure_cost(Approach(0.9), tiny_puzzles(4), **how)["seconds"]
    exact = 2 + 9 * 3 + (2 * 3 * 6 + 1) * 5
    assert exact <= kicked <= exact + 3 + 5  # the probe of a restart has a plain segment and an unkicked one


def test_a_dry_run_prints_the_plan_and_writes_nothing(run):
    code, out, _ = run(
        "measure model --data puzzles.csv.gz --segments 3 --exponents 2 --sigmas .1,1 --dry-run"
    )
    assert code == 0
    assert is_plain(out)
    for line in (r"sigmas +0\.1, 1", r"puzzles +6", r"block applications +[\d,]+", r"bytes on disk +\S+ kB"):
        assert re.search(f"^{line}$", out, re.M), line
    assert re.search(r"per block of 6, probed here; \S+ (s|min|h) in all$", out, re.M)
    assert sorted(os.listdir()) == ["model", "puzzles.csv.gz"]
    code, _, err = run("measure model --data puzzles.csv.gz")
    assert (code, "--out is missing" in err) == (2, True)


# -- other ways


def test_sets_of_tangents_are_runs_with_other_seeds():
    model, puzzles = tiny_model(), tiny_puzzles(5)
    how: dict[str, Any] = {"segments": 4, "exponents": 2, "exponent_segments": 3, "batch_size": 3}
    runs = measure(model, puzzles, **how, tangent_seeds=3, seed=7)
    assert runs["growth_by_seed"].dims == ("puzzle", "segment", "tangent_seed", "exponent")
    for s in range(3):
        alone = measure(model, puzzles, **how, seed=7 + s)
        np.testing.assert_allclose(runs.growth_by_seed[:, :, s], alone.growth, rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(runs.growth, runs.growth_by_seed[:, :, 0])
    expected = runs.growth_by_seed[:, :3].mean("segment").std("tangent_seed", ddof=1)
    np.testing.assert_allclose(runs.ftle_spread, expected, atol=1e-12)
    assert float(runs.ftle_spread.max()) > 0
    assert runs.growth_by_seed[:, 3].isnull().all()
    assert runs.attrs["tangent_seeds"] == 3


def test_growth_by_update_survives_the_file(tmp_path):
    model, puzzles = tiny_model(), tiny_puzzles(5)
    how: dict[str, Any] = {"segments": 3, "exponents": 2, "reorth": "update", "batch_size": 2}
    runs = measure(model, puzzles, **how, out=tmp_path / "r.zarr").load()
    assert runs["update"].values.tolist() == ["L", "H"]
    np.testing.assert_allclose(runs.growth_by_update.sum("update"), runs.growth, atol=1e-9)
    table = lyapunov_spectrum(model, puzzles.batch(), segments=3, exponents=2, reorth="update")
    np.testing.assert_allclose(runs.growth_by_update, table.growth_by_update, rtol=1e-3, atol=1e-3)
    xr.testing.assert_identical(
        runs.drop_attrs(deep=False), measure(model, puzzles, **how).drop_attrs(deep=False)
    )
    for name in runs.variables:
        assert runs[name].attrs["units"], name
        assert runs[name].attrs["long_name"], name
    assert runs["growth_by_update"].attrs["units"] == "nats per segment"


def test_a_bfloat16_orbit_is_the_evaluated_one_with_float32_tangents():
    model, puzzles = tiny_model(forward_dtype="bfloat16"), tiny_puzzles(6)
    runs = measure(model, puzzles, segments=3, exponents=1, dtype="bfloat16")
    assert (runs.attrs["traj_dtype"], runs.attrs["tangent_dtype"]) == ("bfloat16", "float32")
    scores = evaluate(model, puzzles, segments=[3]).scores[3]
    assert float(runs.cell_accuracy[:, 2].mean()) == pytest.approx(scores["cell_accuracy"].value)
    table = lyapunov_spectrum(model, puzzles.batch(), segments=3, exponents=1, tangent_dtype="float32")
    np.testing.assert_allclose(runs.growth, table.growth, atol=1e-6)
    plain = measure(model, puzzles, segments=3, exponents=1)
    assert not np.allclose(runs.drift_H, plain.drift_H, rtol=1e-5)
    assert model.dtype == torch.bfloat16


def test_float64_tangents_of_a_float32_orbit():
    model, puzzles = tiny_model(), tiny_puzzles(4)
    wide = measure(model, puzzles, segments=3, exponents=2, tangent_dtype="float64")
    plain = measure(model, puzzles, segments=3, exponents=2, dtype="float64")  # the same draws of tangents
    assert (wide.attrs["traj_dtype"], wide.attrs["tangent_dtype"]) == ("float32", "float64")
    assert plain.attrs["traj_dtype"] == "float64"
    np.testing.assert_allclose(wide.drift_H, plain.drift_H, rtol=1e-5)
    np.testing.assert_allclose(wide.growth, plain.growth, atol=1e-3)
    assert wide.attrs["plan"] != plain.attrs["plan"]


def test_an_adapter_keeps_its_dtype():
    puzzles = tiny_puzzles(2)
    with pytest.raises(UserError, match="dtype=bfloat16: Approach offers no compute_in"):
        measure(Approach(0.5), puzzles, segments=2, dtype="bfloat16")
    with pytest.raises(UserError, match="tangent_dtype=float32: Approach offers no compute_in"):
        measure(Approach(0.5), puzzles, segments=2, exponents=1, tangent_dtype="float32")
    same = measure(Approach(0.5), puzzles, segments=2, exponents=1, tangent_dtype="float64")
    np.testing.assert_allclose(same.ftle, math.log(0.5))
