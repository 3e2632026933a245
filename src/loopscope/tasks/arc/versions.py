"""Versions of a task: one of eight symmetries of the square and an exchange of the colours 1 to 9.

Colour 0 (the background) stays. There are 8 * 9! = 2,903,040 versions, so one is a number below that.

Unusual: whether two versions of a task are the same puzzle is decided without making them. A grid's
fingerprint is linear in "which places hold colour c", so eight orientations are summed once and each
version costs ten multiplications per pair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import chain, permutations
from math import factorial
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Integer, UInt8, UInt64

from loopscope.errors import UserError
from loopscope.tasks import dihedral
from loopscope.tasks.arc.files import COLOURS, SEPARATOR, SIDE, ArcTask, Pair
from loopscope.tasks.base import Groups
from loopscope.tasks.storage.split_arrays import SplitArrays

COUNT = dihedral.COUNT * factorial(COLOURS - 1)
TRIALS = 5  # draws per version asked for; tasks with much symmetry of their own get fewer versions
PLAIN_MAP = "0123456789"


class Versions(NamedTuple):
    """Some versions, one a row: first the colours are exchanged, then the grid is turned.

    The two commute: they act on content and on place.

    Attributes:
        tids: symmetry of the square as `tasks.dihedral` numbers them, (N,) uint8.
        colours: new colour of each colour, (N, 10) uint8, column 0 is 0.
    """

    tids: UInt8[np.ndarray, "N"]
    colours: UInt8[np.ndarray, "N 10"]

    @classmethod
    def numbered(cls, numbers: Integer[np.ndarray, "N"]) -> Versions:
        """Versions from their numbers 0 to `COUNT - 1`; number 0 is the identity."""
        orders, tids = np.divmod(numbers, dihedral.COUNT)
        return cls(tids.astype(np.uint8), _colour_maps()[orders])

    def rows(self, index: slice | np.ndarray) -> Versions:
        return Versions(self.tids[index], self.colours[index])

    def inverse(self) -> Versions:
        """The versions that undo these."""
        inverses = np.array(dihedral.INVERSE, np.uint8)
        return Versions(inverses[self.tids], np.argsort(self.colours, axis=1).astype(np.uint8))

    def turned(self) -> Bool[np.ndarray, "N"]:
        """Whether height and width change places."""
        return np.isin(self.tids, (1, 3, 6, 7))

    def apply(self, row: int, grid: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "H W"]:
        """One grid under the version of one row."""
        return dihedral.transform(self.colours[row][grid], int(self.tids[row]))

    def names(self, task_id: str) -> list[str]:
        """The name of each as the official TRM builder writes it; the identity's is the plain id."""
        digits = (self.colours + ord("0")).tobytes().decode()
        maps = [digits[i : i + COLOURS] for i in range(0, len(digits), COLOURS)]
        pairs = zip(self.tids.tolist(), maps, strict=True)
        return [
            task_id if not tid and colours == PLAIN_MAP else SEPARATOR.join((task_id, f"t{tid}", colours))
            for tid, colours in pairs
        ]


@lru_cache(maxsize=1)
def _colour_maps() -> UInt8[np.ndarray, "M 10"]:
    """All orders of the colours 1 to 9 in lexicographic order, 0 in front."""
    maps = np.zeros((factorial(COLOURS - 1), COLOURS), np.uint8)
    flat = np.fromiter(chain.from_iterable(permutations(range(1, COLOURS))), np.uint8)
    maps[:, 1:] = flat.reshape(-1, COLOURS - 1)
    return maps


# -- drawing


def draw_versions(task: ArcTask, count: int, draw: Callable[[int], Versions]) -> Versions:
    """The identity and up to `count` further versions that all are different puzzles.

    At most `TRIALS * count` versions are drawn; one that gives the same pairs as an earlier one (because
    the task is symmetric, or lacks colours) is rejected. The order of pairs does not count.

    Args:
        draw: gives that many random versions, successive calls going on where the last one stopped.
    """
    marks = _Fingerprint([pair for pairs in task.pairs.values() for pair in pairs])
    kept = Versions.numbered(np.zeros(1, np.int64))
    seen, left = marks(kept), TRIALS * count
    # A block is never longer than what is still needed, so no draw is made that one by one would not be.
    while (block := min(count + 1 - len(seen), left)) > 0:
        left -= block
        fresh = draw(block)
        joined = np.concatenate([seen, marks(fresh)])
        first = np.sort(np.unique(joined, return_index=True)[1])
        new = first[len(seen) :] - len(seen)
        kept = Versions(*(np.concatenate(both) for both in zip(kept, fresh.rows(new), strict=True)))
        seen = joined[first]
    return kept


def drawn_from(rng: np.random.Generator) -> Callable[[int], Versions]:
    """Uniform draws over all versions, for `draw_versions`."""
    return lambda count: Versions.numbered(rng.integers(0, COUNT, count))


class _Fingerprint:
    """64-bit marks of the versions of a task: equal puzzles have equal marks, others (nearly) never.

    With random words r per place (of input and of output) and k per colour, a pair's mark is the sum of
    r[place] * k[colour] mod 2^64 over all cells; a puzzle's is the sum of its pairs' marks after mixing, so
    that the order of pairs does not matter. Two different puzzles collide with probability below 2^-50.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        words = np.random.default_rng(0).integers(0, 2**64, (2 * SIDE * SIDE + COLOURS), np.uint64)
        places, self.colours = words[:-COLOURS].reshape(2, SIDE, SIDE), words[-COLOURS:]
        self.sums = np.stack([_place_sums(pair, places) for pair in pairs], axis=1)

    def __call__(self, versions: Versions) -> UInt64[np.ndarray, "N"]:
        words = self.colours[versions.colours]
        marks = (self.sums[versions.tids] * words[:, None]).sum(axis=2, dtype=np.uint64)
        return _mixed(marks).sum(axis=1, dtype=np.uint64)


def _place_sums(pair: Pair, places: UInt64[np.ndarray, "2 s s"]) -> UInt64[np.ndarray, "8 10"]:
    """For each symmetry and colour: sum of the words of all places that hold the colour afterwards."""
    sums = np.zeros((dihedral.COUNT, COLOURS), np.uint64)
    for grid, words in zip(pair, places, strict=True):
        if grid is None:
            continue
        holds = (grid.reshape(-1, 1) == np.arange(COLOURS)).astype(np.uint64)
        for tid in range(dihedral.COUNT):
            height, width = dihedral.transform(grid, tid).shape
            back = dihedral.transform(words[:height, :width], dihedral.INVERSE[tid])
            sums[tid] += back.reshape(-1) @ holds
    return sums


def _mixed(words: UInt64[np.ndarray, "*N"]) -> UInt64[np.ndarray, "*N"]:
    """The finisher of splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return words ^ (words >> np.uint64(31))


# -- names


class Names(NamedTuple):
    """What a list of identifiers says.

    Attributes:
        bases: task ids, in order of first appearance ("<blank>" counts as one).
        base: number of the task id of each name, (N,) int32.
        versions: the version each name stands for; the identity where it is a plain id.
    """

    bases: list[str]
    base: Int[np.ndarray, "N"]
    versions: Versions


_TIDS = {f"t{tid}": tid for tid in range(dihedral.COUNT)}


def parse_names(names: Sequence[str]) -> Names:
    """Read identifiers: `<id>|||t<tid>|||<map>` (TRM), `<id>_t<tid>_<map>` (HRM), or a plain id.

    A map is ten digits: the new colour of each colour, 0 first.

    Raises:
        UserError: a name with `|||` is none of a version.
    """
    numbers: dict[str, int] = {}
    base, tids = np.empty(len(names), np.int32), np.empty(len(names), np.uint8)
    maps = []
    for i, name in enumerate(names):
        task_id, tid, colours = _parts(name)
        base[i] = numbers.setdefault(task_id, len(numbers))
        tids[i] = tid
        maps.append(colours)
    digits = np.frombuffer("".join(maps).encode(), np.uint8).reshape(-1, COLOURS) - ord("0")
    faulty = (np.sort(digits, axis=1) != np.arange(COLOURS)).any(axis=1) | (digits[:, :1] != 0).any(axis=1)
    if faulty.any():
        _misnamed(names[int(faulty.argmax())])
    return Names(list(numbers), base, Versions(tids, digits))


def _parts(name: str) -> tuple[str, int, str]:
    """Task id, symmetry and colour map of one name; the map is ten characters, not yet checked further."""
    if SEPARATOR in name:
        parts = name.split(SEPARATOR)
        if len(parts) != 3 or parts[1] not in _TIDS or not _is_map(parts[2]):
            _misnamed(name)
        return parts[0], _TIDS[parts[1]], parts[2]
    if "_" in name:
        parts = name.rsplit("_", 2)
        if len(parts) == 3 and parts[1] in _TIDS and _is_map(parts[2]):
            return parts[0], _TIDS[parts[1]], parts[2]
    return name, 0, PLAIN_MAP


def _is_map(text: str) -> bool:
    return len(text) == COLOURS and text.isascii() and text.isdigit()


def _misnamed(name: str) -> None:
    raise UserError(
        f"identifier {name!r}: expected <id>|||t<0 to 7>|||<the digits 0-9, each once, 0 first>. "
        "Rebuild the folder."
    )


# -- versions that share rows


def expand_groups(split: SplitArrays, identifiers: Sequence[str]) -> Groups:
    """Puzzles and groups of a split whose versions are only made when drawn.

    Every group gets one puzzle for each identifier of its task, the plain one first; all of them own the
    rows of the group's plain puzzle. A split that holds versions as rows is returned as it is.

    Args:
        split: rows with at least one puzzle a group.
        identifiers: all names; position = puzzle identifier.
    """
    starts, ids = split.group_indices.astype(np.int32), split.puzzle_identifiers.astype(np.int32)
    first, stop = split.puzzle_indices[:-1].astype(np.int32), split.puzzle_indices[1:].astype(np.int32)
    if len(starts) - 1 < len(ids):
        return Groups(first, stop, ids, starts)
    base = parse_names(identifiers).base
    order = np.argsort(base, kind="stable").astype(np.int32)  # identifiers task by task
    begin = np.searchsorted(base[order], base[ids])
    counts = np.searchsorted(base[order], base[ids], side="right") - begin
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    new_starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
    new_ids = order[np.repeat(begin, counts) + within]
    return Groups(np.repeat(first, counts), np.repeat(stop, counts), new_ids, new_starts)
