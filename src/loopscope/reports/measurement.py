"""A measurement as the report reads it: one dataset, its outcome, and what it lacks.

Everything in a report follows from here. The outcome of a puzzle is `solved` at the training budget,
the length for which the model was trained; orbits may run on for longer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from loopscope.dynamics.fate import Threshold, settled
from loopscope.dynamics.measurement_file import open_measurement
from loopscope.dynamics.outcomes import Orbits
from loopscope.errors import UserError

Source = xr.Dataset | str | Path

HOW_TO_GET = {  # variable -> why it is not here and how to get it
    "ftle": "Lyapunov exponents were not measured; add `--exponents 4`.",
    "several exponents": "A spectrum needs several exponents; add `--exponents 4`.",
    "basin_solved": "Restarts were not measured; add `--sigmas 0,0.1,0.3,1 --restarts 8`.",
    "drift": "The drift was not recorded.",
    "late drift": "Fates need a drift over at least 4 segments up to the budget.",
    "halt_logit": "The halt logit was not recorded.",
    "rating": "The puzzles carry no difficulty rating.",
    "answer": "The boards were not recorded.",
}


@dataclass(frozen=True)
class Measurement:
    """A dataset with the questions a report asks of it.

    Attributes:
        data: what `loopscope measure` wrote, in memory.
        name: short name for headings, unique within a report.
    """

    data: xr.Dataset
    name: str

    def __post_init__(self) -> None:
        missing = [v for v in ("solved",) if v not in self.data]
        if missing or "segment" not in self.data.dims or self.data.sizes.get("puzzle", 0) == 0:
            raise UserError(
                f"{self.name}: not a measurement (variables: {', '.join(map(str, self.data)) or 'none'}). "
                "Expected solved(puzzle, segment) with puzzles; make one with loopscope measure."
            )

    def __contains__(self, variable: str) -> bool:
        return {"drift": self.drift_name is not None}.get(variable, variable in self.data.variables)

    @property
    def attrs(self) -> dict[Any, Any]:
        return self.data.attrs

    @property
    def n(self) -> int:
        """Puzzles."""
        return self.data.sizes["puzzle"]

    @property
    def stop(self) -> int:
        """Last segment that was run, T."""
        return self.data.sizes["segment"]

    @property
    def trained(self) -> bool:
        """Whether there is a training budget at all; a toy map has none."""
        return "budget" in self.attrs

    @cached_property
    def orbits(self) -> Orbits:
        """What the outcome statistics read; outcome, late drift and threshold are theirs."""
        return Orbits(self.data)

    @cached_property
    def at_end(self) -> Measurement | None:
        """The same orbits judged after the last segment; None where they hardly outlast the budget."""
        return None if self.orbits.at_end is None else replace(self, data=self.orbits.at_end.data)

    @property
    def budget(self) -> int:
        """Segment at which the outcome is read: the training budget, or the last one run if shorter."""
        return self.orbits.budget

    @property
    def escape_from(self) -> int:
        """Segment after which escapes are counted: the budget, or the start where nothing was trained."""
        return self.budget if self.trained else 0

    @property
    def applications(self) -> int:
        """Block applications in one segment."""
        return int(self.attrs.get("applications_per_segment", 1))

    @property
    def solved(self) -> np.ndarray:
        """Right after each segment, (B, T) bool."""
        return self.orbits.solved

    @property
    def correct(self) -> np.ndarray:
        """The outcome, (B,) bool."""
        return self.orbits.correct

    @cached_property
    def first_solved(self) -> np.ndarray:
        """First segment with the right answer, 1-based; -1 if never, (B,)."""
        return np.where(self.solved.any(axis=1), self.solved.argmax(axis=1) + 1, -1)

    def at_risk(self, segment: int) -> np.ndarray:
        """Puzzles that have been right at no segment up to this one, (B,) bool."""
        return (self.first_solved == -1) | (self.first_solved > segment)

    @property
    def drift_name(self) -> str | None:
        """The drift that fates are read from: z_H as published, else that of the whole latent."""
        return next((v for v in ("drift_H", "drift") if v in self.data), None)

    @property
    def moved(self) -> str:
        """What the drift is the change of, in words."""
        return "z_H" if self.drift_name == "drift_H" else "the state"

    @cached_property
    def drift(self) -> np.ndarray:
        """Change of the state per segment, (B, T)."""
        assert self.drift_name is not None
        return self.array(self.drift_name).astype(float)

    @property
    def late(self) -> np.ndarray | None:
        """Late drift: mean over the last segments up to the budget, (B,); None if it cannot be had."""
        return self.orbits.late

    @property
    def threshold(self) -> Threshold:
        """Cut between settled and wandering, from the data."""
        return self.orbits.threshold

    @cached_property
    def settled(self) -> np.ndarray:
        """Whether the late drift lies below the threshold, (B,) bool."""
        assert self.late is not None
        return settled(self.late, self.threshold)

    @property
    def exponent_segments(self) -> int:
        """Segments that the exponents cover, from the first: none after the outcome is read."""
        measured = int(self.attrs.get("exponent_segments") or self.growth.shape[1])
        return min(measured, self.budget)

    @cached_property
    def exponents(self) -> np.ndarray:
        """Finite-time exponents, (B, k) in nats per segment."""
        if "growth" in self and self.growth.shape[1] > self.exponent_segments:
            return self.growth[:, : self.exponent_segments].mean(axis=1)
        return self.array("ftle").astype(float)

    @cached_property
    def growth(self) -> np.ndarray:
        """Growth per segment, (B, T', k)."""
        return self.array("growth").astype(float)

    def array(self, variable: str) -> np.ndarray:
        """The bare values of a variable, puzzle first."""
        return self.data[variable].transpose("puzzle", ...).to_numpy()

    def restarts(self, variable: str) -> np.ndarray:
        """A variable of the restarts, (B, sigmas, K) bool."""
        return self.data[variable].transpose("puzzle", "sigma", "restart").to_numpy().astype(bool)

    def halt(self, segment: int) -> np.ndarray:
        """Halt logit after a segment, (B,)."""
        return self.array("halt_logit")[:, segment - 1].astype(float)


def read_measurements(sources: Source | Iterable[Source]) -> list[Measurement]:
    """Datasets or paths to measurements, each with a name of its own.

    Raises:
        UserError: none given, or one of them is not a measurement.
    """
    several = [sources] if isinstance(sources, xr.Dataset | str | Path) else list(sources)
    if not several:
        raise UserError("no measurement given. Expected one or more .zarr folders from loopscope measure.")
    opened = [s if isinstance(s, xr.Dataset) else open_measurement(s).load() for s in several]
    names = [_name(s, d) for s, d in zip(several, opened, strict=True)]
    numbered = [f"{name} ({i})" if names.count(name) > 1 else name for i, name in enumerate(names, start=1)]
    return [Measurement(d.load(), name) for d, name in zip(opened, numbered, strict=True)]


def _name(source: Source, data: xr.Dataset) -> str:
    fallback = "measurement" if isinstance(source, xr.Dataset) else Path(source).stem
    return str(data.attrs.get("model") or data.attrs.get("system") or fallback)
