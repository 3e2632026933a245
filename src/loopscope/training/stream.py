"""The stream of training batches: a function of (seed, step) alone, so resuming needs no state."""

from __future__ import annotations

import numpy as np
import torch

from loopscope.tasks.base import BLANK, PAD, Batch, PuzzleSet, make_batch

# What a random stream is for: the second word of its seed, after the seed of the run.
ORDER, AUGMENT, SPLIT, SLOTS = range(4)


class TrainingStream:
    """Endless shuffled passes over a puzzle set, every puzzle under a fresh random symmetry.

    Pass p is a permutation drawn from (seed, p); batch t takes the next `batch_size` rows of the
    concatenated passes and draws its symmetries from (seed, t). No row is dropped at a border.

    Args:
        puzzles: with labels.
        batch_size: rows of a batch, over all processes.
        seed: same seed, same batches.
        augment: draw symmetries; off gives the puzzles as they are.
        reveal: share of rows that get extra givens (`reveal_givens`).
        reveal_steps: steps over which that share falls linearly to zero; 0 keeps it.
    """

    def __init__(
        self,
        puzzles: PuzzleSet,
        batch_size: int,
        *,
        seed: int,
        augment: bool = True,
        reveal: float = 0.0,
        reveal_steps: int = 0,
    ) -> None:
        assert puzzles.labels is not None, "training needs labels"
        self.puzzles, self.batch_size = puzzles, batch_size
        self.seed, self.augment, self.reveal, self.reveal_steps = seed, augment, reveal, reveal_steps
        self._order: dict[int, np.ndarray] = {}

    def rows(self, step: int) -> np.ndarray:
        """Row numbers of batch `step` (0-based), (batch_size,)."""
        position = np.arange(step * self.batch_size, (step + 1) * self.batch_size)
        passes, offset = np.divmod(position, len(self.puzzles))
        return np.concatenate([self._pass_order(int(p))[offset[passes == p]] for p in np.unique(passes)])

    def batch(self, step: int) -> Batch:
        """Batch `step`, (batch_size, L), augmented."""
        rows = self.rows(step)
        inputs, labels = self.puzzles.inputs[rows], self.puzzles.labels[rows]  # type: ignore[index]
        rng = np.random.default_rng([self.seed, AUGMENT, step])
        if self.augment:
            inputs, labels = self.puzzles.task.augment(inputs, labels, rng, self.puzzles.puzzle_ids[rows])
        if (share := self.reveal_share(step)) > 0:
            inputs = reveal_givens(inputs, labels, share, rng)
        return make_batch(inputs, labels, self.puzzles.puzzle_ids[rows])

    def reveal_share(self, step: int) -> float:
        """Share of the rows of batch `step` that get extra givens."""
        return self.reveal * (max(0.0, 1 - step / self.reveal_steps) if self.reveal_steps else 1.0)

    def _pass_order(self, number: int) -> np.ndarray:
        if number not in self._order:
            self._order = {k: v for k, v in self._order.items() if k >= number - 1}
            self._order[number] = np.random.default_rng([self.seed, ORDER, number]).permutation(
                len(self.puzzles)
            )
        return self._order[number]


def reveal_givens(
    inputs: np.ndarray, labels: np.ndarray, share: float, rng: np.random.Generator
) -> np.ndarray:
    """Make puzzles easier: in a `share` of the rows a uniform random share of the blanks is filled in."""
    chosen = rng.random(len(inputs)) < share
    amount = rng.random(len(inputs)) * chosen
    fill = (inputs == BLANK) & (labels != PAD) & (rng.random(inputs.shape) < amount[:, None])
    return np.where(fill, labels, inputs)


def step_generator(seed: int, step: int) -> torch.Generator:
    """Source of what a step draws for its slots: exploration and random starts."""
    state = np.random.SeedSequence([seed, SLOTS, step]).generate_state(1)
    return torch.Generator().manual_seed(int(state[0]))


def split_validation(puzzles: PuzzleSet, count: int, seed: int) -> tuple[PuzzleSet, PuzzleSet]:
    """Training and validation puzzles: `count` rows held out at random, the same for the same seed.

    Training rows that repeat a held-out puzzle are left out, so that the two share no puzzle.
    """
    order = np.random.default_rng([seed, SPLIT]).permutation(len(puzzles))
    held_out, rest = np.sort(order[:count]), np.sort(order[count:])
    seen = {row.tobytes() for row in puzzles.inputs[held_out]}
    fresh = [row.tobytes() not in seen for row in puzzles.inputs[rest]]
    return puzzles[rest[fresh]], puzzles[held_out]
