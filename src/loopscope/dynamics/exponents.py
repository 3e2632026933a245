"""What follows from exponents and their raw growth: windows, running values, errors, dimension, entropy.

The series functions take `growth(..., segment, exponent)` as `lyapunov_spectrum` and `measure` return it,
with any other axes. The two bounds take exponents of one orbit, or their mean over orbits.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float

from loopscope.errors import UserError


class Bound(NamedTuple):
    """A number that the k exponents at hand may only bound.

    Attributes:
        value: nats per segment for an entropy, a pure number for a dimension.
        closed: False when more exponents could raise it, so that it reads "at least".
    """

    value: float
    closed: bool

    def __str__(self) -> str:
        return f"{self.value:.4g}" if self.closed else f">= {self.value:.4g}"


def kaplan_yorke_dimension(exponents: Float[np.ndarray, " k"]) -> Bound:
    """Dimension of the attractor conjectured from its exponents.

    D = j + (l_1 + ... + l_j) / |l_{j+1}| with j the last index whose partial sum is not negative; 0
    when the first exponent is negative. When no partial sum of the k given exponents is negative the
    formula does not close and D is at least k. NaN when an exponent is.

    Source: Kaplan and Yorke, Lect. Notes Math. 730 (1979) 204.
    """
    ordered = np.sort(np.asarray(exponents, dtype=float))[::-1]
    if np.isnan(ordered).any():
        return Bound(float("nan"), True)
    sums = np.cumsum(ordered)
    if not (sums < 0).any():
        return Bound(float(len(ordered)), False)
    j = int(np.argmax(sums < 0))
    return Bound(float(j + (sums[j - 1] / abs(ordered[j]) if j else 0)), True)


def entropy_bound(exponents: Float[np.ndarray, " k"], escape_rate: float = 0.0) -> Bound:
    """Upper bound of the metric entropy: the sum of the positive exponents, less the escape rate.

    For an attractor it is Ruelle's inequality; for a saddle, left at rate kappa, h = sum - kappa holds
    where the relation of Kantz and Grassberger does. `closed` is False while the last exponent is
    positive: the sum then lacks terms.

    Args:
        exponents: nats per segment.
        escape_rate: per segment.
    Source: Ruelle, Bol. Soc. Bras. Mat. 9 (1978) 83; Kantz and Grassberger, Physica D 17 (1985) 75.
    """
    values = np.asarray(exponents, dtype=float)
    if np.isnan(values).any():
        return Bound(float("nan"), True)
    return Bound(float(values[values > 0].sum()) - escape_rate, bool(values.min() <= 0))


def running_exponents(growth: xr.DataArray, transient: int = 0) -> xr.DataArray:
    """The exponents after every segment: mean growth of the segments `transient` + 1 to t."""
    _check_window(growth, transient, growth.sizes["segment"])
    late = growth.isel(segment=slice(transient, None))
    count = xr.DataArray(np.arange(1, late.sizes["segment"] + 1), dims="segment")
    running = (late.cumsum("segment", skipna=False) / count).assign_coords(late.coords)
    name = f"finite-time Lyapunov exponent, from segment {transient + 1}"
    return running.assign_attrs(units=growth.attrs.get("units", ""), long_name=name).rename("running_ftle")


def window_exponents(growth: xr.DataArray, start: int, stop: int) -> xr.DataArray:
    """The exponents of a window: mean growth of the segments `start` + 1 to `stop`."""
    _check_window(growth, start, stop)
    window = growth.isel(segment=slice(start, stop)).mean("segment", skipna=False)
    name = f"finite-time Lyapunov exponent, segments {start + 1} to {stop}"
    return window.assign_attrs(units=growth.attrs.get("units", ""), long_name=name).rename("ftle")


def exponent_error(
    growth: xr.DataArray, *, block: int, transient: int = 0, resamples: int = 1000, seed: int = 0
) -> xr.DataArray:
    """Standard error of every exponent from its own growth in time, by the moving-block bootstrap.

    Blocks keep the correlation between neighbouring segments; take them longer than it lasts. It says
    how far the mean of a longer stretch of the same motion may lie, so not of a motion that settles. A few
    blocks say little: with fewer than ten the error is itself uncertain by a quarter and more.

    Args:
        growth: raw growth.
        block: segments per block.
        transient: leading segments left out.
        resamples: bootstrap draws.
        seed: of the draws.
    Raises:
        UserError: fewer than two blocks in the series.
    Source: Kuensch, Ann. Stat. 17 (1989) 1217.
    """
    _check_window(growth, transient, growth.sizes["segment"])
    late = growth.isel(segment=slice(transient, None)).transpose("segment", ...)
    T = late.sizes["segment"]
    if not 1 <= block <= T // 2:
        raise UserError(f"block={block}: expected 1 to {T // 2}, half of the {T} segments.")
    starts = T - block + 1
    means = np.stack([late.values[i : i + block].mean(axis=0) for i in range(starts)])
    draws = np.random.default_rng(seed).integers(starts, size=(resamples, T // block))
    sample = np.stack([means[rows].mean(axis=0) for rows in draws])
    # the blocks drawn may be shorter than the series, and blocks out of one series lie too close together
    scale = math.sqrt(block * (T // block) / T) * math.sqrt(T / (T - block))
    error = late.isel(segment=0, drop=True).copy(data=scale * sample.std(axis=0, ddof=1))
    name = f"standard error of the exponent, blocks of {block} segments"
    return error.assign_attrs(units=growth.attrs.get("units", ""), long_name=name).rename("ftle_error")


def per_application(table: xr.Dataset) -> xr.Dataset:
    """The same result per block application: whatever is in nats per segment is divided by their number.

    Raises:
        UserError: the result does not tell how many applications a segment has.
    """
    count = table.attrs.get("applications_per_segment")
    if not count:
        raise UserError("applications_per_segment: missing in the attributes. Set it on the dataset.")
    scaled = {
        name: (values / count).assign_attrs({**values.attrs, "units": "nats per application"})
        for name, values in table.items()
        if values.attrs.get("units") == "nats per segment"
    }
    return table.assign(scaled)


def _check_window(growth: xr.DataArray, start: int, stop: int) -> None:
    T = growth.sizes["segment"]
    if not 0 <= start < stop <= T:
        raise UserError(f"segments {start + 1} to {stop}: expected a window within 1 to {T}.")
