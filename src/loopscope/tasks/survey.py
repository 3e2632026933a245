"""What a puzzle set holds: counts, difficulty, rules kept, repeats and leaks. Nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from loopscope.tasks.arc import Arc
from loopscope.tasks.arc.board import EOS
from loopscope.tasks.base import FAMILY, PuzzleSet
from loopscope.tasks.overlap import overlap, repeats
from loopscope.tasks.storage.folder import check_rules, splits_in
from loopscope.tasks.storage.layout import read_manifest
from loopscope.tasks.storage.read import read_puzzles
from loopscope.tasks.storage.shipped import puzzle_file

HARDNESS = ("rating", "path_length", "givens", "cells")  # the first that is known tells how hard a puzzle is


@dataclass(frozen=True)
class SplitSurvey:
    """One split.

    Attributes:
        sources: the examples as they are, versions left out: the first puzzle of every group.
        groups, puzzles, examples: how many; puzzles count the versions that are made when drawn.
        numbers: facts of the sources that are numbers, by name, (sources,) each.
        broken: rows of `sources` whose label breaks the rules.
        repeated: sources that repeat an earlier one up to symmetry.
    """

    sources: PuzzleSet
    groups: int
    puzzles: int
    examples: int
    numbers: Mapping[str, np.ndarray]
    broken: np.ndarray
    repeated: int

    @property
    def hardness(self) -> str | None:
        """The fact that tells how hard a puzzle is."""
        return next((name for name in HARDNESS if name in self.numbers), None)


@dataclass(frozen=True)
class Survey:
    """A set.

    Attributes:
        name, task: of the set.
        splits: by name; a puzzle file is one split "file".
        leaked: test examples that equal a training example up to symmetry: row of the training sources,
            row of the test sources, (K, 2). None where there are not both.
        bytes: on disk.
        manifest: what the builder wrote; empty for a file or an official folder.
    """

    name: str
    task: str
    splits: Mapping[str, SplitSurvey]
    leaked: np.ndarray | None
    bytes: int
    manifest: Mapping[str, Any]


def survey(path: str | Path, progress: bool = False) -> Survey:
    """Look a puzzle folder or file over.

    Args:
        path: what `read_puzzles` takes.
        progress: show bars while canonical forms are made.
    Raises:
        UserError: it cannot be read.
    """
    folder = Path(path).is_dir()
    sets = {split: read_puzzles(path, split=split) for split in splits_in(path)} if folder else {}
    sets = sets or {"file": read_puzzles(path)}
    splits = {name: _look(puzzles, progress) for name, puzzles in sets.items()}
    leaked = None
    if {"train", "test"} <= set(splits):
        leaked = overlap(splits["train"].sources, splits["test"].sources, progress)
    files = [f for f in Path(path).rglob("*") if f.is_file()] if folder else [puzzle_file(path)]
    return Survey(
        Path(path).name,
        next(iter(sets.values())).task.name,
        splits,
        leaked,
        sum(f.stat().st_size for f in files),
        read_manifest(path) if folder else {},
    )


def _look(puzzles: PuzzleSet, progress: bool) -> SplitSurvey:
    sources, groups = _sources(puzzles), puzzles.groups
    numbers = {k: v for k, v in sources.facts.items() if v.dtype.kind in "iuf" and k != FAMILY}
    if isinstance(puzzles.task, Arc):
        numbers = {"cells": (sources.inputs > EOS).sum(1)}
    return SplitSurvey(
        sources,
        len(puzzles) if groups is None else len(groups),
        len(puzzles) if groups is None else len(groups.ids),
        len(puzzles),
        numbers,
        check_rules(sources),
        len(np.unique(repeats(sources, progress)[:, 1])),
    )


def _sources(puzzles: PuzzleSet) -> PuzzleSet:
    """The examples of the first puzzle of every group."""
    if puzzles.groups is None:
        return puzzles
    g = puzzles.groups
    first, stop = g.first[g.starts[:-1]], g.stop[g.starts[:-1]]
    rows = np.concatenate([np.arange(a, b) for a, b in zip(first, stop, strict=True)])
    return puzzles[rows]


def class_edges(values: np.ndarray, classes: int = 10) -> list[int]:
    """Edges of about `classes` classes of whole numbers; class i holds `edges[i]` to `edges[i + 1] - 1`.

    Classes are equally wide, except where the values are far from evenly spread (most Sudoku ratings are
    small): then 0, 1, 2-3, 4-7 and so on, doubling.
    """
    low, high = int(values.min()), int(values.max())
    if low >= 0 and high > 20 * max(1.0, float(np.median(values))) ** 0.5 * max(1, low):
        edges = [0, *(2**i for i in range(high.bit_length() + 1))]
        return edges[max(i for i, edge in enumerate(edges) if edge <= low) :]
    step = max(1, -(-(high + 1 - low) // classes))
    return list(range(low, high + step + 1, step))


def class_names(edges: list[int]) -> list[str]:
    """Such as 5-9 for each class, 5 where it holds one number."""
    return [str(a) if b == a + 1 else f"{a}-{b - 1}" for a, b in pairwise(edges)]


def counted(values: np.ndarray, edges: list[int]) -> list[int]:
    """How many values lie in each class."""
    inside = np.searchsorted(edges, values, side="right") - 1
    return np.bincount(inside, minlength=len(edges) - 1).tolist()
