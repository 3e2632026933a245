"""When to give up an orbit and start afresh.

With a fixed cutoff t an answer costs E(t) = sum_{n<t} S(n) / (1 - S(t)) segments on average, if every start
draws a new waiting time from S. That holds for a single puzzle; over a set it holds only if a restart
also draws a new puzzle, which it does not. So the survival curve of a set proves nothing: use restarts of
the same puzzles (`restart_advantage`, `solved_within`), and judge a cutoff on puzzles that did not choose it.

Source: Luby, Sinclair and Zuckerman, Inf. Process. Lett. 47 (1993) 173.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from loopscope.errors import UserError
from loopscope.evaluation.auc import FEW
from loopscope.evaluation.intervals import Estimate, mean_share, resampled_rows


@dataclass(frozen=True)
class Cutoff:
    """The best fixed cutoff under a survival curve.

    Attributes:
        cutoff: t in segments; 0 when no t has an answer.
        expected: E(t), segments per answer.
        without: E of the longest orbits, segments per answer when nothing is cut before the last segment;
            the expected time without restarts where the curve reaches 0.
        gain: without / expected; 1 when restarts do not help.
        reason: why there is no number, else empty.
    """

    cutoff: int
    expected: float
    without: float
    gain: float
    reason: str = ""

    def to_dict(self) -> dict[str, float | int | str]:
        """Plain values, ready for json."""
        return asdict(self)


@dataclass(frozen=True)
class Policy:
    """A cutoff judged on puzzles that did not choose it.

    Attributes:
        cutoffs: chosen in each fold.
        expected: segments per answer with them on the held-out puzzles, bootstrap over puzzles.
        without: with no cut before the last segment, on the same puzzles.
        gain: without / expected.
        reason: why there is no number, else empty.
    """

    cutoffs: tuple[int, ...]
    expected: Estimate
    without: Estimate
    gain: Estimate
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        return asdict(self)


@dataclass(frozen=True)
class Advantage:
    """Chance of a fresh start over that of going on, for puzzles unsolved at n.

    Attributes:
        ratio: P(solved in m | fresh) / P(solved in the next m | unsolved at n), interval by bootstrap of
            its logarithm over puzzles; above 1 restart, 1 memoryless, below 1 go on.
        fresh, onward: the two chances, bootstrap over puzzles.
        at, within: n and m, segments.
        reason: why the ratio or its interval is NaN, else empty.
    """

    ratio: Estimate
    fresh: Estimate
    onward: Estimate
    at: int
    within: int
    reason: str = ""

    @property
    def verdict(self) -> str:
        """One line of plain words."""
        if self.reason:
            return f"undefined: {self.reason}"
        if self.ratio.low > 1:
            return "a fresh start is better"
        return "going on is better" if self.ratio.high < 1 else "no difference is seen"

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        return asdict(self) | {"verdict": self.verdict}


def luby(n: int) -> int:
    """The n-th cutoff, from n = 1, of the universal schedule 1 1 2 1 1 2 4 1 1 2 ..., for unknown S."""
    if n < 1:
        raise UserError(f"n={n}: expected at least 1.")
    k = n.bit_length()
    return 2 ** (k - 1) if n == 2**k - 1 else luby(n - 2 ** (k - 1) + 1)


def expected_time(survival: Float[np.ndarray, " T1"]) -> Float[np.ndarray, " T"]:
    """E(t) for the cutoffs t = 1..T from S(0), ..., S(T), in segments; infinite where S(t) = 1."""
    with np.errstate(divide="ignore"):
        return np.cumsum(survival[:-1]) / (1 - survival[1:])


def optimal_cutoff(survival: Float[np.ndarray, " T1"]) -> Cutoff:
    """The fixed cutoff with the smallest expected time.

    Args:
        survival: S(0) = 1, ..., S(T) of one puzzle, or of a source that draws puzzle and start anew.
    """
    times = expected_time(np.asarray(survival, dtype=float))
    if not np.isfinite(times).any():
        return Cutoff(0, math.nan, math.nan, math.nan, f"nothing is solved within {len(times)} segments")
    best = int(np.argmin(times))
    return Cutoff(best + 1, float(times[best]), float(times[-1]), float(times[-1] / times[best]))


def restart_policy(
    times: Int[np.ndarray, "B K"], *, stop: int, folds: int = 5, resamples: int = 2000, seed: int = 0
) -> Policy:
    """Choose a cutoff on some puzzles and charge it on the others.

    Args:
        times: first solved segment of K orbits of every puzzle, 1-based; -1 if never within `stop`. Each
            stands for one attempt; attempts at hard and at easy puzzles are pooled.
        stop: length of the orbits; the longest cutoff.
        folds: groups of puzzles; each is charged with the cutoff of all others.
        resamples, seed: of the folds and of the bootstrap over puzzles.
    """
    if not 2 <= folds <= len(times):
        raise UserError(f"folds={folds}: expected 2 to {len(times)}, the number of puzzles.")
    group = np.random.default_rng(seed).permutation(len(times)) % folds
    chosen = [_cutoff(times[group != fold], stop) for fold in range(folds)]
    spent, won = _charge(times, np.array(chosen)[group][:, None])
    spent_all, won_all = _charge(times, np.full((len(times), 1), stop))
    n = len(times)
    if won.sum() == 0 or won_all.sum() == 0:
        nothing = Estimate(math.nan, math.nan, math.nan, n)
        reason = f"{won.sum()} and {won_all.sum()} answers with and without cutoff: no time per answer"
        return Policy(tuple(chosen), nothing, nothing, nothing, reason)
    draws = [[x[index].sum(axis=1) for x in (spent, won, spent_all, won_all)] for index in
             resampled_rows(n, resamples, seed)]  # fmt: skip
    a, b, c, d = (np.concatenate(column) for column in zip(*draws, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = _interval(spent.sum() / won.sum(), a / b, n)
        without = _interval(spent_all.sum() / won_all.sum(), c / d, n)
        gain = _interval(without.value / expected.value, (c / d) / (a / b), n)
    return Policy(tuple(chosen), expected, without, gain)


def restart_advantage(
    onward: Int[np.ndarray, " B"],
    fresh: Int[np.ndarray, "B K"],
    *,
    at: int,
    within: int,
    resamples: int = 2000,
    seed: int = 0,
) -> Advantage:
    """Compare a fresh start with going on, on the very puzzles that are unsolved at segment n.

    Args:
        onward: first solved segment of the plain orbits, run for at least at + within segments; -1 never.
        fresh: first solved segment of K kicked starts of the same puzzles, run for at least `within`.
        at: n, segments already spent.
        within: m, segments to be spent.
        resamples, seed: of the bootstrap over puzzles.
    """
    if len(onward) != len(fresh):
        raise UserError(f"{len(onward)} orbits and {len(fresh)} puzzles with restarts: expected the same.")
    open_yet = (onward == -1) | (onward > at)
    again = ((fresh > 0) & (fresh <= within)).mean(axis=1)[open_yet]
    on = ((onward > at) & (onward <= at + within))[open_yet].astype(float)
    n = int(open_yet.sum())
    chance, onto = (mean_share(x, resamples=resamples, seed=seed) for x in (again, on))
    if n == 0 or again.sum() == 0 or on.sum() == 0:
        reason = (
            f"{n} puzzles unsolved at {at}, of which {int((again > 0).sum())} solved by a fresh start and "
            f"{int(on.sum())} by going on"
        )
        return Advantage(Estimate(math.nan, math.nan, math.nan, n), chance, onto, at, within, reason)
    parts = [(again[i].mean(axis=1), on[i].mean(axis=1)) for i in resampled_rows(n, resamples, seed)]
    a, b = (np.concatenate(column) for column in zip(*parts, strict=True))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = _interval(float(again.mean() / on.mean()), a / b, n)
    if n < FEW:
        reason = f"{n} puzzles unsolved at {at}: an interval needs {FEW}"
        return Advantage(Estimate(ratio.value, math.nan, math.nan, n), chance, onto, at, within, reason)
    return Advantage(ratio, chance, onto, at, within)


def solved_within(
    times: Int[np.ndarray, "B K"],
    budget: int,
    cutoffs: Sequence[int],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[int, Estimate]:
    """Share of puzzles solved with the same total work, cut into orbits of different length.

    A cutoff t allows budget // t of the K orbits; which of them is averaged out. This is the
    comparison that a mixed set of puzzles allows: no expected time is infinite.

    Args:
        times: first solved segment of every orbit, 1-based; -1 if never.
        budget: segments to spend per puzzle.
        cutoffs: lengths, at most the length that was run.
        resamples, seed: of the bootstrap over puzzles.
    Returns:
        cutoff -> share solved; NaN where budget // t orbits are more than K, or none.
    """
    B, K = times.shape
    found = {}
    for t in cutoffs:
        allowed = budget // t
        if not 1 <= allowed <= K:
            found[t] = Estimate(math.nan, math.nan, math.nan, B)
            continue
        missed = np.array([math.comb(K - hits, allowed) / math.comb(K, allowed) for hits in range(K + 1)])
        hits = ((times > 0) & (times <= t)).sum(axis=1)
        found[t] = mean_share(1 - missed[hits], resamples=resamples, seed=seed)
    return found


def _cutoff(times: Int[np.ndarray, "B K"], stop: int) -> int:
    """Best cutoff for pooled attempts; the longest where nothing is solved."""
    at = np.where((times > 0) & (times <= stop), times, stop + 1).ravel()
    survival = np.array([np.mean(at > t) for t in range(stop + 1)])
    return optimal_cutoff(survival).cutoff or stop


def _charge(times: np.ndarray, cutoff: np.ndarray) -> tuple[Int[np.ndarray, " B"], Int[np.ndarray, " B"]]:
    """Segments spent and answers found per puzzle when every attempt is cut."""
    won: Bool[np.ndarray, "B K"] = (times > 0) & (times <= cutoff)
    return np.where(won, times, cutoff).sum(axis=1), won.sum(axis=1)


def _interval(value: float, draws: np.ndarray, n: int) -> Estimate:
    low, high = np.quantile(draws[~np.isnan(draws)], [0.025, 0.975], method="closest_observation")
    return Estimate(float(value), float(low), float(high), n)
