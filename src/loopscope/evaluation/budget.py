"""Score a model that spends a budget on every puzzle, at the end of it and along the way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from loopscope.evaluation.anytime import Moment, check_policy, moments
from loopscope.evaluation.evaluate import Evaluation, assembled, joined, spent_columns
from loopscope.evaluation.levers import Levers
from loopscope.evaluation.metrics import Columns, grade
from loopscope.evaluation.stream import Parts, casts_kept, run_chunks
from loopscope.evaluation.subject import blocks, check_fits, check_numbers, identity
from loopscope.tasks.base import PuzzleSet

END = 0  # stands for the last segment that fitted, until it is known which that was


def evaluate_budget(
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
    answers: bool = False,
    progress: bool = False,
    parts: Parts | None = None,
) -> Evaluation:
    """Spend a budget on every puzzle as `anytime` does, and score what the answer would be.

    Args:
        model: anything that keeps the `RecursiveSystem` protocol.
        puzzles: with labels.
        budget: block applications per puzzle: scored after 1, 2, 4, ... segments and at the end; or
        seconds: wall time per puzzle, its share of the time of its batch: scored at the end only, as batches
            fit different numbers of segments into it. The scores then depend on the machine.
        policy, cutoff, noise, start, segment_noise, seed: as for `anytime`.
        batch_size, answers, progress, parts: as for `evaluate`.
    Returns:
        Scores by number of segments of all orbits together; for `seconds` by the most that a batch ran.
    Raises:
        UserError: as `evaluate` and `anytime`.
    """
    Levers(noise=noise, start=start, segment_noise=segment_noise, seed=seed)
    check_numbers(batch_size, seed)
    check_fits(model, puzzles, labels=True)
    check_policy(model, budget, seconds, policy, cutoff)
    how: dict[str, Any] = {"budget": budget, "seconds": seconds, "policy": policy, "cutoff": cutoff}
    how |= {"noise": noise, "start": start, "segment_noise": segment_noise, "seed": seed}
    step = int(model.applications_per_segment)
    wanted = [END] if budget is None else doublings(budget // step)
    work = partial(_chunk, model, puzzles, wanted=wanted, how=how, batch_size=batch_size, answers=answers)
    manifest = {"models": [identity(model)], "dtypes": [str(getattr(model, "dtype", ""))]}
    manifest |= {"data": puzzles.content_hash, **how, "batch_size": batch_size, "answers": answers}
    with casts_kept([model]):
        flat = run_chunks(len(puzzles), batch_size, work, manifest, parts, progress)
    if budget is None:
        wanted = [int(flat[f"{END}/applications"].max()) // step]
        flat = {name.replace(f"{END}/", f"{wanted[0]}/", 1): column for name, column in flat.items()}
    return assembled(model, puzzles, flat, wanted, how)


def doublings(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    return sorted({2**i for i in range(most.bit_length())} | {most})


def in_words(facts: dict[str, Any]) -> str:
    """The budget of an evaluation and how it was spent, for a person."""
    given = (
        f"{facts['seconds']:g} s" if facts["budget"] is None else f"{facts['budget']:,} block applications"
    )
    orbits = {"deepen": "one orbit", "restart": f"a new orbit every {facts['cutoff']} segments"}
    orbits["luby"] = f"new orbits of {facts['cutoff']} segments times 1 1 2 1 1 2 4 ..."
    kick = f"noise {facts['noise']:g}" if facts["start"] == "perturbed" else "random starts"
    return f"budget {given} per puzzle, policy {facts['policy']}: {orbits[facts['policy']]}" + (
        "" if facts["policy"] == "deepen" else f", {kick}"
    )


def _chunk(
    model: Any,
    puzzles: PuzzleSet,
    chunk: slice,
    *,
    wanted: Sequence[int],
    how: dict[str, Any],
    batch_size: int,
    answers: bool,
) -> Columns:
    """The columns `segments/name` of some puzzles."""
    found: dict[int, list[Columns]] = {t: [] for t in wanted}
    dtype = ""
    for block in blocks(chunk.stop - chunk.start, batch_size):
        index = np.arange(chunk.start + block.start, chunk.start + block.stop)
        for t, moment in _at(moments(model, puzzles, index, **how), wanted):
            found[t].append(_graded(model, puzzles[index], moment, answers))
            dtype = moment.dtype
    kept = {f"{t}/{name}": column for t, parts in found.items() for name, column in joined(parts).items()}
    return {**kept, "dtype": np.array([dtype])}


def _at(every: Iterator[Moment], wanted: Sequence[int]) -> Iterator[tuple[int, Moment]]:
    """The moments after the segments wanted, counted from 1; `END` is the last one."""
    moment = None
    for t, moment in enumerate(every, start=1):
        if t in wanted:
            yield t, moment
    if END in wanted and moment is not None:
        yield END, moment


def _graded(model: Any, puzzles: PuzzleSet, moment: Moment, answers: bool) -> Columns:
    """What is known of every puzzle of a batch at a moment."""
    assert puzzles.labels is not None
    n, flops = len(puzzles), float(getattr(model, "application_flops", np.nan))
    columns = grade(puzzles.task, puzzles.inputs, moment.tokens, puzzles.labels, moment.halt_logit)
    columns |= spent_columns(moment.spent, moment.spent * flops, moment.seconds * n, n)
    return columns | ({"answer": moment.tokens} if answers else {})
