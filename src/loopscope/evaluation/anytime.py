"""A budget for each puzzle, spent by a stated policy, with an answer and its confidence at any moment.

"deepen" goes on with one orbit. "restart" begins a new one every `cutoff` segments. "luby" begins new ones
after `cutoff` times 1 1 2 1 1 2 4 ... segments, which is within a logarithmic factor of the best cutoffs
whatever the times to solution are. The answer of a moment is the one with the highest halt logit among the
ends of the orbits so far and the running one as it stands.

Source: Luby, Sinclair and Zuckerman, "Optimal speedup of Las Vegas algorithms" (1993).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count, repeat
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, UInt8

from loopscope.errors import UserError
from loopscope.evaluation.levers import Levers
from loopscope.evaluation.rollouts import Jobs, Slots, advance, enter
from loopscope.evaluation.selection import WORST
from loopscope.evaluation.subject import blocks, check_fits, check_numbers, dtype_name
from loopscope.tasks.base import PuzzleSet

POLICIES = ("deepen", "restart", "luby")


class Moment(NamedTuple):
    """What is known of B puzzles after a segment.

    Attributes:
        spent: block applications per puzzle so far.
        seconds: wall time per puzzle so far.
        tokens: the best answers so far.
        halt_logit: of these answers.
        rollout: the orbit they came from.
        dtype: in which it was computed.
    """

    spent: int
    seconds: float
    tokens: UInt8[np.ndarray, "B L"]
    halt_logit: Float[np.ndarray, " B"]
    rollout: Int[np.ndarray, " B"]
    dtype: str


@dataclass(frozen=True)
class Anytime:
    """Answers to N puzzles at C moments, one after each segment.

    Attributes:
        spent: block applications per puzzle.
        seconds: wall time per puzzle.
        tokens: answer of the moment.
        confidence: the model's own, sigmoid of the halt logit of that answer.
        rollout: the orbit that gave it, 0 the plain one.
    """

    spent: Int[np.ndarray, "N C"]
    seconds: Float[np.ndarray, "N C"]
    tokens: UInt8[np.ndarray, "N C L"]
    confidence: Float[np.ndarray, "N C"]
    rollout: Int[np.ndarray, "N C"]


def luby(n: int) -> int:
    """Entry n, counted from 1, of the sequence 1 1 2 1 1 2 4 1 1 2 1 1 2 4 8 ..."""
    assert n >= 1, n
    while (n + 1) & n:  # not yet 2^k - 1: the entry repeats an earlier one
        n -= 2 ** (n.bit_length() - 1) - 1
    return (n + 1) // 2


def anytime(
    model: Any,
    puzzles: PuzzleSet,
    *,
    budget: int | None = None,
    seconds: float | None = None,
    policy: str = "deepen",
    cutoff: int = 16,
    noise: float = 0.3,
    start: str = "perturbed",
    segment_noise: float = 0.0,
    seed: int = 0,
    batch_size: int = 64,
) -> Anytime:
    """Spend a budget on every puzzle, and say at every moment what the answer would be.

    Args:
        model: anything that keeps the `RecursiveSystem` protocol.
        puzzles: N puzzles; labels are not looked at.
        budget: block applications per puzzle; or
        seconds: wall time per puzzle, its share of the time of its batch. A segment that would not fit (for
            seconds: if it took as long as the longest so far) is not begun; the first one always is.
        policy: "deepen", "restart" or "luby".
        cutoff: segments of an orbit ("luby": of the shortest ones).
        noise, start, segment_noise, seed: of the orbits after the first, as for `solve`.
        batch_size: puzzles per batch.
    Returns:
        A moment for every segment. Where batches fitted different numbers of segments into `seconds`, the
        last moment of a batch is repeated.
    Raises:
        UserError: both budgets or none, one that is too small for a segment, an unknown policy.
    """
    check_numbers(batch_size, seed)
    check_fits(model, puzzles)
    how: dict[str, Any] = {"budget": budget, "seconds": seconds, "policy": policy, "cutoff": cutoff}
    how |= {"noise": noise, "start": start, "segment_noise": segment_noise, "seed": seed}
    found = [
        _stacked(list(moments(model, puzzles, np.arange(block.start, block.stop), **how)))
        for block in blocks(len(puzzles), batch_size)
    ]
    most = max(columns[0].shape[1] for columns in found)
    padded = [[x[:, np.minimum(np.arange(most), x.shape[1] - 1)] for x in columns] for columns in found]
    spent, wall, tokens, halt, rollout, _ = (np.concatenate(parts) for parts in zip(*padded, strict=True))
    confidence = torch.sigmoid(torch.from_numpy(halt)).numpy()
    return Anytime(spent, wall, tokens, confidence, rollout)


def moments(
    model: Any,
    puzzles: PuzzleSet,
    index: Int[np.ndarray, " B"] | None = None,
    *,
    budget: int | None = None,
    seconds: float | None = None,
    policy: str = "deepen",
    cutoff: int = 16,
    noise: float = 0.3,
    start: str = "perturbed",
    segment_noise: float = 0.0,
    seed: int = 0,
) -> Iterator[Moment]:
    """The same for one batch, moment by moment: whoever has seen enough stops asking.

    Args:
        model, puzzles, budget, seconds, policy, cutoff, noise, start, segment_noise, seed: as for `anytime`.
        index: numbers of the puzzles of the batch in the set; None: all.
    Raises:
        UserError: as `anytime`, before the first moment.
    """
    levers = Levers(noise=noise, start=start, segment_noise=segment_noise, seed=seed)
    check_fits(model, puzzles)
    check_policy(model, budget, seconds, policy, cutoff)
    index = np.arange(len(puzzles)) if index is None else index
    endless = follow_policy(model, puzzles, index, policy, cutoff, levers)
    return _within(endless, int(model.applications_per_segment), budget, seconds)


def follow_policy(
    model: Any, puzzles: PuzzleSet, index: Int[np.ndarray, " B"], policy: str, cutoff: int, levers: Levers
) -> Iterator[Moment]:
    """One batch, for ever: a moment after each segment.

    Args:
        model, puzzles, policy, cutoff: as for `anytime`.
        index: numbers of the puzzles of the batch in the set.
        levers: starts, noise and seed of the orbits.
    """
    began, segments = time.perf_counter(), 0
    tokens = np.zeros((len(index), puzzles.task.seq_len), np.uint8)
    best, rollout = np.full(len(index), -np.inf, np.float32), np.zeros(len(index), np.int64)
    for number in count():
        length = {"deepen": None, "restart": cutoff, "luby": cutoff * luby(number + 1)}[policy]
        for slots in _orbit(model, puzzles, index, number, length, levers):
            segments += 1
            now, halt = slots.tokens.cpu().numpy(), np.nan_to_num(slots.halt.cpu().numpy(), nan=WORST)
            ahead = halt > best
            moment = Moment(
                segments * int(model.applications_per_segment),
                (time.perf_counter() - began) / len(index),
                np.where(ahead[:, None], now, tokens),
                np.where(ahead, halt, best),
                np.where(ahead, number, rollout),
                dtype_name(slots.z),
            )
            yield moment
        tokens, best, rollout = moment.tokens, moment.halt_logit, moment.rollout


def _orbit(
    model: Any,
    puzzles: PuzzleSet,
    index: Int[np.ndarray, " B"],
    number: int,
    length: int | None,
    levers: Levers,
) -> Iterator[Slots]:
    """One orbit of every puzzle of a batch, segment by segment; without a length for ever."""
    jobs = Jobs(index, np.full_like(index, number), np.zeros_like(index), index)
    with torch.no_grad():
        slots = enter(model, puzzles, jobs, np.arange(len(index)), levers, None)
    for _ in repeat(None) if length is None else repeat(None, length):
        with torch.no_grad():
            slots = advance(model, slots, levers)
        yield slots


def _within(
    endless: Iterator[Moment], step: int, budget: int | None, seconds: float | None
) -> Iterator[Moment]:
    """The moments up to the budget; a segment that would exceed it is not run, but the first always is."""
    before, longest = 0.0, 0.0
    for moment in endless:
        yield moment
        longest, before = max(longest, moment.seconds - before), moment.seconds
        if budget is not None and moment.spent + step > budget:
            return
        if seconds is not None and moment.seconds + longest > seconds:
            return


def _stacked(found: list[Moment]) -> list[np.ndarray]:
    """The fields of the moments of a batch as arrays (B, C, ...)."""
    size = len(found[0].tokens)
    rows = (
        [np.broadcast_to(x, (size, *np.shape(x)[1:])) for x in field] for field in zip(*found, strict=True)
    )
    return [np.stack(row, axis=1) for row in rows]


def check_policy(model: Any, budget: int | None, seconds: float | None, policy: str, cutoff: int) -> None:
    """Refuse a budget that cannot be spent.

    Raises:
        UserError: as `anytime`.
    """
    step = int(model.applications_per_segment)
    if (budget is None) == (seconds is None):
        raise UserError(f"budget={budget}, seconds={seconds}: expected one of the two. Give one.")
    if budget is not None and budget < step:
        raise UserError(
            f"budget={budget}: one segment of this model takes {step} block applications. Give that at least."
        )
    if seconds is not None and not 0 < seconds < float("inf"):
        raise UserError(f"seconds={seconds}: expected more than 0.")
    if policy not in POLICIES:
        raise UserError(f"policy={policy}: unknown policy. Choose one of {', '.join(POLICIES)}.")
    if cutoff < 1:
        raise UserError(f"cutoff={cutoff}: expected at least 1 segment.")
