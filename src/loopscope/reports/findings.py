"""What the numbers say, in sentences chosen by the numbers and their intervals.

Each finding is a verdict and its evidence. When an interval covers both answers the verdict is
"undecided"; when a class is empty the finding says so. Nothing is written in advance for a model.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from loopscope.dynamics.decay import decay_test
from loopscope.dynamics.fate import WINDOW, FateTable, drift_slope
from loopscope.evaluation.compare import mcnemar as exact_mcnemar
from loopscope.evaluation.intervals import clopper_pearson, upper_bound, wilson
from loopscope.reports.measurement import Measurement
from loopscope.reports.quantity import Quantity, percent, rate, share
from loopscope.reports.tables import escape, fates, never_solved_plainly, restart_length, restart_rates
from loopscope.reports.words import counted, no_groups

UNDECIDED = "Undecided"  # how every verdict begins that the numbers do not allow
SETTLING = math.log10(0.7)  # a drift that falls this much from one window to the next has not levelled off


@dataclass(frozen=True)
class Finding:
    """A verdict in a few words, and the evidence for it."""

    verdict: str
    evidence: str

    def __str__(self) -> str:
        return f"{self.verdict}: {self.evidence}"


def findings(m: Measurement, numbers: dict[str, Quantity]) -> list[Finding]:
    """All findings that the measurement and its `quantities` numbers allow."""
    candidates = [
        fate_finding(fates(m), still_falling(m)),
        end_finding(m),
        exponent_finding(numbers),
        sign_finding(numbers),
        time_finding(m),
        restart_finding(m),
        halt_finding(m, numbers),
    ]
    return [finding for finding in candidates if finding is not None]


def still_falling(m: Measurement) -> int | None:
    """Failures that have not settled yet, but whose drift still falls by 30 % in four segments.

    None where the orbits are too short to tell.
    """
    if m.late is None or m.budget < 2 * WINDOW:
        return None
    slope = drift_slope(m.drift[:, : m.budget])
    return int((slope[~m.correct & ~m.settled] < SETTLING).sum())


def fate_finding(table: FateTable | None, falling: int | None = 0) -> Finding | None:
    """Whether failures settle on a wrong answer or keep wandering.

    Args:
        table: settled or wandering against correct or wrong.
        falling: of the failures above the threshold, those whose drift still falls; they do not count
            as wandering. None where that is not known: then none is said to wander.
    """
    if table is None:
        return None
    settled, wrong = table.settled_wrong, table.settled_wrong + table.wandering_wrong
    right = table.settled_correct + table.wandering_correct
    if wrong == 0:
        return Finding("No failure to classify", "every puzzle was solved, so the fate of failures is NaN.")
    if not is_cut(table):
        return Finding(f"{UNDECIDED} whether failures settle or wander", _no_cut(table))
    interval = table.settled_among_wrong
    failures = counted(wrong, "failure")
    counts = f"{settled} of {failures} settled ({share(interval)})"
    if settled == 0:
        counts = f"0 of {failures} settled (upper bound {percent(upper_bound(0, wrong))} %)"
    successes = f" Of {counted(right, 'success')}, {table.settled_correct} had settled." if right else ""
    gap = f" Without a threshold: {table.drift_gap}." if right else ""
    known, falling = falling is not None, falling or 0
    level = clopper_pearson(wrong - settled - falling, wrong)
    if not known:
        counts += f"; {2 * WINDOW} segments are needed to tell whether the drift of the others still falls"
    if falling:
        rest = wrong - settled - falling
        counts += f", the drift of {falling} more still falls, that of {rest} stays level"
    verdict = f"{UNDECIDED} whether failures settle or wander"
    if level.low > 0.5 and known:
        verdict = "Failures wander"
    elif interval.low > 0.5:
        verdict = "Failures settle"
    elif falling and level.high < 0.5:
        some = "Some failures wander, most settle" if wrong > settled + falling else "Failures settle"
        verdict = f"{some} or are about to"
    return Finding(verdict, f"{counts}.{successes}{gap}")


def end_finding(m: Measurement) -> Finding | None:
    """The same of the puzzles that are unsolved at the last segment, when all transients are over."""
    end = m.at_end
    found = None if end is None else fate_finding(fates(end), still_falling(end))
    if found is None:
        return None
    return Finding(f"{found.verdict} (after {m.stop} segments)", found.evidence)


def is_cut(table: FateTable) -> bool:
    """Whether late drift falls into two groups, so that a threshold means something."""
    return table.threshold.splits


def _no_cut(table: FateTable) -> str:
    if table.threshold.reason:
        return f"late drift has no threshold ({table.threshold.reason})."
    return f"{no_groups(table.threshold)}, so any threshold is arbitrary. Without one: {table.drift_gap}."


def exponent_finding(numbers: dict[str, Quantity]) -> Finding | None:
    """Whether the first exponent tells solved from unsolved, and whether it tells more than the drift."""
    area = numbers.get("AUC, low exponent → solved")
    if area is None:
        return None
    if math.isnan(area.value):
        return Finding("The exponent separates nothing here", f"AUC is NaN, {area.note}.")
    verdict = f"{UNDECIDED} whether the exponent goes with success"
    if area.low > 0.5:
        strength = "almost separates" if area.low > 0.95 else "goes with"
        verdict = f"A low exponent {strength} {'success and failure' if area.low > 0.95 else 'success'}"
    elif area.high < 0.5:
        verdict = "A high exponent goes with success"
    text = f"AUC {area} for low exponent → solved ({area.note})."
    return Finding(verdict, text + _beside_others(area, numbers))


def _beside_others(area: Quantity, numbers: dict[str, Quantity]) -> str:
    """Late drift and halt logit are cheaper; say whether the exponent beats them."""
    cheap = {"late drift": "AUC, low late drift → solved", "the halt logit": "AUC, halt logit → solved"}
    found = {name: numbers[key] for name, key in cheap.items() if key in numbers}
    found = {name: q for name, q in found.items() if not math.isnan(q.value)}
    if not found:
        return ""
    listed = " and ".join(f"{name} alone reaches {q}" for name, q in found.items())
    better = all(_strength(area)[0] > _strength(q)[1] for q in found.values())
    verdict = "more than both tell" if len(found) > 1 else "more than it tells"
    end = (
        f"which separates less: the exponent says {verdict}"
        if better
        else "so the exponent is not shown to say more"
    )
    return f" {listed[0].upper()}{listed[1:]}, {end}."


def _strength(area: Quantity) -> tuple[float, float]:
    """Ends of how well an AUC separates, in whichever direction: .1 separates as well as .9."""
    if area.low <= 0.5 <= area.high:
        return 0.5, max(area.high, 1 - area.low)
    return (area.low, area.high) if area.low > 0.5 else (1 - area.high, 1 - area.low)


def sign_finding(numbers: dict[str, Quantity]) -> Finding | None:
    """Whether nearby states part or draw together, by outcome."""
    found = {name: numbers.get(f"median exponent, {name}") for name in ("solved", "unsolved")}
    parts = []
    for name, q in found.items():
        if q is None or math.isnan(q.value):
            continue
        if math.isnan(q.low) or q.low <= 0 <= q.high:
            words = "show no clear sign"
        else:
            words = "part" if q.low > 0 else "draw together"
        parts.append((words, f"{name} puzzles: median first exponent {q} (n {q.n})"))
    if not parts:
        return None
    if len(parts) == 2 and parts[0][0] == parts[1][0]:
        verdict = f"Nearby states {parts[0][0]} in both outcomes"
    else:
        names = [name for name, q in found.items() if q is not None and not math.isnan(q.value)]
        verdict = "Nearby states " + ", ".join(
            f"{w} in {name} puzzles" for (w, _), name in zip(parts, names, strict=True)
        )
    return Finding(
        verdict, "; ".join(text for _, text in parts) + ". Above 0 they part, below 0 they draw together."
    )


def time_finding(m: Measurement) -> Finding | None:
    """Whether running on after the budget solves more."""
    if m.stop == m.budget:
        return None
    found, end = escape(m), m.solved[:, -1]
    gained, lost = int((end & ~m.correct).sum()), int((~end & m.correct).sum())
    p = exact_mcnemar(gained, lost)
    if found is None and m.correct.all() and not lost:
        return Finding(
            "Nothing left to solve after the budget",
            f"{m.n:,} of {counted(m.n, 'puzzle')} right by segment {m.budget}.",
        )
    verdict = f"{UNDECIDED} whether more time helps"
    if p < 0.05:
        verdict = "More time helps" if gained > lost else "More time harms"
    were = "puzzle was" if gained == 1 else "puzzles were"
    text = f"from segment {m.budget} to {m.stop}, {gained} {were} gained and {lost} lost"
    text += f" (exact McNemar p = {p:.2g})."
    if found is None:
        return Finding(verdict, f"{text} Every puzzle had been right at some segment before.")
    open_ = counted(found.n, "puzzle")
    text += f" {found.events} of {open_} never solved before had a right answer then, {rate(found)}"
    if found.events < 2:
        return Finding(verdict, f"{text}.")
    test = decay_test(m.first_solved, start=m.escape_from, stop=m.stop)
    if test.flagged:
        return Finding(verdict, f"{text}, an average: {test.verdict}.")
    if found.exponential:
        return Finding(verdict, f"{text}; the data do not contradict a constant rate.")
    direction = "falls" if found.trend < 0 else "rises"
    mixed = " A mixture of easy and hard puzzles shows the same fall." if found.trend < 0 else ""
    return Finding(verdict, f"{text}; the rate {direction} with time, so this is an average.{mixed}")


def restart_finding(m: Measurement) -> Finding | None:
    """Whether a kick at the start frees the puzzles that the plain start failed."""
    if "basin_solved" not in m:
        return None
    if m.correct.all():
        return Finding("No failure to restart", "every puzzle was solved from the plain start.")
    length, wrong = restart_length(m), never_solved_plainly(m)
    if wrong is None:
        text = f"restarts ran for {length} segments, plain orbits for {m.stop} only."
        return Finding(f"{UNDECIDED} whether kicks free failures", text)
    if not wrong.any():
        text = f"every failure had been right at some of its first {length} segments, without a kick."
        return Finding("No failure to restart", text)
    sigmas = m.data["sigma"].to_numpy()
    kicks = [i for i, sigma in enumerate(sigmas) if sigma > 0]
    if not kicks:
        return None
    rates = {i: restart_rates(m, wrong, i) for i in range(len(sigmas))}
    chosen = max(kicks, key=lambda i: rates[i][1].value)
    single, best, _ = rates[chosen]
    plain = next((rates[i][1] for i in rates if sigmas[i] == 0), None)
    hits = m.restarts("basin_solved")[wrong][:, kicks]
    freed = int(hits.any(axis=(1, 2)).sum())
    any_size = clopper_pearson(freed, int(wrong.sum()))
    K = m.data.sizes["restart"]
    picked = f" (the best of {len(kicks)} sizes, chosen afterwards)" if len(kicks) > 1 else ""
    still = f", {plain} without a kick" if plain is not None else ""
    text = (
        f"of {counted(int(wrong.sum()), 'failure')} that the plain start never had right in {length} "
        f"segments, {share(any_size)} were solved by some of {K * len(kicks)} restarts, {best} by the best "
        f"of {K} at sigma {float(sigmas[chosen]):g}{picked}, {single} by one restart{still}. "
        f"{K} restarts cost {K} times as much."
    )
    return Finding(_kick_verdict(share(any_size)), text)


def _kick_verdict(any_size: Quantity) -> str:
    if any_size.low > 0.5:
        return "Kicks free most failures"
    if any_size.high < 0.5:
        return "Most failures withstand the kicks"
    return f"{UNDECIDED} whether kicks free most failures"


def halt_finding(m: Measurement, numbers: dict[str, Quantity]) -> Finding | None:
    """Whether the model knows that it is right, and better than a constant guess."""
    right = numbers.get("halt signal right")
    if right is None:
        return None
    share_right = float(m.correct.mean())
    always = max(share_right, 1 - share_right)
    if right.low <= always:
        verdict = f"{UNDECIDED} whether the halt signal tells anything"
    elif right.low > 0.95:
        verdict = "The model knows when it is right"
    elif right.high < 0.9:
        verdict = "The halt signal is often wrong"
    else:
        verdict = "The halt signal is mostly right"
    return Finding(
        verdict,
        f"the halt signal agrees with the outcome in {right} of {counted(right.n, 'puzzle')}; to say the "
        f"same of all would agree in {percent(always)} %.",
    )


def answer(m: Measurement) -> str:
    """The sentences under the title: how much is solved, and what becomes of the rest."""
    solved = share(wilson(int(m.correct.sum()), m.n))
    what = f"{m.name} solves {solved} of {counted(m.n, 'puzzle')} in {counted(m.budget, 'segment')}."
    if str(m.attrs.get("task", "")).startswith("maze-") and "verified" in m:
        what += " Any shortest path counts, the label's or another (of restarts only the label's)."
    fate, end = fate_finding(fates(m), still_falling(m)), end_finding(m)
    if fate is None:
        return what
    if fate.verdict.startswith(UNDECIDED):
        if end is None or end.verdict.startswith(UNDECIDED):
            return f"{what} {fate.verdict}."
        fate = end
    return f"{what} {fate.verdict}: {fate.evidence.split('. ')[0].rstrip('.')}."


def same_puzzles(a: Measurement, b: Measurement) -> bool:
    """Whether two measurements are of the same puzzles in the same order."""
    same = a.attrs.get("data_hash") is not None and a.attrs.get("data_hash") == b.attrs.get("data_hash")
    return same and a.n == b.n and np.array_equal(a.data["puzzle"], b.data["puzzle"])


def mcnemar(a: Measurement, b: Measurement) -> str | None:
    """Exact McNemar test of two models on the same puzzles; None when the puzzles differ."""
    if not same_puzzles(a, b):
        return None
    only_a, only_b = int((a.correct & ~b.correct).sum()), int((b.correct & ~a.correct).sum())
    p = exact_mcnemar(only_a, only_b)
    return (
        f"On the same {a.n:,} puzzles, {only_a} are solved only by {a.name} and {only_b} only by {b.name} "
        f"(exact McNemar p = {p:.2g})."
    )
