"""A grid of levers, each point scored and its cost told, and which points are worth their cost."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float
from tqdm.auto import tqdm

from loopscope.errors import UserError
from loopscope.evaluation.evaluate import Cost, evaluate
from loopscope.evaluation.intervals import Estimate
from loopscope.evaluation.levers import Levers
from loopscope.evaluation.solve import models_of
from loopscope.registry import did_you_mean
from loopscope.tasks.base import PuzzleSet
from loopscope.training.distributed import rank

EXAMPLE = '"segments=16,64 restarts=1,8 stop=budget,halt+unchanged"'


@dataclass(frozen=True)
class Point:
    """One setting of a sweep.

    Attributes:
        levers: the setting.
        label: the levers in which the settings of the sweep differ, in words.
        exact: exact accuracy.
        cost: of a puzzle.
        on_front: no other setting is at least as accurate for at most the cost.
    """

    levers: Levers
    label: str
    exact: Estimate
    cost: Cost
    on_front: bool

    def to_dict(self) -> dict[str, Any]:
        """One row of a table."""
        row = asdict(self.levers) | {"label": self.label}
        row |= {f"exact_{key}": value for key, value in self.exact.to_dict().items()}
        return row | asdict(self.cost) | {"on_front": self.on_front}


def parse_grid(text: str, given: Mapping[str, Any], segments: Sequence[int] = (16,)) -> list[Levers]:
    """All combinations of the values in a text such as `EXAMPLE`, those that do the same thing once.

    Args:
        text: `lever=value,value`, separated by spaces.
        given: values of the levers that the text does not name; and
        segments: the same of the numbers of segments.
    Raises:
        UserError: an unknown lever, or a value that cannot be.
    """
    kinds: dict[str, Any] = {key: type(value) for key, value in asdict(Levers()).items()}
    grid: dict[str, list[Any]] = {key: [value] for key, value in given.items()}
    grid["segments"] = list(segments)
    if not text.split():
        raise UserError(f"--sweep: is empty, expected levers and values as in {EXAMPLE}.")
    for item in text.split():
        key, equals, values = item.partition("=")
        if not (equals and values):
            raise UserError(f"--sweep {item}: expected lever=value,value, as in {EXAMPLE}.")
        if key not in kinds:
            raise UserError(f"--sweep {item}: unknown lever. {did_you_mean(key, kinds)}")
        try:
            grid[key] = [kinds[key](value) for value in values.split(",")]
        except ValueError:
            raise UserError(
                f"--sweep {item}: expected numbers with commas between, as in {EXAMPLE}."
            ) from None
    points = (Levers(**dict(zip(grid, values, strict=True))) for values in itertools.product(*grid.values()))
    return list(dict.fromkeys(points))


def run_sweep(
    model: Any,
    puzzles: PuzzleSet,
    settings: Sequence[Levers],
    *,
    batch_size: int = 64,
    progress: bool = False,
) -> tuple[list[Point], dict[str, Any]]:
    """Score every setting.

    Args:
        model: one, or a list of models that vote together.
        puzzles: with labels.
        settings: see `parse_grid`; those that differ only in what has no effect are run once.
        batch_size, progress: as for `evaluate`.
    Returns:
        The points, the cheapest first, and what was evaluated: model, data, dtype, versions and command.
    Raises:
        UserError: as `evaluate`, or no setting.
    """
    is_ensemble = len(models_of(model)) > 1
    settings = list(dict.fromkeys(effective(levers, is_ensemble) for levers in settings))
    if not settings:
        raise UserError(f"settings=[]: expected at least one, for example parse_grid({EXAMPLE}, {{}}).")
    exact, costs, facts, names = [], [], {}, labels(settings)
    most = [levers.segments * levers.restarts * levers.views for levers in settings]
    hidden = not progress or rank() > 0
    with tqdm(
        total=sum(most), disable=hidden, bar_format="sweep {percentage:.0f} %|{bar}| {remaining} left, {desc}"
    ) as bar:
        for i, levers in enumerate(settings):
            bar.set_description_str(f"{i + 1} of {len(settings)}: {names[i]}")
            found = evaluate(model, puzzles, batch_size=batch_size, progress=progress, **asdict(levers))
            exact.append(found.scores[levers.segments]["exact_accuracy"])
            costs.append(found.costs[levers.segments])
            facts = {key: value for key, value in found.facts.items() if key not in asdict(levers)}
            bar.update(most[i])
    front = pareto_front(np.array([c.applications for c in costs]), np.array([e.value for e in exact]))
    points = [Point(*row) for row in zip(settings, names, exact, costs, front.tolist(), strict=True)]
    return sorted(points, key=lambda p: (p.cost.applications, -p.exact.value)), facts


def effective(levers: Levers, is_ensemble: bool) -> Levers:
    """The setting with what does nothing in it set back, so that equal runs are equal settings."""
    changed = asdict(levers)
    if levers.restarts == 1 or levers.start == "random":
        changed["noise"] = Levers.noise
    if levers.restarts == 1:
        changed["start"] = Levers.start
    if levers.restarts == levers.views == 1 and not is_ensemble:
        changed["select"] = Levers.select
    return Levers(**changed)


def labels(settings: Sequence[Levers]) -> list[str]:
    """What tells each setting from the others, in words."""
    rows = [asdict(levers) for levers in settings]
    varied = [key for key in rows[0] if len({row[key] for row in rows}) > 1]
    names = [", ".join(_words(key, row[key]) for key in varied if _shown(key, row)) for row in rows]
    for i, row in enumerate(rows):  # all that differs is off: then say so
        names[i] = names[i] or ", ".join(_words(key, row[key]) for key in varied) or "one setting"
    return names


def _shown(key: str, row: Mapping[str, Any]) -> bool:
    """Whether a lever is worth a word: not where it is off."""
    if key in ("noise", "start"):
        return bool(row["restarts"] > 1)
    return key == "segments" or row[key] != getattr(Levers(), key)


def _words(key: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    number = f"{value:g}"
    if key in ("segments", "restarts", "views"):
        return f"{number} {key.removesuffix('s') if value == 1 else key}"
    return f"{key.replace('_', ' ')} {number}"


def pareto_front(cost: Float[np.ndarray, " n"], accuracy: Float[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Which points no other point beats: none is as cheap and as accurate, and better in one of the two."""
    cheap, good = cost[None] <= cost[:, None], accuracy[None] >= accuracy[:, None]
    better = (cost[None] < cost[:, None]) | (accuracy[None] > accuracy[:, None])
    return np.asarray(~(cheap & good & better).any(1))
