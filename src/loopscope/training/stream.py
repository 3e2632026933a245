"""The stream of training batches: a function of (seed, step) alone, so resuming needs no state."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from loopscope.tasks.base import BLANK, FAMILY, PAD, Batch, PuzzleSet, make_batch
from loopscope.training.order import AUGMENT, SLOTS, SPLIT, Draw, OfficialOrder, PassOrder, groups_of


class TrainingStream:
    """Endless batches of a puzzle set, every puzzle under a fresh random symmetry.

    The order decides which examples batch t holds; their symmetries are drawn from (seed, t). Every
    process draws the whole batch and keeps its share, so all shares together are the batch of one.

    Args:
        puzzles: with labels; groups and versions are respected where the set has them.
        batch_size: rows of a batch, over all processes.
        seed: same seed, same batches.
        order: of the examples; None takes seeded passes (`PassOrder`).
        augment: draw symmetries; off gives the puzzles as they are.
        reveal: share of rows that get extra givens (`reveal_givens`).
        reveal_steps: steps over which that share falls linearly to zero; 0 keeps it.
        share: this process and the number of processes, which must divide `batch_size`.
    """

    def __init__(
        self,
        puzzles: PuzzleSet,
        batch_size: int,
        *,
        seed: int,
        order: PassOrder | OfficialOrder | None = None,
        augment: bool = True,
        reveal: float = 0.0,
        reveal_steps: int = 0,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        assert puzzles.labels is not None, "training needs labels"
        assert batch_size % share[1] == 0, (batch_size, share)
        self.puzzles, self.batch_size = puzzles, batch_size
        self.order: PassOrder | OfficialOrder = order or PassOrder(groups_of(puzzles), batch_size, seed)
        self.seed, self.augment, self.reveal, self.reveal_steps = seed, augment, reveal, reveal_steps
        size = batch_size // share[1]
        self._kept = slice(share[0] * size, (share[0] + 1) * size)

    def draw(self, step: int) -> Draw:
        """Row numbers and identifiers of batch `step` (0-based), all processes together."""
        return self.order.batch(step)

    def batch(self, step: int) -> Batch:
        """This process's share of batch `step`, (batch_size / processes, L), augmented."""
        rows, ids = self.draw(step)
        inputs, labels = self.puzzles.inputs[rows], self.puzzles.labels[rows]  # type: ignore[index]
        rng = np.random.default_rng([self.seed, AUGMENT, step])
        if self.augment:
            inputs, labels = self.puzzles.task.augment(inputs, labels, rng, ids)
        if (share := self.reveal_share(step)) > 0:
            inputs = reveal_givens(inputs, labels, share, rng)
        return make_batch(inputs[self._kept], labels[self._kept], ids[self._kept])

    def reveal_share(self, step: int) -> float:
        """Share of the rows of batch `step` that get extra givens."""
        return self.reveal * (max(0.0, 1 - step / self.reveal_steps) if self.reveal_steps else 1.0)


def reveal_givens(
    inputs: np.ndarray, labels: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Make puzzles easier: in a `share` of the rows a uniform random share of the blanks is filled in."""
    chosen = rng.random(len(inputs)) < share
    amount = rng.random(len(inputs)) * chosen
    fill = (inputs == BLANK) & (labels != PAD) & (rng.random(inputs.shape) < amount[:, None])
    return np.where(fill, labels, inputs)


def step_generator(seed: int, step: int, device: torch.device | str = "cpu") -> torch.Generator:
    """Source of what a step draws for its slots, on their device: exploration and random starts."""
    state = np.random.SeedSequence([seed, SLOTS, step]).generate_state(1)
    return torch.Generator(device).manual_seed(int(state[0]))


def split_validation(puzzles: PuzzleSet, count: int, seed: int) -> tuple[PuzzleSet, PuzzleSet]:
    """Training and validation puzzles: of `count` random groups something is held out.

    A group of single examples is held out whole. Of one with several (ARC) only the last example is, in
    all its versions: its identifier has to be learnt from the others. Validation takes the source, not
    the versions. Training groups whose source repeats a held-out example are left out, so that the two
    share no puzzle; symmetric copies are not looked for (`loopscope data overlap` finds them). Neighbours
    share much with the puzzle they were made of, often its solution: where the fact `family` tells whose
    they are, only first members are held out, and all others of their families are left out, too. Where a
    set has groups no row is copied: the training set has the same rows and fewer or shorter ranges.
    """
    groups = groups_of(puzzles)
    source = groups.starts[:-1]
    order = np.random.default_rng([seed, SPLIT]).permutation(len(groups))
    family = puzzles.facts.get(FAMILY, np.arange(len(puzzles)))[groups.first[source]]
    held_out = np.sort(order[np.isin(order, np.unique(family, return_index=True)[1])][:count])
    rest = np.flatnonzero(~np.isin(family, family[held_out]))
    first, stop = groups.first[source], groups.stop[source]
    several = held_out[stop[held_out] - first[held_out] > 1]
    rows = np.sort(stop[held_out] - 1)
    seen = {puzzles.inputs[row].tobytes() for row in rows}
    repeats = (any(puzzles.inputs[r].tobytes() in seen for r in range(first[g], stop[g])) for g in rest)
    fresh = rest[~np.fromiter(repeats, bool, len(rest))] if seen else rest
    kept = np.sort(np.concatenate([fresh, several]))
    return _shortened(puzzles, several).only_groups(kept), puzzles[rows]


def _shortened(puzzles: PuzzleSet, chosen: np.ndarray) -> PuzzleSet:
    """The set without the last example of every puzzle in the chosen groups."""
    if not len(chosen):
        return puzzles
    g = groups_of(puzzles)
    stop = g.stop.copy()
    stop[np.repeat(np.isin(np.arange(len(g)), chosen), np.diff(g.starts))] -= 1
    return replace(puzzles, groups=replace(g, stop=stop))
