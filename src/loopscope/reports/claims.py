"""Published claims against a measurement: holds, does not hold or undecided, each by a rule on an interval.

Every claim is a number that must lie on one side of a limit. It holds when the whole 95 % interval lies on
that side, does not hold when the whole interval lies on the other, and is undecided otherwise. The limits
are set here, before any model is measured. Where an effect of no use is to count as none (a forecast hardly
better than chance), a second limit says so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from loopscope.dynamics.decay import decay_test
from loopscope.dynamics.fate import FateTable
from loopscope.dynamics.outcomes import LANDMARK, Statistic
from loopscope.dynamics.restart_times import Advantage, restart_advantage
from loopscope.evaluation.auc import FEW
from loopscope.evaluation.intervals import clopper_pearson
from loopscope.reports.findings import is_cut, still_falling
from loopscope.reports.measurement import Measurement
from loopscope.reports.published import TASK
from loopscope.reports.quantity import Cell, Noted, Quantity, Table, of_statistic, share
from loopscope.reports.tables import fates, never_solved_plainly, restart_length
from loopscope.reports.words import counted

Verdict = Literal["holds", "does not hold", "undecided"]
SEPARATES = 0.9  # AUC from which two classes count as separated
USEFUL = 0.6  # AUC below which a forecast counts as none
GAIN = 0.01  # AUC below which a gain counts as none
RARE = 0.05  # share of failures below which something counts as rare
FLAT = (0.8, 1.25)  # Weibull shapes that count as exponential
OVERALL = 0.5  # a majority, or an AUC by chance
UNCUT = "late drift does not fall into two groups, so no threshold is meaningful"


@dataclass(frozen=True)
class Claim:
    """One claim and what the measurement says to it.

    Attributes:
        text: the claim, a sentence.
        verdict: by the rule.
        number: what it rests on.
        rule: when it holds.
        published: what others found; empty where nothing is known.
    """

    text: str
    verdict: Verdict
    number: Quantity
    rule: str
    published: str = ""

    def __str__(self) -> str:
        return f"{self.text}: {self.verdict} ({self.number})"


def judge(low: float, high: float, above: float, useless: float | None = None) -> Verdict:
    """Whether an interval lies above a limit.

    Args:
        low, high: the interval; NaN where there is none.
        above: the limit.
        useless: an upper end below this contradicts, even above the limit; default the limit.
    """
    if math.isnan(low) or math.isnan(high):
        return "undecided"
    if high < (above if useless is None else useless):
        return "does not hold"
    return "holds" if low > above else "undecided"


def claims(m: Measurement, rows: Mapping[str, Statistic]) -> list[Claim]:
    """All claims that a measurement can speak to; what was not measured is left out.

    Args:
        m: the measurement.
        rows: its `outcome_statistics` by name.
    """
    found = [
        *_fate(m, rows),
        *_exponents(rows),
        *_forecasts(rows),
        *_increment(rows),
        *_time(m),
        *_kicks(m),
        *_halting(rows),
    ]
    if m.attrs.get("task") == TASK:
        return found
    return [Claim(c.text, c.verdict, c.number, c.rule) for c in found]


def _above(
    rows: Mapping[str, Statistic],
    name: str,
    text: str,
    limit: float,
    rule: str,
    published: str,
    useless: float | None = None,
) -> list[Claim]:
    """The claim that a statistic lies above a limit; nothing without the statistic."""
    if name not in rows:
        return []
    row, number = rows[name], of_statistic(rows[name])
    verdict = judge(row.low, row.high, limit, useless)
    if number.kind == "auc" and row.high < OVERALL:
        number = replace(number, note=f"the reverse holds; {number.note}")
    return [Claim(text, verdict, number, rule, published)]


def _below(
    rows: Mapping[str, Statistic], name: str, text: str, limit: float, rule: str, published: str
) -> list[Claim]:
    if name not in rows:
        return []
    row = rows[name]
    return [Claim(text, judge(-row.high, -row.low, -limit), of_statistic(row), rule, published)]


def _fate(m: Measurement, rows: Mapping[str, Statistic]) -> list[Claim]:
    """Whether failures wander, whether they settle on wrong answers, whether successes settle."""
    table = fates(m)
    if table is None:
        return []
    wrong, cut = table.settled_wrong + table.wandering_wrong, is_cut(table)
    published = "HRM: 99.5 % of failures above the threshold; TRM-MLP: 100 %"
    found = [_wander(m, table, "Failures wander: most keep moving", published)]
    if m.at_end is not None and (later := fates(m.at_end)) is not None:
        found += [_wander(m.at_end, later, f"Failures after {m.stop} segments wander")]
    settle = _below(
        rows,
        "failures that settled",
        "Failures do not settle in wrong fixed points",
        RARE,
        f"fewer than {100 * RARE:.0f} % of the failures with a late drift below the threshold",
        "HRM 0.55 % [0.33, 0.78]; TRM-MLP 0 of 254 (at most 1.17 %)",
    )
    found += settle if cut else _undecided(settle, UNCUT)
    stiller = _above(
        rows,
        "successes stiller than every failure",
        "The stillest failure moves more than most successes",
        OVERALL,
        "more than half of the successes below the smallest late drift of any failure; no threshold; at "
        f"least {FEW} failures",
        "TRM-MLP 96.5 %",
    )
    return found + (_undecided(stiller, f"fewer than {FEW} failures") if wrong < FEW else stiller)


def _wander(m: Measurement, table: FateTable, text: str, published: str = "") -> Claim:
    """The claim that most failures neither have settled nor are about to."""
    wrong = table.settled_wrong + table.wandering_wrong
    falling = still_falling(m)
    level = clopper_pearson(wrong - table.settled_wrong - (falling or 0), wrong)
    slowing = "unknown how many" if falling is None else falling
    note = f"{table.settled_wrong} settled, {slowing} still slowing, of {counted(wrong, 'failure')}"
    verdict: Verdict = "undecided"
    if is_cut(table) and falling is not None:
        verdict = judge(level.low, level.high, OVERALL)
    else:
        note += f"; {UNCUT if not is_cut(table) else 'orbits too short to tell'}"
    rule = "more than half of the failures neither settled nor slowing down (by 30 % in four segments)"
    return Claim(text, verdict, share(level, note), rule, published)


def _undecided(found: list[Claim], reason: str) -> list[Claim]:
    """The claims without a verdict, and why."""
    return [
        replace(
            c, verdict="undecided", number=replace(c.number, note=f"undecided: {reason}; {c.number.note}")
        )
        for c in found
    ]


def _exponents(rows: Mapping[str, Statistic]) -> list[Claim]:
    """Signs of the exponents, and how well they separate."""
    return [
        *_above(
            rows,
            "AUC, low exponent",
            "Exponents separate success from failure",
            SEPARATES,
            f"AUC above {SEPARATES}",
            "HRM 0.984; TRM-MLP 0.994",
        ),
        *_above(
            rows,
            "AUC, low exponent, within givens",
            "They do so among equally hard puzzles",
            OVERALL,
            f"AUC above 0.5 within the same number of givens; an AUC below {USEFUL} counts as no effect",
            "0.982",
            USEFUL,
        ),
        *_above(
            rows,
            "AUC, low exponent, matched on late drift, wandering",
            "They do so among orbits that move equally far",
            OVERALL,
            f"AUC above 0.5 within deciles of late drift, wandering orbits; an AUC below {USEFUL} counts "
            "as no effect",
            "0.88 to 0.90",
            USEFUL,
        ),
        *_above(
            rows,
            "median exponent 1, wrong",
            "Nearby states part in failures",
            0.0,
            "median first exponent of failures above 0",
            "HRM and TRM-MLP: above 0",
        ),
        *_below(
            rows,
            "median exponent 1, correct",
            "Nearby states draw together in successes",
            0.0,
            "median first exponent of successes below 0",
            "HRM: below 0; TRM-MLP: slightly above 0",
        ),
    ]


def _forecasts(rows: Mapping[str, Statistic]) -> list[Claim]:
    """What the first segments tell about puzzles still unsolved."""
    at = LANDMARK
    return [
        *_above(
            rows,
            f"AUC, low exponent, unsolved at {at}",
            "Early exponents predict later success",
            OVERALL,
            f"AUC above 0.5 for puzzles unsolved after {at} segments; an AUC below {USEFUL} counts as no "
            "effect",
            "TRM-MLP about 0.5: no",
            USEFUL,
        ),
        *_below(
            rows,
            f"AUC, low drift, unsolved at {at}",
            "Later successes move more at first than failures",
            OVERALL,
            f"AUC of low drift below 0.5 for puzzles unsolved after {at} segments",
            "HRM: yes (0.31); TRM-MLP about 0.5: no",
        ),
    ]


def _increment(rows: Mapping[str, Statistic]) -> list[Claim]:
    """Whether exponents say more than the cheap numbers."""
    return _above(
        rows,
        "AUC gained by the exponent",
        "Exponents add to late drift and halting",
        0.0,
        f"out-of-fold AUC gained above 0; less than {GAIN} counts as none",
        "the authors' later reading: no",
        GAIN,
    )


def _time(m: Measurement) -> list[Claim]:
    """What becomes of failures after the budget."""
    wrong = ~m.correct
    if m.stop == m.budget or not wrong.any():
        return []
    freed = clopper_pearson(int(m.solved[wrong, -1].sum()), int(wrong.sum()))
    words = f"right after {m.stop} segments, of the failures at {m.budget}"
    found = [
        Claim(
            "More segments free failures",
            judge(freed.low, freed.high, OVERALL),
            share(freed, words),
            f"more than half of the failures right after {m.stop} segments",
            "TRM-MLP: most, after 128; HRM: a third or fewer, even after 4,000",
        )
    ]
    if not m.at_risk(m.escape_from).any():
        return found
    test = decay_test(m.first_solved, start=m.escape_from, stop=m.stop)
    flat = FLAT[0] < test.shape.low and test.shape.high < FLAT[1]
    verdict: Verdict = "does not hold" if test.flagged else "holds" if flat else "undecided"
    shape = Quantity(
        test.shape.value, test.shape.low, test.shape.high, test.n, note=test.reason or test.verdict
    )
    rule = f"Weibull shape between {FLAT[0]} and {FLAT[1]} and no test rejects; a rejection contradicts"
    return [*found, Claim("Unsolved puzzles escape at a constant rate", verdict, shape, rule)]


def _kicks(m: Measurement) -> list[Claim]:
    """Whether restarts free failures, and whether they beat going on."""
    kicked, wrong = fresh_starts(m), never_solved_plainly(m)
    if kicked is None or wrong is None or not wrong.any():
        return []
    hits = kicked[wrong] > 0
    freed = clopper_pearson(int(hits.any(axis=1).sum()), len(hits))
    note = (
        f"of {counted(len(hits), 'failure')} never right in {restart_length(m)} plain segments, by at least "
        f"one of {hits.shape[1]} restarts over all kick sizes"
    )
    found = [
        Claim(
            "Kicks free failures",
            judge(freed.low, freed.high, OVERALL),
            share(freed, note),
            "more than half of the failures solved by some restart from a kicked start",
            "TRM-MLP: a small kick frees most; HRM: a hard core withstands",
        )
    ]
    advantage = fresh_against_onward(m)
    if advantage is None:
        return found
    ratio = advantage.ratio
    number = Quantity(ratio.value, ratio.low, ratio.high, ratio.n, note=advantage.reason or advantage.verdict)
    rule = f"chance of a fresh start over that of going on for {advantage.within} segments above 1"
    text = "A fresh start is worth more than going on"
    return [*found, Claim(text, judge(ratio.low, ratio.high, 1.0), number, rule)]


def fresh_starts(m: Measurement) -> np.ndarray | None:
    """First solved segment of every kicked restart, as far as known (its last segment), (B, restarts)."""
    if "basin_solved" not in m:
        return None
    kicks = m.data["sigma"].to_numpy() > 0
    if not kicks.any():
        return None
    hits = m.restarts("basin_solved")[:, kicks].reshape(m.n, -1)
    return np.where(hits, restart_length(m), -1)


def fresh_against_onward(m: Measurement) -> Advantage | None:
    """Fresh starts against going on after the budget; None where orbits were not run on as far."""
    fresh, within = fresh_starts(m), restart_length(m)
    if fresh is None or m.stop < m.budget + within:
        return None
    return restart_advantage(m.first_solved, fresh, at=m.budget, within=within)


def _halting(rows: Mapping[str, Statistic]) -> list[Claim]:
    return _below(
        rows,
        "failures called right",
        "The halt signal knows a failure",
        RARE,
        f"fewer than {100 * RARE:.0f} % of the failures with a halt logit of at least 0",
        "",
    )


def claims_table(found: list[Claim]) -> Table:
    """Claims as rows: the verdict, the number behind it, the rule and what was published."""
    rows: list[list[Cell]] = [
        [Noted(c.text, f"Holds if: {c.rule}."), c.verdict, _evidence(c.number), c.published or "–"]
        for c in found
    ]
    return Table(
        "Which claims hold on this model",
        ["claim", "verdict", "number and 95 % interval", "published"],
        rows,
        "A claim holds if the whole interval lies on its side of the limit, does not hold if the whole "
        "interval lies on the other side, and is undecided otherwise, or where its row says that the number "
        "cannot decide. Limits were set beforehand and are "
        "the same for every model. The intervals are not adjusted for the number of claims.",
    )


def _evidence(number: Quantity) -> Noted:
    if math.isnan(number.value):
        return Noted("NaN", number.note.partition("; dropped")[0])
    return Noted(str(number), f"{number.note}; n {number.n:,}" if number.note else f"n {number.n:,}")


def tally(found: list[Claim]) -> str:
    """How many claims hold, in one sentence."""
    count = {v: sum(c.verdict == v for c in found) for v in ("holds", "does not hold", "undecided")}
    yes, no, open_ = count.values()
    return (
        f"Of {counted(len(found), 'claim')}, {yes} {'holds' if yes == 1 else 'hold'} on this model, "
        f"{no} {'does' if no == 1 else 'do'} not, {open_} {'is' if open_ == 1 else 'are'} undecided."
    )
