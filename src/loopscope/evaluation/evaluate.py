"""Score a model on a puzzle set after one or several numbers of segments, with any levers, and its cost."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from loopscope.evaluation.confidence import selection_value, surest_scores
from loopscope.evaluation.intervals import Estimate, mean_share, wilson
from loopscope.evaluation.levers import Levers
from loopscope.evaluation.metrics import RESAMPLES, Columns, by_difficulty, cells_right, grade, summary
from loopscope.evaluation.solve import models_of, solve
from loopscope.evaluation.stream import Parts, casts_kept, run_chunks
from loopscope.evaluation.subject import (
    batches,
    check_fits,
    check_numbers,
    dtype_name,
    identity,
    segments_wanted,
)
from loopscope.provenance import provenance
from loopscope.tasks.base import PAD, Batch, PuzzleSet, Task

SPENT = ("applications", "flops", "seconds")


@dataclass(frozen=True)
class Cost:
    """What a puzzle cost, the mean over the set and all rollouts together.

    Attributes:
        applications: of a block.
        flops: in the matrix products of these applications; NaN where a model does not tell.
        seconds: wall time, encoding and reading out included.
    """

    applications: float
    flops: float
    seconds: float


@dataclass(frozen=True)
class Evaluation:
    """Scores by number of segments.

    Attributes:
        scores: segments -> score by name; first `exact_accuracy`, `cell_accuracy` and `halt_accuracy`, then
            those of `metrics.summary` and `confidence.surest_scores` (by halt logit); with several rollouts
            also `pass_at_k` (an oracle: any rollout right) and `mean_at_k` (one rollout at random),
            `selection_gap` (share that only the oracle gets) and `selection_auc` (of the halt logit among
            the rollouts of a puzzle).
        bands: segments -> fact that tells difficulty -> band -> exact accuracy.
        applications: segments -> block applications spent per puzzle, all rollouts together.
        facts: what was evaluated: model, data, dtype, n, rollouts and rule; versions and command.
        outcomes: segments -> per-puzzle columns (`metrics.grade`), not part of `to_dict`.
        costs: segments -> what a puzzle cost.
    """

    scores: dict[int, dict[str, Estimate]]
    bands: dict[int, dict[str, dict[str, Estimate]]]
    applications: dict[int, float | int]
    facts: dict[str, Any]
    outcomes: dict[int, Columns] = field(default_factory=dict, repr=False)
    costs: dict[int, Cost] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for json."""
        known = next(iter(self.bands.values()), {})
        bands = {
            f"exact_accuracy_by_{fact}": _plain({t: row[fact] for t, row in self.bands.items()})
            for fact in known
        }
        spent: dict[str, Any] = {"applications_per_puzzle": self.applications}
        if self.costs:
            spent["flops_per_puzzle"] = {t: cost.flops for t, cost in self.costs.items()}
            spent["seconds_per_puzzle"] = {t: cost.seconds for t, cost in self.costs.items()}
        return {**self.facts, "segments": _plain(self.scores), **bands, **spent}


def _plain(table: dict[int, dict[str, Estimate]]) -> dict[int, dict[str, dict[str, float | int]]]:
    return {t: {name: e.to_dict() for name, e in row.items()} for t, row in table.items()}


@torch.no_grad()
def evaluate(
    model: Any,
    puzzles: PuzzleSet,
    *,
    segments: int | Sequence[int] | None = None,
    restarts: int = 1,
    noise: float = 0.3,
    start: str = "perturbed",
    segment_noise: float = 0.0,
    views: int = 1,
    stop: str = "budget",
    select: str = "halt",
    seed: int = 0,
    batch_size: int = 64,
    answers: bool = False,
    progress: bool = False,
    parts: Parts | None = None,
) -> Evaluation:
    """Answer puzzles as `solve` does, and score the answers.

    One plain orbit is run once, for max(segments) segments, and scored along the way, so that what it was
    before and stays afterwards is known, too. With other levers every number of segments is run anew, and
    `halt_accuracy` is that of the chosen rollouts.

    Args:
        model: anything that keeps the `RecursiveSystem` protocol, or a list of such, which vote together.
        puzzles: with labels.
        segments: one or several numbers of segments at which to score; None takes the training budget of
            the (first) model.
        restarts, noise, start, segment_noise, views, stop, select, seed: as for `solve`.
        batch_size: orbits per batch.
        answers: keep the answers, too, as the column `answer` (N, L) of the outcomes.
        progress: show a progress bar with an estimate.
        parts: keeps what is finished on disk, so that an interrupted evaluation can be resumed.
    Raises:
        UserError: no labels, no puzzles, puzzles of another size than the model's, a bad number or name.
    """
    models = models_of(model)
    wanted = segments_wanted(models[0], segments)
    levers = Levers(wanted[-1], restarts, noise, start, segment_noise, views, stop, select, seed)
    check_numbers(batch_size, seed)
    for one in models:
        check_fits(one, puzzles, labels=True)
    plain = levers.is_plain and len(models) == 1
    work = partial(
        _chunk, models, puzzles, wanted=wanted, levers=levers, batch_size=batch_size, answers=answers
    )
    asked = {"segments": wanted, **levers.to_dict(), "batch_size": batch_size, "answers": answers}
    computed = [str(getattr(one, "dtype", "")) for one in models]
    manifest = {"models": [identity(one) for one in models], "dtypes": computed}
    manifest |= {"data": puzzles.content_hash, **asked}
    with casts_kept(models):
        flat = run_chunks(len(puzzles), batch_size, work, manifest, parts, progress)
    return assembled(models[0], puzzles, flat, wanted, {} if plain else levers.to_dict() | _ensemble(models))


def assembled(
    model: Any, puzzles: PuzzleSet, flat: Columns, wanted: Sequence[int], how: dict[str, Any]
) -> Evaluation:
    """The scores of all columns of a set.

    Args:
        model: the first one, for its name.
        puzzles: the whole set.
        flat: columns `segments/name` along puzzles, those of `spent_columns`, too, and `dtype` of each chunk.
        wanted: numbers of segments.
        how: more facts, on how the answers were made.
    """
    facts = record(model, puzzles, "+".join(dict.fromkeys(flat["dtype"].tolist()))) | how
    outcomes = {
        t: {name.split("/")[1]: column for name, column in flat.items() if name.startswith(f"{t}/")}
        for t in wanted
    }
    costs = {t: _cost(columns) for t, columns in outcomes.items()}
    table = {t: _scores_of(columns) for t, columns in outcomes.items()}
    bands = {t: _bands(columns, puzzles) for t, columns in outcomes.items()}
    applications = {t: cost.applications for t, cost in costs.items()}
    return Evaluation(table, bands, applications, facts, outcomes, costs)


def _bands(columns: Columns, puzzles: PuzzleSet) -> dict[str, dict[str, Estimate]]:
    """Accuracy by difficulty, of the rows that count."""
    counted = ~np.isnan(columns["cell_accuracy"])
    return by_difficulty(
        columns["exact"][counted], {name: fact[counted] for name, fact in puzzles.facts.items()}
    )


def _ensemble(models: Sequence[Any]) -> dict[str, Any]:
    """Which models vote, where there are several."""
    return {"models": [identity(one) for one in models]} if len(models) > 1 else {}


# -- a chunk


def _chunk(
    models: Sequence[Any],
    puzzles: PuzzleSet,
    chunk: slice,
    *,
    wanted: Sequence[int],
    levers: Levers,
    batch_size: int,
    answers: bool,
) -> Columns:
    """The columns `segments/name` of some puzzles; `seconds` has one entry for all of them."""
    of = puzzles[chunk]
    if levers.is_plain and len(models) == 1:
        dtype, found = _along_the_orbit(models[0], of, wanted, batch_size)
    else:
        dtype, found = _by_levers(models, of, wanted, levers, batch_size, chunk.start)
    kept = {
        f"{t}/{name}": column
        for t, columns in found.items()
        for name, column in columns.items()
        if answers or name != "answer"
    }
    return {**kept, "dtype": np.array([dtype])}


def _cost(columns: Columns) -> Cost:
    """Take the columns of cost out, and give their means."""
    applications, flops, seconds = (columns.pop(name) for name in SPENT)
    return Cost(float(applications.mean()), float(flops.mean()), float(seconds.sum()) / len(applications))


def spent_columns(applications: Any, flops: Any, seconds: float, n: int) -> Columns:
    """Columns of cost of n puzzles: each one's, but the seconds of all together."""
    return {
        "applications": np.broadcast_to(np.asarray(applications, np.float64), n).copy(),
        "flops": np.broadcast_to(np.asarray(flops, np.float64), n).copy(),
        "seconds": np.array([seconds]),
    }


# -- one plain orbit


def _along_the_orbit(
    model: Any, puzzles: PuzzleSet, wanted: Sequence[int], batch_size: int
) -> tuple[str, dict[int, Columns]]:
    """The dtype, and what is known of every puzzle at every number of segments."""
    parts: dict[int, list[Columns]] = {t: [] for t in wanted}
    seconds, dtype = dict.fromkeys(wanted, 0.0), ""
    for _, batch in batches(model, puzzles, batch_size):
        dtype, graded, spent = _follow(model, puzzles.task, batch, wanted)
        for t in wanted:
            parts[t].append(graded[t])
            seconds[t] += spent[t]
    flops = float(getattr(model, "application_flops", np.nan))
    return dtype, {
        t: joined(columns)
        | spent_columns(n := t * int(model.applications_per_segment), n * flops, seconds[t], len(puzzles))
        for t, columns in parts.items()
    }


def joined(parts: Sequence[Columns]) -> Columns:
    """The columns of several batches, one after the other."""
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _follow(
    model: Any, task: Task, batch: Batch, wanted: Sequence[int]
) -> tuple[str, dict[int, Columns], dict[int, float]]:
    """One batch to the last segment wanted, read out at every one: dtype of its latent, grades, seconds."""
    assert batch.labels is not None
    began, seconds = time.perf_counter(), {}
    ctx = model.encode(batch)
    z = model.initial_state(ctx)
    right, ends = [], {}
    for t in range(1, wanted[-1] + 1):
        z = model.segment(z, ctx)
        out = model.readout(z, ctx)
        tokens = out.logits.argmax(-1)
        right.append(cells_right(tokens, batch.labels)[1])
        if t in wanted:
            ends[t] = (tokens.to(torch.uint8).cpu().numpy(), out.halt_logit.double().cpu().numpy())
            seconds[t] = time.perf_counter() - began
    exact, inputs, labels = (x.cpu().numpy() for x in (torch.stack(right, 1), batch.inputs, batch.labels))
    graded = {
        t: _at(t, exact, grade(task, inputs, tokens, labels, halt)) | {"answer": tokens}
        for t, (tokens, halt) in ends.items()
    }
    return dtype_name(z), graded, seconds


def _at(t: int, exact: Bool[np.ndarray, "B T"], columns: Columns) -> Columns:
    """The columns at segment t (1-based) with what the whole orbit says."""
    ever, onward = (np.asarray(x) for x in (exact[:, :t].any(1), exact[:, t - 1 :].all(1)))
    return {**columns, "cumulative_accuracy": ever, "absorbed_accuracy": onward}


# -- any levers


def _by_levers(
    models: Sequence[Any],
    puzzles: PuzzleSet,
    wanted: Sequence[int],
    levers: Levers,
    batch_size: int,
    first: int,
) -> tuple[str, dict[int, Columns]]:
    """The dtype, and what is known of every puzzle, for each number of segments anew."""
    assert puzzles.labels is not None
    outcomes, dtype = {}, ""
    for t in wanted:
        given = asdict(levers) | {"segments": t}
        found = solve(models, puzzles, batch_size=batch_size, first=first, **given)
        graded = grade(puzzles.task, puzzles.inputs, found.tokens, puzzles.labels, found.halt_logit)
        spent = spent_columns(found.applications, found.flops, found.seconds * len(puzzles), len(puzzles))
        outcomes[t] = graded | spent | {"answer": found.tokens}
        if found.rollouts.shape[1] > 1:
            right = _exact(found.rollouts, puzzles.labels)
            outcomes[t] |= {"rollouts_right": right, "rollouts_halt": found.rollout_halt}
        dtype = found.dtype
    return dtype, outcomes


def _scores_of(columns: Columns) -> dict[str, Estimate]:
    """Scores of the answers and of the rollouts they were chosen from, whose columns are taken out."""
    right, halt = columns.pop("rollouts_right", None), columns.pop("rollouts_halt", None)
    counted = ~np.isnan(columns["cell_accuracy"])
    rows = summary(columns) | surest_scores(columns["halt_logit"][counted], columns["exact"][counted])
    if right is not None and halt is not None:
        right, exact = right[counted], columns["exact"][counted]
        rows["pass_at_k"] = wilson(int(right.any(1).sum()), len(right))
        rows["mean_at_k"] = mean_share(right.mean(1), resamples=RESAMPLES)
        rows["selection_gap"] = mean_share((right.any(1) & ~exact).astype(float), resamples=RESAMPLES)
        rows["selection_auc"] = selection_value(halt[counted], right).auc
    return rows


def _exact(rollouts: UInt8[np.ndarray, "N K L"], labels: UInt8[np.ndarray, "N L"]) -> Bool[np.ndarray, "N K"]:
    """Which rollouts are right in every supervised cell, one rollout of all puzzles at a time."""
    return np.stack([((a == labels) | (labels == PAD)).all(1) for a in rollouts.swapaxes(0, 1)], axis=1)


def record(model: Any, puzzles: PuzzleSet, dtype: str) -> dict[str, Any]:
    """What every evaluation says of itself: model, data, dtype, bootstrap, versions, command."""
    data = {"data": puzzles.name, "data_hash": puzzles.content_hash, "n": len(puzzles), "dtype": dtype}
    bootstrap = {"resamples": RESAMPLES, "seed": 0}
    return {**identity(model), **data, "bootstrap": bootstrap, **provenance()}
