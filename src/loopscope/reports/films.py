"""Film strips for a report: the boards of three puzzles of a measurement, segment by segment.

A measurement keeps one board per puzzle, so the three orbits are run again with the model that was measured;
another model is refused.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from loopscope.errors import UserError
from loopscope.evaluation.subject import identity
from loopscope.reports.animation import Film, film_strip, record
from loopscope.reports.drawing import Plot
from loopscope.reports.measurement import Measurement
from loopscope.reports.orbit_figures import chosen_orbits
from loopscope.tasks import PuzzleSet
from loopscope.tasks.storage.folder import task_named


def films(m: Measurement, model: Any) -> dict[str, Film]:
    """A quick success, a late success and a failure of a measurement, as far as there are any.

    Args:
        m: with its boards recorded.
        model: the one that was measured.
    Raises:
        UserError: another model, or no boards.
    """
    told, here = m.attrs.get("model_hash", ""), identity(model).get("model_hash", "")
    if told != here:
        given, measured = (
            f"{name} ({hash_[:12] or 'no hash'})"
            for name, hash_ in ((identity(model)["model"], here), (m.attrs.get("model", "another"), told))
        )
        raise UserError(
            f"{m.name}: measured on {measured}, not on {given}. Give the model that was measured."
        )
    if "inputs" not in m or "labels" not in m or "task" not in m.attrs:
        raise UserError(f"{m.name}: no boards recorded, so there is no film. Measure again.")
    if "puzzle_id" not in m and getattr(getattr(model, "settings", None), "puzzle_emb_ndim", False):
        raise UserError(
            f"{m.name}: holds no puzzle identifiers, which this model reads, so its orbits cannot be run "
            "again. Measure again."
        )
    chosen = chosen_orbits(m)
    rows = np.array(list(chosen.values()), dtype=int)
    inputs, labels = m.array("inputs")[rows], m.array("labels")[rows]
    task = task_named(str(m.attrs["task"]), inputs.shape[1])
    ids = m.array("puzzle_id")[rows] if "puzzle_id" in m else np.zeros(len(rows))
    puzzles = PuzzleSet(task, inputs, labels, ids.astype(np.int32), name=m.name)
    numbers = [int(m.data["puzzle"][row]) for row in rows]
    return {
        f"{name}, puzzle {number}": record(model, puzzles, i, m.stop)
        for i, (name, number) in enumerate(zip(chosen, numbers, strict=True))
    }


def film_plot(found: dict[str, Film]) -> Plot:
    """The films as one figure of a report, with their curves as data."""
    tables = [_series(name, film) for name, film in found.items()]
    caption = (
        "The puzzles of the single orbits. Bold: given. Yellow: changed in this segment. Vermilion frame: "
        "breaks a rule. Below: change of the state and growth of a small difference per segment."
    )
    return Plot(
        "films",
        "Three puzzles, board by board",
        film_strip(found),
        pd.concat(tables, ignore_index=True),
        caption,
    )


def _series(name: str, film: Film) -> pd.DataFrame:
    segment = np.arange(1, len(film) + 1)
    growth = np.full(len(film), np.nan) if film.growth is None else film.growth
    return pd.DataFrame(
        {
            "orbit": name,
            "segment": segment,
            "drift": film.drift,
            "growth": growth,
            "halt_logit": film.halt_logit,
            "changed_cells": [int(film.changed(int(t)).sum()) for t in segment],
            "cells_breaking_a_rule": [int(film.broken(int(t)).sum()) for t in segment],
            "right": film.right,
        }
    )
