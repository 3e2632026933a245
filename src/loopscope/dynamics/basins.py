"""Basins: is it the puzzle or the start that decides?

`follow_basins` follows every puzzle from many kicked states; the other functions read its result, or any
table of outcomes over (puzzle, restart). Puzzles are the unit of resampling: restarts of one puzzle are
not independent evidence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Bool, Float, Int
from torch import Tensor

from loopscope.dynamics.restarts import Kicked, follow_kicks
from loopscope.dynamics.system import exact_arithmetic, own_memory
from loopscope.errors import UserError
from loopscope.evaluation.intervals import (
    Estimate,
    bootstrap_mean,
    clopper_pearson,
    mean_share,
    resampled_rows,
    wilson,
)
from loopscope.evaluation.metrics import cells_right
from loopscope.evaluation.subject import blocks
from loopscope.latent import batch_size as count
from loopscope.latent import rows

LABELS = {  # variable -> (units, long name)
    "first_solved": ("segments", "first segment after the kick with every cell right, -1 never"),
    "solved": ("1", "right at some segment after the kick"),
    "final": ("1", "right at the last segment"),
    "answer": ("1", "number of the last answer among the different ones of the puzzle"),
    "displacement": ("1", "distance to the plain orbit after one segment, relative to its norm"),
    "solved_before": ("1", "right when the kick came"),
}


@dataclass(frozen=True)
class BasinStability:
    """Share of kicked starts that reach the solution, per puzzle.

    Attributes:
        value, low, high: share and Wilson interval, shape of the outcomes without the restart axis.
        restarts: behind every share.
        mean: over puzzles, bootstrap; one per kick size (a list of one without that axis).
    """

    value: Float[np.ndarray, "B *S"]
    low: Float[np.ndarray, "B *S"]
    high: Float[np.ndarray, "B *S"]
    restarts: int
    mean: list[Estimate]


@dataclass(frozen=True)
class OutcomeSplit:
    """How much of the variance of outcomes lies between puzzles.

    Attributes:
        variance: of a single outcome, 0 or 1; within plus between.
        input_share: share between puzzles (intraclass correlation): decided by the input.
        start_share: the rest, decided by the start.
        always, never, mixed: puzzles that every, no, or some restarts solve.
        n, restarts: puzzles, and restarts of each.
        reason: why the shares are NaN, else empty.
    """

    variance: float
    input_share: Estimate
    start_share: Estimate
    always: int
    never: int
    mixed: int
    n: int
    restarts: int
    reason: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        return asdict(self)


@dataclass(frozen=True)
class BasinEntropy:
    """Uncertainty about the last answer when only the size of the kick is known.

    Attributes:
        value: entropy in nats per puzzle, corrected for the number of restarts (Miller and Madow), (B,).
        distinct: different answers per puzzle, (B,).
        mean: over puzzles, bootstrap.
        boundary: over puzzles with more than one answer; NaN where there is none.
    """

    value: Float[np.ndarray, " B"]
    distinct: Int[np.ndarray, " B"]
    mean: Estimate
    boundary: Estimate


def follow_basins(
    system: Any,
    batch: Any,
    *,
    sigmas: Sequence[float],
    restarts: int = 16,
    segments: int,
    at: int = 0,
    parts: Sequence[str] | None = None,
    labels: Int[Tensor, "B L"] | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> xr.Dataset:
    """Follow every puzzle from kicked states.

    Args:
        system: keeps the `RecursiveSystem` protocol.
        batch: B puzzles, handed to `encode` in slices.
        sigmas: sizes of the kick, in the units of `perturbed_start`.
        restarts: kicks of each size.
        segments: length of each orbit after the kick.
        at: segment after which the kick comes; 0 kicks the start.
        parts: fields of the latent to kick, such as ("z_H",); default all.
        labels: expected tokens; default `batch.labels`.
        batch_size: puzzles at once. Results do not depend on it beyond rounding.
        seed: of the kicks.
    Returns:
        `first_solved`, `solved`, `final`, `answer`, `displacement` over (puzzle, sigma, restart) and
        `solved_before(puzzle)`.
    """
    if restarts < 1 or segments < 1 or at < 0 or not sigmas:
        raise UserError(
            f"restarts={restarts}, segments={segments}, at={at}, {len(sigmas)} sigmas: expected at least "
            "1, 1, 0 and 1."
        )
    labels = batch.labels if labels is None else labels
    done, before = [], []
    for block in blocks(count(batch), batch_size):
        piece, target = rows(batch, block), labels[block]
        index = np.arange(block.start, block.stop)
        with exact_arithmetic(target.device):
            ctx = system.encode(piece)
            z = own_memory(system.initial_state(ctx))
            for _ in range(at):
                z = system.segment(z, ctx)
            answer = system.readout(z, ctx).logits.argmax(-1)
            before.append(cells_right(answer, target)[1].cpu().numpy() & (at > 0))
            kicked = follow_kicks(
                system,
                ctx,
                z,
                target,
                sigmas=sigmas,
                restarts=restarts,
                segments=segments,
                seed=seed,
                puzzle_index=index,
                parts=parts,
            )
        done.append(kicked)
    found = Kicked(*(np.concatenate(column) for column in zip(*done, strict=True)))
    attrs = {"segments": segments, "at": at, "parts": ",".join(parts or ("all",)), "seed": seed}
    return _labelled(found, np.concatenate(before), list(sigmas), attrs)


def basin_stability(
    solved: Bool[np.ndarray, "B *S R"], *, resamples: int = 2000, seed: int = 0
) -> BasinStability:
    """Share of kicked starts that reach the solution.

    Args:
        solved: outcome of every restart, the last axis; a size axis before it is optional.
        resamples, seed: of the bootstrap of the mean over puzzles.
    Source: Menck, Heitzig, Marwan and Kurths, Nature Physics 9 (2013) 89.
    """
    R = solved.shape[-1]
    table = [wilson(k, R) for k in range(R + 1)]
    hits = solved.sum(axis=-1)
    value, low, high = (np.array([getattr(e, end) for e in table])[hits] for end in ("value", "low", "high"))
    columns = value.reshape(len(value), -1).T
    mean = [mean_share(column, resamples=resamples, seed=seed) for column in columns]
    return BasinStability(value, low, high, R, mean)


def best_of(solved: Bool[np.ndarray, "B R"], k: int, *, resamples: int = 2000, seed: int = 0) -> Estimate:
    """Chance that at least one of k restarts solves a puzzle, mean over puzzles; an oracle picks it.

    Without bias for k up to R: 1 - C(failures, k) / C(R, k) per puzzle. k = 1 is the rate of one restart.

    Args:
        solved: outcome of every restart.
        k: how many are drawn, at most R.
        resamples, seed: of the bootstrap over puzzles.
    """
    R = solved.shape[1]
    if not 1 <= k <= R:
        raise UserError(f"k={k}: expected 1 to {R}, the number of restarts. Run more restarts.")
    missed = [math.comb(R - hits, k) / math.comb(R, k) for hits in range(R + 1)]
    return mean_share(1 - np.array(missed)[solved.sum(axis=1)], resamples=resamples, seed=seed)


def outcome_split(solved: Bool[np.ndarray, "B R"], *, resamples: int = 2000, seed: int = 0) -> OutcomeSplit:
    """Variance of outcomes between puzzles and within them.

    Analysis of variance of one factor, without bias for few restarts: within = mean p(1-p) R/(R-1),
    between = var(p) - within / R, with p the share of solved restarts per puzzle.

    Args:
        solved: outcome of every restart, R at least 2.
        resamples, seed: of the bootstrap over puzzles.
    Source: Shrout and Fleiss, Psychol. Bull. 86 (1979) 420, ICC(1,1).
    """
    B, R = solved.shape
    if R < 2:
        raise UserError(f"{R} restart: expected at least 2 to tell starts from puzzles. Run more restarts.")
    p = solved.mean(axis=1)
    counts = int((p == 1).sum()), int((p == 0).sum()), int(((p > 0) & (p < 1)).sum())
    nothing = Estimate(math.nan, math.nan, math.nan, B)
    if B < 2 or len(np.unique(solved)) < 2:
        reason = f"{B} puzzles with {counts[0]} always and {counts[1]} never solved: outcomes do not vary"
        return OutcomeSplit(math.nan, nothing, nothing, *counts, B, R, reason)
    between, within = _variances(p[None], R)
    share = float(between[0] / (between[0] + within[0]))
    drawn = [_variances(p[index], R) for index in resampled_rows(B, resamples, seed)]
    outer, inner = (np.concatenate(column) for column in zip(*drawn, strict=True))
    some = outer + inner > 0
    low, high = np.clip(np.quantile(outer[some] / (outer + inner)[some], [0.025, 0.975]), 0, 1)
    share = min(max(share, 0.0), 1.0)
    if low == high:  # all puzzles alike: none of B others is what they still allow
        room = clopper_pearson(0, B).high
        low, high = max(share - room, 0.0), min(share + room, 1.0)
    return OutcomeSplit(
        variance=float(between[0] + within[0]),
        input_share=Estimate(share, float(low), float(high), B),
        start_share=Estimate(1 - share, float(1 - high), float(1 - low), B),
        always=counts[0],
        never=counts[1],
        mixed=counts[2],
        n=B,
        restarts=R,
    )


def basin_entropy(answer: Int[np.ndarray, "B R"], *, resamples: int = 2000, seed: int = 0) -> BasinEntropy:
    """Entropy of the last answers over the restarts of each puzzle.

    Args:
        answer: a number per different answer of a puzzle (`answer` of `follow_basins`, at one size).
        resamples, seed: of the bootstrap over puzzles.
    Source: Daza, Wagemakers, Georgeot, Guery-Odelin and Sanjuan, Sci. Rep. 6 (2016) 31416.
    """
    R = answer.shape[1]
    counts = [np.unique(of_one, return_counts=True)[1] for of_one in answer]
    plain = np.array([-(c / R * np.log(c / R)).sum() for c in counts])
    distinct = np.array([len(c) for c in counts])
    value = np.minimum(plain + (distinct - 1) / (2 * R), math.log(R)) if R > 1 else plain
    mean, boundary = (bootstrap_mean(v, resamples=resamples, seed=seed) for v in (value, value[distinct > 1]))
    return BasinEntropy(value, distinct, mean, boundary)


def _variances(p: Float[np.ndarray, "r B"], R: int) -> tuple[np.ndarray, np.ndarray]:
    within = (p * (1 - p)).mean(axis=1) * R / (R - 1)
    return p.var(axis=1, ddof=1) - within / R, within


def _labelled(found: Kicked, before: np.ndarray, sigmas: list[float], attrs: dict[str, Any]) -> xr.Dataset:
    dims = ("puzzle", "sigma", "restart")
    names = ("first_solved", "final", "answer", "displacement")
    variables: dict[str, Any] = {n: (dims, v) for n, v in zip(names, found, strict=True)}
    variables |= {"solved": (dims, found.first > 0), "solved_before": ("puzzle", before)}
    B, _, R = found.first.shape
    runs = xr.Dataset(
        variables, {"puzzle": np.arange(B), "sigma": sigmas, "restart": np.arange(1, R + 1)}, attrs
    )
    for name, (units, long_name) in LABELS.items():
        runs[name].attrs.update(units=units, long_name=long_name)
    runs["sigma"].attrs.update(units="standard deviations of the kicked state", long_name="size of the kick")
    return runs
