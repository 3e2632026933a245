"""One labelled table of what a measurement says about outcomes: fates, separation, spectra, confidence.

Every row is a `Statistic`: estimate, interval, n, units, what it rests on or why it is NaN, and the published
values of the same name. A row is left out only when its variable was not measured. Rows that test something
carry a p value and its Holm adjustment over all tests of the table. Scores are oriented so that larger means
more likely solved; all of them but those "unsolved at" a segment are retrospective: they see the segments
that decide the outcome.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr

from loopscope.dynamics import fate
from loopscope.dynamics.incremental import incremental_value
from loopscope.dynamics.published import CELLS, PUBLISHED, Published
from loopscope.dynamics.statistics import (
    Auc,
    auc,
    auc_landmark,
    auc_matched,
    auc_within,
    banded,
    brunner_munzel,
)
from loopscope.errors import UserError
from loopscope.evaluation.confidence import risk_coverage
from loopscope.evaluation.intervals import Estimate, clopper_pearson, median_interval, upper_bound, wilson
from loopscope.evaluation.metrics import RATING_BANDS, quarters
from loopscope.evaluation.multiple import adjusted

LANDMARK = 4  # segments a forecast may look at, the published choice
FALLING = -0.01  # published limit: a drift slope below it is still falling
RESAMPLES = 2000
NATS = "nats per segment"
MANY_STRATA = 4  # dropped ones, more are only counted


@dataclass(frozen=True)
class Statistic:
    """One row.

    Attributes:
        name: what it is, the key to published values.
        value, low, high: estimate and 95 % interval; NaN where undefined.
        n: puzzles behind it.
        units: of value and ends.
        note: what it rests on, or why it is NaN.
        p_value, p_holm: of its test alone, and adjusted for all tests of the table; NaN without a test.
        published: numbers of others by the same name.
    """

    name: str
    value: float
    low: float
    high: float
    n: int
    units: str = "1"
    note: str = ""
    p_value: float = math.nan
    p_holm: float = math.nan
    published: tuple[Published, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        return asdict(self)


@dataclass(frozen=True)
class Orbits:
    """What outcome statistics read from a measurement, as arrays with puzzles first."""

    data: xr.Dataset

    @cached_property
    def solved(self) -> np.ndarray:
        """Right after each segment, (B, T); of a maze: a shortest path, the label's or another."""
        any_path = str(self.data.attrs.get("task", "")).startswith("maze-") and "verified" in self.data
        return self.array("verified" if any_path else "solved").astype(bool)

    @property
    def budget(self) -> int:
        """Segment at which the outcome is read: the training budget, or the last one run."""
        stop = self.solved.shape[1]
        return min(int(self.data.attrs.get("budget") or stop), stop)

    @cached_property
    def at_end(self) -> Orbits | None:
        """The same orbits judged after the last segment; None where they hardly outlast the budget."""
        stop = self.solved.shape[1]
        longer = stop >= self.budget + fate.WINDOW
        return Orbits(self.data.assign_attrs(budget=stop)) if longer else None

    @cached_property
    def correct(self) -> np.ndarray:
        """The outcome, (B,)."""
        return self.solved[:, self.budget - 1]

    @cached_property
    def drift(self) -> np.ndarray | None:
        """Change per segment up to the budget, (B, budget): of z_H as published, else of the whole latent."""
        name = next((v for v in ("drift_H", "drift") if v in self.data), None)
        return None if name is None else self.array(name)[:, : self.budget].astype(float)

    @cached_property
    def late(self) -> np.ndarray | None:
        """Late drift at the budget, (B,); None where it cannot be had."""
        return fate.late_drift(self.drift) if self.drift is not None and self.budget >= fate.WINDOW else None

    @cached_property
    def threshold(self) -> fate.Threshold:
        assert self.late is not None
        return fate.otsu_threshold(self.late)

    @cached_property
    def halt(self) -> np.ndarray | None:
        """Halt logit after every segment up to the budget, (B, budget)."""
        name = "halt_logit"
        return self.array(name)[:, : self.budget].astype(float) if name in self.data else None

    @cached_property
    def exponents(self) -> np.ndarray | None:
        """Finite-time exponents, (B, k): of no segment after the one at which the outcome is read."""
        if "growth" in self.data and self.exponent_segments > self.budget:
            return self.array("growth")[:, : self.budget].astype(float).mean(axis=1)
        return self.array("ftle").astype(float) if "ftle" in self.data else None

    @property
    def exponent_segments(self) -> int:
        """Segments, from the first, whose growth was measured."""
        return int(self.data.attrs.get("exponent_segments") or self.array("growth").shape[1])

    @cached_property
    def scores(self) -> dict[str, np.ndarray]:
        """Scores of the whole orbit, larger for more likely solved."""
        found = {
            "low exponent": None if self.exponents is None else -self.exponents[:, 0],
            "low late drift": None if self.late is None else -self.late,
            "high halt logit": None if self.halt is None else self.halt[:, -1],
        }
        return {name: score for name, score in found.items() if score is not None}

    @cached_property
    def cells(self) -> dict[str, np.ndarray]:
        """Puzzles of each fate, in the published order A, B, C, D."""
        assert self.late is not None
        quiet, right = fate.settled(self.late, self.threshold), self.correct
        return dict(zip(CELLS, (quiet & right, quiet & ~right, ~quiet & right, ~quiet & ~right), strict=True))

    def array(self, name: str) -> np.ndarray:
        return self.data[name].transpose("puzzle", ...).to_numpy()


def outcome_statistics(
    runs: xr.Dataset, *, landmark: int = LANDMARK, resamples: int = RESAMPLES, seed: int = 0
) -> list[Statistic]:
    """All outcome statistics that a measurement allows.

    Args:
        runs: as `measure` or `open_measurement` gives it.
        landmark: segments that a forecast may look at.
        resamples, seed: of every bootstrap over puzzles.
    Raises:
        UserError: no outcome in the dataset.
    """
    if "solved" not in runs or not runs.sizes.get("puzzle"):
        raise UserError(
            "no outcome in this dataset: expected solved(puzzle, segment). Use loopscope measure."
        )
    orbits, how = Orbits(runs), {"resamples": resamples, "seed": seed}
    outcome = wilson(int(orbits.correct.sum()), len(orbits.correct))
    rows = [_row("solved", outcome, f"after {orbits.budget} segments")]
    rows += _fates(orbits)
    rows += _separations(orbits, how)
    rows += _forecasts(orbits, landmark, how)
    rows += _increments(orbits, how)
    rows += _spectra(orbits)
    rows += _confidence(orbits, how)
    p_holm = adjusted(np.array([row.p_value for row in rows]))
    return [
        replace(row, p_holm=float(p), published=PUBLISHED.get(row.name, ()))
        for row, p in zip(rows, p_holm, strict=True)
    ]


def _row(name: str, e: Estimate, note: str = "", units: str = "1") -> Statistic:
    return Statistic(name, e.value, e.low, e.high, e.n, units, note)


# -- fates


def _fates(o: Orbits) -> Iterator[Statistic]:
    """Cells, the threshold-free sentence, and what is typical of each cell."""
    if o.late is None:
        return
    table, end = fate.fate_table(o.late, o.correct), o.at_end
    short = fate.rounding_floor(str(o.data.attrs.get("traj_dtype", "")))
    cut = str(o.threshold)
    for name, inside in o.cells.items():
        share = clopper_pearson(int(inside.sum()), len(inside))
        yield _row(name, share, f"{inside.sum()} puzzles; {cut}" + (f"; {short}" if short else ""))
    yield _settled("failures that settled", table)
    if end is not None and end.late is not None:
        yield _settled(
            f"failures that settled after {end.budget} segments", fate.fate_table(end.late, end.correct)
        )
    gap = table.drift_gap
    stiller = int((o.late[o.correct] < gap.least).sum())
    share = clopper_pearson(stiller, gap.n_correct if gap.n_wrong else 0)
    yield _row("successes stiller than every failure", share, str(gap))
    yield from _by_cell(o)


def _settled(name: str, table: fate.FateTable) -> Statistic:
    settled, wrong = table.settled_wrong, table.settled_wrong + table.wandering_wrong
    bound = "" if settled or not wrong else f"; one-sided upper bound {upper_bound(0, wrong):.4f}"
    note = f"{settled} of {wrong}{bound}; {table.threshold}" if wrong else "no unsolved puzzle"
    return _row(name, table.settled_among_wrong, note)


def _by_cell(o: Orbits) -> Iterator[Statistic]:
    """Typical values of each fate, and whose drift still falls."""
    typical: dict[str, tuple[np.ndarray, str]] = {}
    if "cell_accuracy" in o.data:
        typical["median share of cells right"] = (o.array("cell_accuracy")[:, o.budget - 1], "1")
    if o.halt is not None:
        says = o.halt >= 0
        first = np.where(says.any(1), says.argmax(1) + 1.0, math.inf)
        typical |= {"median first halt": (first, "segments"), "median halt logit": (o.halt[:, -1], "logit")}
    if "givens" in o.data.coords:
        typical["median givens"] = (o.array("givens"), "cells")
    if o.exponents is not None:
        typical["median exponent"] = (o.exponents[:, 0], NATS)
    for cell, inside in o.cells.items():
        empty = "" if inside.any() else f"no puzzle is {cell}"
        for name, (values, units) in typical.items():
            yield _row(f"{name}, {cell}", median_interval(values[inside].astype(float)), empty, units)
        if o.budget >= 2 * fate.WINDOW:
            assert o.drift is not None
            falling = int((fate.drift_slope(o.drift)[inside] < FALLING).sum())
            slope = f"log10 drift falls by more than {-FALLING} in {fate.WINDOW} segments"
            share = wilson(falling, int(inside.sum()))
            yield _row(f"drift still falling, {cell}", share, empty or slope)


# -- separation


def _separations(o: Orbits, how: dict[str, int]) -> Iterator[Statistic]:
    """AUCs of whole orbits: plain, matched on late drift, and at equal difficulty."""
    for name, score in o.scores.items():
        test = brunner_munzel(score, o.correct)
        last = o.budget
        if name == "low exponent" and "growth" in o.data:
            last = min(last, o.exponent_segments)
        plain = _area(f"AUC, {name}", auc(score, o.correct, **how), f"until segment {last}")
        yield replace(plain, p_value=test.p_value)
    if o.exponents is None:
        return
    low = -o.exponents[:, 0]
    if o.late is not None:
        wandering = ~fate.settled(o.late, o.threshold)
        name = "AUC, low exponent, matched on late drift"
        yield _area(name, auc_matched(low, o.correct, o.late, **how), "deciles of all")
        found = auc_matched(low[wandering], o.correct[wandering], o.late[wandering], **how)
        yield _area(f"{name}, wandering", found, "deciles of the wandering")
    for fact, strata in _difficulty(o).items():
        yield _area(
            f"AUC, low exponent, within {fact}", auc_within(low, o.correct, strata, **how), strata=fact
        )


def _difficulty(o: Orbits) -> dict[str, np.ndarray]:
    """Stratum of each puzzle by every known fact of difficulty: each number of givens, bands of the rest."""
    found = {}
    if "givens" in o.data.coords:
        found["givens"] = o.array("givens").astype(float)
    if "rating" in o.data.coords:
        found["rating"] = banded(o.array("rating"), RATING_BANDS)
    if "path_length" in o.data.coords:
        length = o.array("path_length")
        found["path length"] = banded(length, quarters(length))
    return found


def _forecasts(o: Orbits, at: int, how: dict[str, int]) -> Iterator[Statistic]:
    """Scores of the first segments, for puzzles that these have not solved."""
    if at >= o.budget:
        return
    growth = -o.array("growth")[:, :, 0] if "growth" in o.data else None
    series = {
        "low exponent": None if growth is None or o.exponent_segments < at else growth,
        "low drift": None if o.drift is None else -o.drift,
        "high halt logit": o.halt,
    }
    waiting = ~np.asarray(o.solved[:, :at].any(axis=1))
    for name, values in series.items():
        if values is None:
            continue
        last = name == "high halt logit"
        summary = (lambda early: early[:, -1]) if last else (lambda early: early.mean(axis=1))
        found = auc_landmark(values, o.solved, at=at, until=o.budget, summary=summary, **how)
        later = np.asarray(o.solved[waiting, at : o.budget].any(axis=1))
        test = brunner_munzel(summary(values[waiting, :at]), later)
        note = f"a forecast: {'segment' if last else 'segments 1 to'} {at}, solved by {o.budget}"
        yield replace(_area(f"AUC, {name}, unsolved at {at}", found, note), p_value=test.p_value)


def _increments(o: Orbits, how: dict[str, int]) -> Iterator[Statistic]:
    """What exponents add to late drift and halt logit: the first one, and all together."""
    if o.exponents is None or o.late is None or o.halt is None:
        return
    sets = {"the exponent": o.exponents[:, :1]}
    if o.exponents.shape[1] > 1:
        sets[f"{o.exponents.shape[1]} exponents"] = o.exponents
    for name, exponents in sets.items():
        found = incremental_value(exponents, o.correct, o.late, o.halt[:, -1], **how)
        n, nan = found.n_pos + found.n_neg, math.nan
        note = found.reason or str(found)
        ratio = Statistic(f"likelihood ratio of {name}", found.statistic, nan, nan, n, "1", note)
        yield replace(ratio, p_value=found.p_value)
        gain = found.reason or f"out of fold, {found.auc_base:.3f} to {found.auc_full:.3f}"
        yield _row(f"AUC gained by {name}", replace(found.difference, n=n), gain)


def _area(name: str, found: Auc, note: str = "", strata: str = "") -> Statistic:
    """An AUC as a row; counts, dropped strata and the reason for NaN go into the note."""
    counts = f"{found.n_pos} solved against {found.n_neg} unsolved"
    names, many = [s.name for s in found.dropped], len(found.dropped) > MANY_STRATA
    dropped = f"{len(names)} of {len(found.strata)} groups" if many else ", ".join(names)
    dropped = f"{strata} {dropped}" if dropped and strata and not many else dropped
    parts = [note, found.reason or counts, f"dropped: {dropped}" if dropped else ""]
    if found.n_missing:
        parts.append(f"{found.n_missing} without a score")
    text = "; ".join(part for part in parts if part)
    return Statistic(name, found.value, found.low, found.high, found.n, "1", text)


# -- spectra and confidence


def _spectra(o: Orbits) -> Iterator[Statistic]:
    """Median of every exponent by outcome."""
    if o.exponents is None:
        return
    for i, exponent in enumerate(o.exponents.T, start=1):
        for name, inside in (("correct", o.correct), ("wrong", ~o.correct)):
            empty = "" if inside.any() else f"no {name} answer"
            yield _row(f"median exponent {i}, {name}", median_interval(exponent[inside]), empty, NATS)


def _confidence(o: Orbits, how: dict[str, int]) -> Iterator[Statistic]:
    """How often sure answers are wrong, by every score."""
    for name, score in o.scores.items():
        found = risk_coverage(score, o.correct, **how)
        chance = 1 - o.correct.mean()
        note = (
            f"mean share wrong among the surest; {found.best:.3g} at best, {chance:.3g} without knowledge; "
            f"at most 1 % wrong up to coverage {found.answered(0.01):.3g}"
        )
        yield _row(f"risk-coverage area, {name}", found.area, note)
    if o.halt is not None:
        wrong = ~o.correct & ~np.isnan(o.halt[:, -1])
        share = clopper_pearson(int((o.halt[wrong, -1] >= 0).sum()), int(wrong.sum()))
        none = "no failure" if o.correct.all() else "no failure has a halt logit"
        yield _row("failures called right", share, "halt logit of at least 0" if wrong.any() else none)
