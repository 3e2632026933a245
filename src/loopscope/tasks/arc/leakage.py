"""Tasks of one set that are in another: by id, and by content up to symmetry and colours.

Content is compared pair by pair, each pair brought to a canonical form of its own. So tasks that share
pairs are found whatever they are called, however they are turned or coloured, and in whatever order
their pairs stand. A single shared pair of tiny grids can be chance; several are not.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from loopscope.tasks.arc.board import Arc
from loopscope.tasks.arc.files import ArcTask


@dataclass(frozen=True)
class SharedTask:
    """A task of the tested set that the trained set also holds, whole or in part.

    Attributes:
        id: its id in the tested set.
        trained_id: the task of the trained set; of several found by content, the one with most pairs.
        pairs: how many of its pairs (demonstrations and tests) stand in that task, too.
        tests: how many of these are test pairs: answers given away.
        size: number of its pairs.
    """

    id: str
    trained_id: str
    pairs: int
    tests: int
    size: int


@dataclass(frozen=True)
class Leakage:
    """What the tested set shares with the trained one.

    Attributes:
        tasks, answers: size of the tested set: tasks, and test pairs with a known output.
        by_id: the tasks whose id the trained set has, too, in the order of the tested set.
        by_content: the tasks with at least one pair that stands in a trained task of *another* id.
        answers_given: test pairs that stand anywhere in the trained set.
    """

    tasks: int
    answers: int
    by_id: tuple[SharedTask, ...]
    by_content: tuple[SharedTask, ...]
    answers_given: int

    def __str__(self) -> str:
        """Three lines, as `data show` prints them."""
        return "\n".join(
            [
                f"by id: {len(self.by_id)} of {self.tasks} tasks" + _listed([s.id for s in self.by_id]),
                f"by content under another id: {len(self.by_content)} tasks"
                + _listed([f"{s.id} = {s.trained_id} ({s.pairs}/{s.size} pairs)" for s in self.by_content]),
                f"answers given away: {self.answers_given} of {self.answers} test pairs",
            ]
        )


def _listed(names: Sequence[str], most: int = 8) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f": {', '.join(names[:most])}{more}" if names else ""


def leakage(trained: Sequence[ArcTask], tested: Sequence[ArcTask]) -> Leakage:
    """What of `tested` is in `trained`; pairs without a known output are not compared.

    On the public sets: training2 holds 376 of the 400 tasks of evaluation by id, and training gives away
    two of its answers under other ids.
    """
    owners: dict[bytes, dict[str, None]] = defaultdict(dict)  # task ids in order, each once
    for task, pairs in zip(trained, _pairs(trained), strict=True):
        for _, key in pairs:
            owners[key][task.id] = None
    ids = {task.id for task in trained}
    by_id: list[SharedTask] = []
    by_content: list[SharedTask] = []
    answers = given = 0
    for task, pairs in zip(tested, _pairs(tested), strict=True):
        tests = [key for split, key in pairs if split == "test"]
        answers, given = answers + len(tests), given + sum(key in owners for key in tests)
        shared = Counter(owner for _, key in pairs for owner in owners.get(key, ()))
        shared_tests = Counter(owner for key in tests for owner in owners.get(key, ()))
        others = [name for name, _ in shared.most_common() if name != task.id]
        for found, names in ((by_id, [task.id] if task.id in ids else []), (by_content, others[:1])):
            found += [SharedTask(task.id, n, shared[n], shared_tests[n], len(pairs)) for n in names]
    return Leakage(len(tested), answers, tuple(by_id), tuple(by_content), given)


def _pairs(tasks: Sequence[ArcTask]) -> list[list[tuple[str, bytes]]]:
    """For each task, split and canonical key of every pair whose output is known."""
    found = [
        (number, split, pair)
        for number, task in enumerate(tasks)
        for split, pairs in task.pairs.items()
        for pair in pairs
        if pair.output is not None
    ]
    arc = Arc()
    inputs, labels = (arc.encode([pair[side] for *_, pair in found]) for side in (0, 1))
    keys: list[list[tuple[str, bytes]]] = [[] for _ in tasks]
    for (number, split, _), key in zip(found, arc.canonical(inputs, labels), strict=True):
        keys[number].append((split, key))
    return keys
