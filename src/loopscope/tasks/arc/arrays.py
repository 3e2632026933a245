"""From ARC tasks to the arrays of a puzzle folder.

What sets it apart from the official builder: a task's versions follow from (seed, task id) alone, so
they do not change when other tasks come or go, and the versions for 10 augmentations are the first of
those for 1,000; the splits come in a fixed order; by default only the plain rows are stored and the
versions, named in the list of identifiers, are made when drawn. `compat="trm"` replays the official
TRM builder call by call.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import accumulate
from typing import Any, NamedTuple, Protocol

import numpy as np
from tqdm.auto import tqdm

from loopscope.errors import UserError
from loopscope.registry import did_you_mean
from loopscope.tasks.arc.board import Arc
from loopscope.tasks.arc.files import COLOURS, SIDE, SPLITS, ArcTask, Pair
from loopscope.tasks.arc.leakage import Leakage, leakage
from loopscope.tasks.arc.versions import Versions, draw_versions, drawn_from
from loopscope.tasks.storage.split_arrays import SplitArrays

VERSIONS, SHIFTS = range(2)  # what a random stream is for: the last word of its seed
TRM = "trm"
BLANK_NAME = "<blank>"  # name of identifier 0
log = logging.getLogger("loopscope")


class ArcArrays(NamedTuple):
    """All that a folder holds.

    Attributes:
        splits: "train", and "test" where there is a test set.
        identifiers: name of every puzzle identifier, the first `<blank>`.
        test_puzzles: the tasks of the test sets as JSON, by id.
        leaks: what the test sets share with the other subsets; None without a test set.
    """

    splits: dict[str, SplitArrays]
    identifiers: list[str]
    test_puzzles: dict[str, Any]
    leaks: Leakage | None


def in_memory(shape: tuple[int, int]) -> np.ndarray:
    """Room for tokens."""
    return np.empty(shape, np.uint8)


def arc_arrays(
    subsets: Mapping[str, Sequence[ArcTask]],
    test_sets: Sequence[str] = (),
    *,
    augmentations: int = 1000,
    seed: int = 0,
    bake: bool = False,
    compat: str | None = None,
    allow_leak: bool = False,
    allocate: Callable[[tuple[int, int]], np.ndarray] = in_memory,
    progress: bool = False,
) -> ArcArrays:
    """Arrays of both splits, identifiers and test puzzles.

    Demonstrations of *all* tasks are trained on, those of test sets too; test pairs are trained on unless
    their subset is a test set. A group is a task, a puzzle one version of it, a row one pair. Versions
    that would repeat a puzzle are left out, so symmetric tasks have fewer than `augmentations`.

    Args:
        subsets: tasks by subset, in the order they shall stand.
        test_sets: names of the subsets whose test pairs are held out.
        augmentations: versions beside the plain one, at most.
        seed: same seed, same arrays.
        bake: store the rows of every version, in train each pair at a random place except one per puzzle.
            Otherwise only the plain rows are stored, one puzzle a group: see `expand_groups`.
        compat: "trm" gives the arrays of the official builder with this seed, baked; its split order is
            train, test (officially that depends on PYTHONHASHSEED when a test set comes first).
        allow_leak: build although a test set shares ids with another subset.
        allocate: gives room for that many rows of tokens, uint8; a memory-mapped file, for instance.
            1,000 augmentations of ARC-1 baked need 6.6 GB.
        progress: show a bar.
    Raises:
        UserError: an option is wrong, or a test set leaks.
    """
    _check(subsets, test_sets, augmentations, seed, compat)
    leaks = _leaks(subsets, test_sets, allow_leak)
    draws = _Legacy(seed) if compat else _Seeded(seed)
    if not compat:
        subsets = _without_repeats(subsets, test_sets)
    total = sum(map(len, subsets.values()))
    with tqdm(total=total, desc="versions", disable=not progress) as bar:
        groups = list(_groups(subsets, test_sets, augmentations, draws, bar))
    identifiers: dict[str, int] = {BLANK_NAME: 0}
    for split in SPLITS:
        for name in (name for group in groups if group.pairs[split] for name in group.names):
            identifiers.setdefault(name, len(identifiers))
    splits = {}
    for split in SPLITS:
        chosen = [group for group in groups if group.pairs[split]]
        if chosen:
            stored = chosen if bake or compat else [group.plain() for group in chosen]
            with tqdm(total=len(stored), desc=f"{split} rows", disable=not progress) as bar:
                move = draws.shifts if bake or compat else None
                splits[split] = _split(stored, split, identifiers, move, allocate, bar)
    tests = {group.task.id: group.task.as_json() for group in groups if group.pairs["test"]}
    return ArcArrays(splits, list(identifiers), tests, leaks)


@dataclass(frozen=True, eq=False)
class _Group:
    """A task with its versions and their names, and its pairs by the split they go to."""

    task: ArcTask
    versions: Versions
    names: list[str]
    pairs: Mapping[str, list[Pair]]

    def plain(self) -> _Group:
        return _Group(self.task, self.versions.rows(slice(1)), self.names[:1], self.pairs)


# -- checks


def _check(
    subsets: Mapping[str, Sequence[ArcTask]],
    test_sets: Sequence[str],
    augmentations: int,
    seed: int,
    compat: str | None,
) -> None:
    if not any(subsets.values()):
        raise UserError("ARC: no tasks to build from. Name at least one subset.")
    for name in test_sets:
        if name not in subsets:
            raise UserError(f"test set {name!r}: not among the subsets. {did_you_mean(name, subsets)}")
    if compat not in (None, TRM):
        raise UserError(f"compat={compat}: expected trm. Leave it out to build our own way.")
    if augmentations < 0:
        raise UserError(f"augmentations={augmentations}: expected at least 0.")
    if seed < 0 or (compat and seed >= 2**32):
        raise UserError(f"seed={seed}: expected 0 to 2**32 - 1. Choose another.")


def _leaks(subsets: Mapping[str, Sequence[ArcTask]], test_sets: Sequence[str], allow: bool) -> Leakage | None:
    """Compares test sets with the rest; the same id on both sides is refused.

    Shared content under other ids is only reported: ARC-1's own training set holds some.
    """
    tested = [task for name in test_sets for task in subsets[name]]
    if not tested:
        return None
    found = leakage([t for name in subsets if name not in test_sets for t in subsets[name]], tested)
    if found.by_id and not allow:
        shared = {leak.id for leak in found.by_id}
        where = [n for n in subsets if n not in test_sets and shared & {task.id for task in subsets[n]}]
        raise UserError(
            f"{', '.join(where)}: {len(shared)} of {found.tasks} tasks of the test set "
            f"{', '.join(test_sets)} are in there, such as {min(shared)}. Leave it out, or pass --allow-leak."
        )
    return found


def _without_repeats(
    subsets: Mapping[str, Sequence[ArcTask]], test_sets: Sequence[str]
) -> dict[str, list[ArcTask]]:
    """Of training tasks with one id only the first; the official builder trains on all of them."""
    seen: set[str] = set()
    kept: dict[str, list[ArcTask]] = {}
    for name, tasks in subsets.items():
        kept[name] = [task for task in tasks if name in test_sets or task.id not in seen]
        seen.update(task.id for task in kept[name] if name not in test_sets)
        if dropped := len(tasks) - len(kept[name]):
            log.warning("%s: left out %d tasks whose ids an earlier subset has", name, dropped)
    return kept


# -- groups


def _groups(
    subsets: Mapping[str, Sequence[ArcTask]],
    test_sets: Sequence[str],
    augmentations: int,
    draws: _Draws,
    bar: tqdm,
) -> Iterator[_Group]:
    for name, tasks in subsets.items():
        for task in draws.order(tasks):
            task = draws.completed(task)
            versions = draw_versions(task, augmentations, draws.versions(task.id))
            yield _Group(task, versions, versions.names(task.id), _by_split(task, name in test_sets))
            bar.update()


def _by_split(task: ArcTask, tested: bool) -> dict[str, list[Pair]]:
    """Pairs by the split they go to; in train those without a known output have nothing to teach."""
    found: dict[str, list[Pair]] = {split: [] for split in SPLITS}
    for key, pairs in task.pairs.items():
        split = key if tested else "train"
        found[split] += [pair for pair in pairs if split == "test" or pair.output is not None]
    return found


def _split(
    groups: Sequence[_Group],
    split: str,
    identifiers: Mapping[str, int],
    shifts: Callable[[str, str, np.ndarray], np.ndarray] | None,
    allocate: Callable[[tuple[int, int]], np.ndarray],
    bar: tqdm,
) -> SplitArrays:
    """The arrays of one split; without `shifts` everything stays in the corner."""
    arc = Arc()
    sizes = [(len(group.names), len(group.pairs[split])) for group in groups]
    rows = [0, *accumulate(versions * pairs for versions, pairs in sizes)]
    inputs, labels = (allocate((rows[-1], arc.seq_len)) for _ in range(2))
    for group, start, stop in zip(groups, rows, rows[1:], strict=False):
        _fill(arc, group, split, shifts, inputs[start:stop], labels[start:stop])
        bar.update()
    per_puzzle = np.repeat([pairs for _, pairs in sizes], [versions for versions, _ in sizes])
    return SplitArrays(
        inputs,
        labels,
        np.array([identifiers[name] for group in groups for name in group.names], np.int32),
        np.concatenate([[0], np.cumsum(per_puzzle)]).astype(np.int32),
        np.concatenate([[0], np.cumsum([versions for versions, _ in sizes])]).astype(np.int32),
    )


def _fill(
    arc: Arc,
    group: _Group,
    split: str,
    shifts: Callable[[str, str, np.ndarray], np.ndarray] | None,
    inputs: np.ndarray,
    labels: np.ndarray,
) -> None:
    """Write the rows of one group, version by version."""
    from loopscope.tasks.arc.kernels import boxes, place

    pairs, count = group.pairs[split], len(group.names)
    moves = np.zeros((count, len(pairs), 2), np.int64)
    if shifts is not None:
        moves = shifts(group.task.id, split, _room(pairs, group.versions))
    rows = np.tile(np.arange(len(pairs)), count)
    versions = Versions(*(np.repeat(part, len(pairs), axis=0) for part in group.versions))
    for side, out in enumerate((inputs, labels)):
        plain = arc.encode([pair[side] for pair in pairs])
        box = np.empty((len(pairs), 4), np.int64)
        boxes(plain, box)
        place(plain, rows, box, *versions, moves.reshape(-1, 2), out)


def _room(pairs: Sequence[Pair], versions: Versions) -> np.ndarray:
    """How far each version of each pair can go down and right, (versions, pairs, 2)."""
    shapes = [[grid.shape for grid in pair if grid is not None] for pair in pairs]
    room = SIDE - np.array([np.max(shape, axis=0) for shape in shapes])
    return np.where(versions.turned()[:, None, None], room[:, ::-1], room)


# -- randomness


class _Draws(Protocol):
    """Where the randomness of a build comes from."""

    def order(self, tasks: Sequence[ArcTask]) -> Sequence[ArcTask]:
        """The tasks of a subset in the order their groups shall stand."""
        ...

    def completed(self, task: ArcTask) -> ArcTask:
        """The task with something in the place of unknown outputs, or as it is."""
        ...

    def versions(self, task_id: str) -> Callable[[int], Versions]:
        """Draws of versions for one task."""
        ...

    def shifts(self, task_id: str, split: str, room: np.ndarray) -> np.ndarray:
        """Moves down and right of each version of each pair, (versions, pairs, 2), at most `room`."""
        ...


class _Seeded:
    """Ours: streams of (seed, task id), so that tasks do not depend on each other."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def _stream(self, task_id: str, purpose: int) -> np.random.Generator:
        word = int.from_bytes(sha256(task_id.encode("utf-8", "surrogatepass")).digest()[:8], "big")
        return np.random.default_rng([self.seed, word, purpose])

    def order(self, tasks: Sequence[ArcTask]) -> Sequence[ArcTask]:
        return tasks

    def completed(self, task: ArcTask) -> ArcTask:
        return task

    def versions(self, task_id: str) -> Callable[[int], Versions]:
        return drawn_from(self._stream(task_id, VERSIONS))

    def shifts(self, task_id: str, split: str, room: np.ndarray) -> np.ndarray:
        if split == "test":  # answers are read from the corner
            return np.zeros_like(room)
        rng = self._stream(task_id, SHIFTS)
        moves = rng.integers(0, room + 1)
        moves[np.arange(len(room)), rng.integers(0, room.shape[1], len(room))] = 0
        return moves


class _Legacy:
    """The official TRM builder's calls of NumPy's old generator, in its order."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.RandomState(seed)

    def order(self, tasks: Sequence[ArcTask]) -> Sequence[ArcTask]:
        shuffled = list(tasks)
        self.random.shuffle(shuffled)  # type: ignore[arg-type]
        return shuffled

    def completed(self, task: ArcTask) -> ArcTask:
        blank = np.zeros((1, 1), np.uint8)
        filled = {
            split: tuple(pair if pair.output is not None else pair._replace(output=blank) for pair in pairs)
            for split, pairs in task.pairs.items()
        }
        return ArcTask(task.id, filled)

    def versions(self, task_id: str) -> Callable[[int], Versions]:
        def draw(count: int) -> Versions:
            tids, colours = np.empty(count, np.uint8), np.tile(np.arange(COLOURS, dtype=np.uint8), (count, 1))
            for i, row in enumerate(colours[:, 1:]):
                tids[i] = self.random.randint(0, 8)
                self.random.shuffle(row)  # draws as permutation(arange(1, 10)) does
            return Versions(tids, colours)

        return draw

    def shifts(self, task_id: str, split: str, room: np.ndarray) -> np.ndarray:
        moves = np.zeros_like(room)
        for version, bounds in enumerate((room + 1).tolist()):
            untouched = self.random.randint(0, len(bounds))  # drawn in the test split, too
            if split == "test":
                continue
            for pair, (down, right) in enumerate(bounds):
                if pair != untouched:
                    moves[version, pair] = self.random.randint(0, down), self.random.randint(0, right)
        return moves
