"""ARC: one answer per test input from the answers under all versions of its task, by vote.

Every prediction is cropped, turned back from the version that its identifier names, and counts as a vote
for the grid that comes out. Candidates rank by (votes, mean sigmoid of the halt logit).

Where the official evaluator's rule is a defect, `rule="ours"` differs (`rule="official"` has it all):

                        ours                                      official
    empty grid          no answer, hence no vote                  a candidate like any other
    equal in all        by a hash of the grid                     the one that was seen first
    test input          its place in the puzzle                   a hash of its grid; moved ones are lost
    input moved         found by its content (`test_index_of`)    lost without a word
    submission          an entry for every test input             entries of unanswered ones are left out,
                                                                  so that later ones stand too early

A grid is its own key (height, width, cells), so that no two grids can be taken for each other. Memory grows
with the number of different answers and not with that of predictions. Confidences are summed as whole
numbers, so that the order of batches and the number of processes change nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Integer, UInt8
from scipy.special import expit

from loopscope.errors import UserError
from loopscope.evaluation.intervals import Estimate, mean_share, wilson
from loopscope.registry import did_you_mean
from loopscope.tasks.arc.board import Arc
from loopscope.tasks.arc.files import Pair
from loopscope.tasks.arc.versions import parse_names

RULES = ("ours", "official")
KS = (1, 2, 5, 10, 100, 1000)
ATTEMPTS = 2  # answers of a submission per test input
UNIT = 2**53  # of confidences: every float64 from 1/2 to 1 is a whole number of 1 / UNIT
NO_ANSWER = [[0]]  # a submission must hold a grid


class Candidate(NamedTuple):
    """One answer to a test input."""

    grid: UInt8[np.ndarray, "h w"]
    votes: int
    confidence: float  # mean sigmoid of the halt logits


@dataclass(slots=True)
class _Tally:
    votes: int = 0
    confidence: int = 0  # in 1 / UNIT


class ArcVotes:
    """Votes for the answers to the test inputs of ARC tasks, gathered batch by batch.

    Args:
        tests: test pairs of each task by its id, in their order; an output may be unknown.
        names: the name of every puzzle identifier, `identifiers.json`.
        rule: "ours" or "official", see above.
    Raises:
        UserError: unknown rule, or a name that names no version.

    Attributes:
        lost: predictions that became no vote, by reason: `other task` (padding, or a task without tests),
            `unknown input`, `empty`.
    """

    def __init__(self, tests: Mapping[str, Sequence[Pair]], names: Sequence[str], rule: str = "ours") -> None:
        if rule not in RULES:
            raise UserError(f"arc rule {rule!r}: unknown. {did_you_mean(rule, RULES)}")
        parsed = parse_names(names)
        self.tests, self.rule = {task_id: tuple(pairs) for task_id, pairs in tests.items()}, rule
        self.lost: Counter[str] = Counter()
        self._arc = Arc(parsed.versions)
        self._task_of = [parsed.bases[base] for base in parsed.base.tolist()]
        self._tallies: dict[tuple[str, int], dict[bytes, _Tally]] = {
            (task_id, i): {} for task_id, pairs in self.tests.items() for i in range(len(pairs))
        }

    # -- gathering

    def add(
        self,
        puzzle_ids: Integer[np.ndarray, " B"],
        test_index: Integer[np.ndarray, " B"],
        predictions: Integer[np.ndarray, "B L"],
        halt_logit: Float[np.ndarray, " B"],
    ) -> None:
        """Count the votes of a batch.

        Args:
            puzzle_ids: identifiers of the versions that were shown.
            test_index: which test input of its task each row is, from 0; -1 when that is not known.
            predictions: tokens.
            halt_logit: NaN counts as no confidence.
        """
        grids = self._arc.decode(predictions, puzzle_ids)
        confidence = np.nan_to_num(expit(np.asarray(halt_logit, np.float64)), nan=0.0)
        whole = np.rint(confidence * UNIT).astype(np.int64).tolist()
        rows = zip(puzzle_ids.tolist(), test_index.tolist(), grids, whole, strict=True)
        for puzzle_id, index, grid, sure in rows:
            task_id = self._task_of[puzzle_id]
            if reason := self._not_counted(task_id, index, grid):
                self.lost[reason] += 1
                continue
            tally = self._tallies[task_id, index].setdefault(_key(grid), _Tally())
            tally.votes += 1
            tally.confidence += sure

    def _not_counted(self, task_id: str, index: int, grid: np.ndarray) -> str:
        if task_id not in self.tests:
            return "other task"
        if not 0 <= index < len(self.tests[task_id]):
            return "unknown input"
        return "empty" if not grid.size and self.rule == "ours" else ""

    def test_index_of(
        self, puzzle_ids: Integer[np.ndarray, " B"], inputs: Integer[np.ndarray, "B L"]
    ) -> Int[np.ndarray, " B"]:
        """Which test input of its task each canvas shows, found by its content; -1 where none.

        Only for predictions that come without their place in the puzzle. Of equal test inputs of a task
        the first is named.
        """
        if self.rule == "ours":
            inputs = Arc().as_named(inputs, inputs, puzzle_ids)[0]  # into the corner
        grids = self._arc.decode(inputs, puzzle_ids)
        found = np.full(len(grids), -1, np.int64)
        for row, (puzzle_id, grid) in enumerate(zip(puzzle_ids.tolist(), grids, strict=True)):
            pairs = self.tests.get(self._task_of[puzzle_id], ())
            same = (i for i, pair in enumerate(pairs) if np.array_equal(pair.input, grid))
            found[row] = next(same, -1)
        return found

    def merge(self, other: ArcVotes) -> None:
        """Take over the votes of another process, or of another checkpoint for an ensemble."""
        assert self.rule == other.rule, (self.rule, other.rule)
        assert self._tallies.keys() == other._tallies.keys(), "votes on other tests"
        self.lost += other.lost
        for test, tallies in other._tallies.items():
            mine = self._tallies[test]
            for key, tally in tallies.items():
                sum_ = mine.setdefault(key, _Tally())
                sum_.votes += tally.votes
                sum_.confidence += tally.confidence

    # -- results

    def candidates(self, task_id: str, index: int) -> list[Candidate]:
        """All answers to a test input, the best first."""
        return [
            Candidate(_grid(key), tally.votes, tally.confidence / tally.votes / UNIT)
            for key, tally in self._ranked(task_id, index)
        ]

    def _ranked(self, task_id: str, index: int) -> list[tuple[bytes, _Tally]]:
        tallies = self._tallies[task_id, index].items()
        if self.rule == "official":  # `sorted` keeps the order of equals: first seen first
            return sorted(tallies, key=lambda item: (-item[1].votes, -item[1].confidence))
        return sorted(
            tallies, key=lambda item: (-item[1].votes, -item[1].confidence, hashlib.sha256(item[0]).digest())
        )

    def ranks(self) -> dict[str, list[int | None]]:
        """Place of the right answer among the candidates of each test input, by task.

        From 1; 0 where it is not among them, None where the right answer is not known.
        """
        return {
            task_id: [self._rank(task_id, i, pair.output) for i, pair in enumerate(pairs)]
            for task_id, pairs in self.tests.items()
        }

    def _rank(self, task_id: str, index: int, output: np.ndarray | None) -> int | None:
        if output is None:
            return None
        right = _key(output)
        keys = (key for key, _ in self._ranked(task_id, index))
        return next((place for place, key in enumerate(keys, start=1) if key == right), 0)

    def scores(
        self, ks: Sequence[int] = KS, credit: str = "partial", answered_only: bool = False
    ) -> dict[int, Estimate]:
        """pass@k: share of the tasks whose right answers are among the first k candidates.

        Args:
            ks: numbers of attempts.
            credit: "partial", the share of a task's test inputs (TRM evaluator), or "all", nothing unless
                all are right (HRM notebook).
            answered_only: leave out test inputs and tasks without any prediction (HRM notebook); otherwise
                they count as wrong (TRM evaluator).
        Returns:
            k -> mean over tasks, bootstrap or Wilson interval over tasks. Tasks with an unknown answer
            are left out.
        """
        assert credit in ("partial", "all"), credit
        ranks = [
            [rank for i, rank in enumerate(row) if self._tallies[task_id, i] or not answered_only]
            for task_id, row in self.ranks().items()
        ]
        known = [[rank for rank in row if rank is not None] for row in ranks if row and None not in row]
        found = {}
        for k in ks:
            shares = np.array([np.mean([1 <= rank <= k for rank in row]) for row in known])
            whole = int((shares == 1).sum())
            found[k] = wilson(whole, len(known)) if credit == "all" else mean_share(shares)
        return found

    def submission(self) -> dict[str, list[dict[str, list[list[int]]]]]:
        """The file that Kaggle asks for: two attempts for every test input, the best candidates.

        A single candidate is given twice. Without any, ours gives a grid of one cell.
        """
        return {
            task_id: [
                self._attempts(task_id, i)
                for i in range(len(pairs))
                if self.rule == "ours" or self._tallies[task_id, i]
            ]
            for task_id, pairs in self.tests.items()
        }

    def _attempts(self, task_id: str, index: int) -> dict[str, list[list[int]]]:
        grids = [_grid(key).tolist() for key, _ in self._ranked(task_id, index)[:ATTEMPTS]] or [NO_ANSWER]
        grids += grids[:1] * (ATTEMPTS - len(grids))
        return {f"attempt_{i}": grid for i, grid in enumerate(grids, start=1)}

    def columns(self) -> dict[str, list[Any]]:
        """One row per test input: task, place in the task, first answer, its votes, rank of the right one."""
        ranks, table = self.ranks(), []
        for task_id, pairs in self.tests.items():
            for i in range(len(pairs)):
                best = next(iter(self.candidates(task_id, i)), Candidate(np.zeros((0, 0), np.uint8), 0, 0.0))
                answer = str(best.grid.tolist())
                table.append((task_id, i, ranks[task_id][i], best.votes, best.confidence, answer))
        names = ("task", "test", "rank", "votes", "confidence", "answer")
        return dict(zip(names, map(list, zip(*table, strict=True)), strict=True))


def _key(grid: UInt8[np.ndarray, "h w"]) -> bytes:
    return bytes(grid.shape) + grid.tobytes()


def _grid(key: bytes) -> UInt8[np.ndarray, "h w"]:
    return np.frombuffer(key, np.uint8, offset=2).reshape(key[0], key[1])
