"""In which order a run sees its examples: endless passes over the groups, one puzzle of a group per pass.

Unusual: the order is a function of (seed, position), so a run resumes from its step number alone, and
no example is lost where a batch ends. `OfficialOrder` replays the official loader instead, losses
included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from loopscope.errors import UserError
from loopscope.tasks.base import Groups, PuzzleSet

# What a random stream is for: the second word of its seed, after the seed of the run.
ORDER, AUGMENT, SPLIT, SLOTS = range(4)


class Draw(NamedTuple):
    """Examples to train on: row numbers (B,) and the identifiers they are trained under (B,)."""

    rows: np.ndarray
    ids: np.ndarray


def groups_of(puzzles: PuzzleSet) -> Groups:
    """The groups of a set; a set without is one in which every row is a puzzle and a group."""
    if puzzles.groups is not None:
        return puzzles.groups
    rows = np.arange(len(puzzles) + 1, dtype=np.int32)
    return Groups(rows[:-1], rows[1:], puzzles.puzzle_ids, rows)


class PassOrder:
    """Seeded passes: permuted groups, a random puzzle of each, its examples in random order.

    Pass p is drawn from (seed, p). Batch t takes the next `batch_size` examples of all passes in a row.

    Args:
        groups: what there is to draw from.
        batch_size: examples of a batch, over all processes.
        seed: same seed, same order.
    """

    def __init__(self, groups: Groups, batch_size: int, seed: int) -> None:
        self.groups, self.batch_size, self.seed = groups, batch_size, seed
        sizes = groups.stop - groups.first
        least = np.minimum.reduceat(sizes, groups.starts[:-1])
        most = np.maximum.reduceat(sizes, groups.starts[:-1])
        # All versions of a puzzle usually have equally many examples: then all passes are equally long.
        self._length = int(most.sum()) if (least == most).all() else None
        self._ends: list[int] = []
        self._passes: dict[int, Draw] = {}

    def batch(self, step: int) -> Draw:
        """Examples `step * batch_size` to `(step + 1) * batch_size - 1` of all passes in a row."""
        number, offset = self._locate(step * self.batch_size)
        parts, missing = [], self.batch_size
        while missing:
            drawn = self._pass(number)
            parts.append(Draw(*(a[offset : offset + missing] for a in drawn)))
            missing -= len(parts[-1].rows)
            number, offset = number + 1, 0
        return Draw(*(np.concatenate(column) for column in zip(*parts, strict=True)))

    def _locate(self, position: int) -> tuple[int, int]:
        """The pass that holds a position, and where in it."""
        if self._length is not None:
            return divmod(position, self._length)
        while not self._ends or self._ends[-1] <= position:
            self._ends.append((self._ends or [0])[-1] + len(self._draw(len(self._ends)).rows))
        number = int(np.searchsorted(self._ends, position, side="right"))
        return number, position - (self._ends[number - 1] if number else 0)

    def _pass(self, number: int) -> Draw:
        if number not in self._passes:
            self._passes = {k: v for k, v in self._passes.items() if k == number - 1}
            self._passes[number] = self._draw(number)
        return self._passes[number]

    def _draw(self, number: int) -> Draw:
        g, rng = self.groups, np.random.default_rng([self.seed, ORDER, number])
        order = rng.permutation(len(g))
        low, high = g.starts[order], g.starts[order + 1]
        chosen = low if (high - low == 1).all() else rng.integers(low, high)
        first, sizes = g.first[chosen], g.stop[chosen] - g.first[chosen]
        if (sizes == 1).all():
            return Draw(first, g.ids[chosen])
        place = np.repeat(np.arange(len(g)), sizes)
        within = np.arange(len(place)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        rows = (first[place] + within)[np.lexsort((rng.random(len(place)), place))]
        return Draw(rows, g.ids[chosen][place])


class OfficialOrder:
    """The order of the official loader, example for example.

    Iteration n (from 1) draws `epochs_per_iter` permutations of the groups from Philox(seed + n), then
    fills batches with a random puzzle of the next group: its examples in random order, as many as there
    is room for, the rest of that puzzle being dropped, and so is the last batch if it is not full.

    Args:
        groups: what there is to draw from.
        batch_size: examples of a batch, over all processes.
        seed: of groups and puzzles.
        epochs_per_iter: passes that run into one another without a cut.
        examples: order of the examples of a puzzle, which officially comes from numpy's global state.
    Source: puzzle_dataset.py of SamsungSAILMontreal/TinyRecursiveModels at e7b6871.
    """

    def __init__(
        self,
        groups: Groups,
        batch_size: int,
        seed: int,
        epochs_per_iter: int = 1,
        examples: np.random.RandomState | None = None,
    ) -> None:
        self.groups, self.batch_size, self.seed = groups, batch_size, seed
        self.epochs_per_iter = epochs_per_iter
        self._examples = examples or np.random.RandomState(seed)
        self._start, self._known = self._examples.get_state(), -1
        self._stream = self._batches()
        self._last: Draw | None = None

    def batch(self, step: int) -> Draw:
        """Batch `step` over all iterations; going back begins again from the first."""
        if step < self._known:
            self._examples.set_state(self._start)
            self._stream, self._known = self._batches(), -1
        while self._known < step:
            self._last = next(self._stream)
            self._known += 1
        assert self._last is not None
        return self._last

    def _batches(self) -> Iterator[Draw]:
        number = 0
        while True:
            number += 1
            empty = True
            for drawn in self.iteration(number):
                empty = False
                yield drawn
            if empty:
                raise UserError(
                    f"train.batch_size={self.batch_size} is more than data.epochs_per_iter="
                    f"{self.epochs_per_iter} holds. Lower the one or raise the other."
                )

    def iteration(self, number: int) -> Iterator[Draw]:
        """The batches of iteration `number`, counted from 1."""
        g = self.groups
        rng = np.random.Generator(np.random.Philox(seed=self.seed + number))
        order = np.concatenate([rng.permutation(len(g)) for _ in range(self.epochs_per_iter)])
        rows: list[np.ndarray] = []
        ids: list[np.ndarray] = []
        room = self.batch_size
        for group in order:
            puzzle = rng.integers(g.starts[group], g.starts[group + 1])
            size = int(g.stop[puzzle] - g.first[puzzle])
            taken = min(size, room)
            rows.append(g.first[puzzle] + self._examples.choice(size, taken, replace=False))
            ids.append(np.full(taken, g.ids[puzzle]))
            room -= taken
            if room == 0:
                yield Draw(np.concatenate(rows), np.concatenate(ids))
                rows, ids, room = [], [], self.batch_size
