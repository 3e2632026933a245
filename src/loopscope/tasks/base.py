"""What every puzzle task shares: a set of puzzles, a batch of them, and the task protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from loopscope.errors import UserError
from loopscope.files import sha256
from loopscope.latent import tree_map
from loopscope.registry import Registry

PAD, BLANK = 0, 1  # token 0 is never a cell's content; token 1 is a blank cell
IGNORE = -100  # label of a cell that counts neither in loss nor in accuracy


class Batch(NamedTuple):
    """Puzzles as a model sees them.

    Attributes:
        inputs: tokens, (B, L) int.
        puzzle_ids: row of the puzzle embedding table, (B,) int; zeros where unused.
        labels: expected tokens, (B, L) int, -100 where a cell is not supervised; None at inference.
    """

    inputs: Tensor
    puzzle_ids: Tensor | None = None
    labels: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        return tree_map(lambda t: t.to(device, non_blocking=True), self)


@dataclass(frozen=True, eq=False)
class Groups:
    """Which examples make a puzzle, and which puzzles a group: one source task with all its versions.

    A puzzle of Sudoku or Maze is one example; one of ARC has an example for every pair. Versions that
    are only made when drawn share the examples of their source, so the ranges of puzzles may coincide.

    Attributes:
        first, stop: puzzle p owns the examples `first[p]` to `stop[p] - 1`, (P,) int32 each.
        ids: identifier of every puzzle, its row of the embedding table, (P,) int32.
        starts: group g owns the puzzles `starts[g]` to `starts[g + 1] - 1`, (G + 1,) int32.
    """

    first: np.ndarray
    stop: np.ndarray
    ids: np.ndarray
    starts: np.ndarray

    def __len__(self) -> int:
        return len(self.starts) - 1


@dataclass(frozen=True)
class PuzzleSet:
    """Puzzles of one task, encoded.

    Attributes:
        task: the task they belong to.
        inputs: tokens, (N, L) uint8.
        labels: solution tokens, (N, L) uint8; 0 (PAD) means *not supervised*. None when unknown.
        puzzle_ids: (N,) int32.
        facts: per-puzzle facts by name (`rating`, `givens`, `source`, ...), each (N,).
        name: where they came from, for messages and provenance.
        groups: how the rows form puzzles and groups; None when every row is a group of its own.
    """

    task: Task
    inputs: np.ndarray
    labels: np.ndarray | None
    puzzle_ids: np.ndarray
    facts: Mapping[str, np.ndarray] = field(default_factory=dict)
    name: str = ""
    groups: Groups | None = None

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: slice | np.ndarray | Sequence[int]) -> PuzzleSet:
        """The chosen rows, as a set of their own in which every row is a group."""
        index = index if isinstance(index, slice) else np.asarray(index)
        labels = None if self.labels is None else self.labels[index]
        facts = {k: v[index] for k, v in self.facts.items()}
        return PuzzleSet(self.task, self.inputs[index], labels, self.puzzle_ids[index], facts, self.name)

    def only_groups(self, chosen: np.ndarray) -> PuzzleSet:
        """The chosen groups. Rows of a set with groups stay where they are: only the groups are fewer."""
        if self.groups is None:
            return self[chosen]
        g = self.groups
        puzzles = np.concatenate([np.arange(*g.starts[[c, c + 1]]) for c in chosen] or [chosen])
        starts = np.concatenate([[0], np.cumsum(np.diff(g.starts)[chosen])]).astype(np.int32)
        fewer = Groups(g.first[puzzles], g.stop[puzzles], g.ids[puzzles], starts)
        return replace(self, groups=fewer)

    @property
    def examples_per_pass(self) -> float:
        """Examples of a pass, one puzzle of every group, as the official code counts them: by the mean."""
        if self.groups is None:
            return float(len(self))
        return len(self.groups) * float((self.groups.stop - self.groups.first).mean())

    def batch(self, device: torch.device | str = "cpu") -> Batch:
        """All puzzles of the set as one batch of tensors."""
        return make_batch(self.inputs, self.labels, self.puzzle_ids, device)

    @cached_property
    def content_hash(self) -> str:
        """sha256 over task name, inputs, labels, identifiers, the versions they name (ARC) and groups.

        Sets with equal hashes hold equal puzzles.
        """
        versions = getattr(self.task, "versions", None) or ()
        g = self.groups
        grouped = () if g is None else (g.first, g.stop, g.ids, g.starts)
        ids = (self.puzzle_ids,) if self.puzzle_ids.any() else ()  # only ARC has any
        arrays = (self.inputs, self.labels, *grouped, *ids, *versions)
        kept = (np.ascontiguousarray(a).tobytes() for a in arrays if a is not None)
        return sha256(self.task.name.encode(), *kept)


def make_batch(
    inputs: np.ndarray, labels: np.ndarray | None, puzzle_ids: np.ndarray, device: torch.device | str = "cpu"
) -> Batch:
    """Arrays to a `Batch`: int64 tokens, label 0 turned into -100."""
    as_tensor = lambda a: torch.from_numpy(np.ascontiguousarray(a, dtype=np.int64)).to(device)  # noqa: E731
    tokens = None if labels is None else as_tensor(labels)
    if tokens is not None:
        tokens = tokens.masked_fill(tokens == PAD, IGNORE)
    return Batch(as_tensor(inputs), as_tensor(puzzle_ids), tokens)


@runtime_checkable
class Task(Protocol):
    """A kind of puzzle: its tokens, its rules, its symmetries, its pictures."""

    @property
    def name(self) -> str:
        """The full name, with its size: "sudoku-3x3"."""
        ...

    @property
    def seq_len(self) -> int:
        """Number of cells, L."""
        ...

    @property
    def vocab_size(self) -> int:
        """Number of tokens, V."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the board."""
        ...

    def augment(
        self,
        inputs: np.ndarray,
        labels: np.ndarray,
        rng: np.random.Generator,
        puzzle_ids: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """A random symmetry for every row: (B, L) arrays to (B, L) arrays, solutions staying solutions.

        Where an identifier names a version of a puzzle (ARC), `puzzle_ids` (B,) fix that part of it;
        other tasks do not look at them.
        """
        ...

    def canonical(self, inputs: np.ndarray, labels: np.ndarray) -> list[bytes]:
        """A key for every row, equal for two rows if and only if a symmetry maps one to the other."""
        ...

    def verify(self, inputs: np.ndarray, answers: np.ndarray) -> np.ndarray:
        """Whether each answer obeys the rules and keeps the givens, (B,) bool; needs no labels."""
        ...

    def render(self, tokens: np.ndarray) -> str:
        """One puzzle (L,) as text for a terminal."""
        ...


# A task is made from its number of cells: TASKS["sudoku"](81) is the 9x9 board.
TASKS: Registry[Callable[[int], Task]] = Registry("task")


FAMILY = "family"  # the fact that tells which puzzles are neighbours of the same one, as `families` names it


def families(inputs: np.ndarray) -> np.ndarray:
    """A number for each puzzle as the founder of a family, of the sha256 of its tokens, (N,) int64."""
    return np.array([int(sha256(row.tobytes())[:15], 16) for row in inputs], np.int64)


def join(sets: Sequence[PuzzleSet]) -> PuzzleSet:
    """Several sets of one task as one, group after group; facts that only some of them have are left out.

    The fact `family` is kept: puzzles of a set without it found their own.
    One set alone is handed back as it is, memory-mapped.

    Raises:
        UserError: they are of different tasks, or their identifiers name different puzzles (ARC).
    """
    if len(sets) == 1:
        return sets[0]
    tasks = {s.task.name for s in sets}
    if len(tasks) > 1:
        names = ", ".join(s.name for s in sets)
        raise UserError(f"{names}: different tasks ({', '.join(sorted(tasks))}). Join sets of one task.")
    if any(s.puzzle_ids.any() or (s.groups is not None and s.groups.ids.any()) for s in sets):
        names = ", ".join(s.name for s in sets)
        raise UserError(
            f"{names}: each numbers its puzzles from 1, so identifiers clash. Build one folder of all."
        )
    if any(FAMILY in s.facts for s in sets):
        sets = [s if FAMILY in s.facts else _founders(s) for s in sets]
    shared = set.intersection(*(set(s.facts) for s in sets))
    labelled = all(s.labels is not None for s in sets)
    return PuzzleSet(
        sets[0].task,
        np.concatenate([s.inputs for s in sets]),
        np.concatenate([s.labels for s in sets]) if labelled else None,
        np.concatenate([s.puzzle_ids for s in sets]),
        {k: np.concatenate([s.facts[k] for s in sets]) for k in sorted(shared)},
        " + ".join(s.name for s in sets),
        _joined_groups(sets),
    )


def _founders(puzzles: PuzzleSet) -> PuzzleSet:
    return replace(puzzles, facts={**puzzles.facts, FAMILY: families(puzzles.inputs)})


def _joined_groups(sets: Sequence[PuzzleSet]) -> Groups | None:
    """The groups of all sets in a row; None where every row of every set is a group."""
    if all(s.groups is None for s in sets):
        return None
    parts, rows, puzzles = [], 0, 0
    for s in sets:
        single = np.arange(len(s) + 1, dtype=np.int32)
        g = s.groups or Groups(single[:-1], single[1:], s.puzzle_ids, single)
        parts.append((g.first + rows, g.stop + rows, g.ids, g.starts[1:] + puzzles))
        rows, puzzles = rows + len(s), puzzles + len(g.ids)
    first, stop, ids, ends = (np.concatenate(column).astype(np.int32) for column in zip(*parts, strict=True))
    return Groups(first, stop, ids, np.concatenate([np.zeros(1, np.int32), ends]))
