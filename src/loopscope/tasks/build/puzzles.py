"""Builders of puzzle folders: from CSV files to the official layout. ARC has its own: arc.py.

What sets them apart from the official scripts: everything random follows from one seed, the manifest
records where every row came from, rows are checked, and by default no version is baked, because training
draws a fresh symmetry for every puzzle anyway. `compat="trm"` makes the very arrays of the official
scripts, down to the dtype, as if NumPy had been seeded before them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from loopscope.errors import UserError
from loopscope.tasks.base import FAMILY, PuzzleSet, Task, join
from loopscope.tasks.build import legacy
from loopscope.tasks.build.source import NOT_STATED, SourceFile, find_sources
from loopscope.tasks.maze import Maze
from loopscope.tasks.overlap import overlap
from loopscope.tasks.storage.csv_puzzles import TextTask, read_rows
from loopscope.tasks.storage.folder import check_target, write_folder
from loopscope.tasks.storage.layout import sizes
from loopscope.tasks.storage.split_arrays import SplitArrays
from loopscope.tasks.sudoku import Sudoku

SUBSET, VERSIONS = range(2)  # what a random stream is for: the second word of its seed
ROWS_AT_ONCE = 1 << 16
KEPT_FACTS = ("rating", "source", FAMILY)  # facts that the arrays do not tell
TRM = "trm"
log = logging.getLogger("loopscope")


@dataclass(frozen=True)
class Options:
    """What a build does with its source.

    Attributes:
        subsample: keep that many training puzzles, drawn at random.
        min_difficulty: leave out puzzles with a lower rating, in both splits.
        neighbours: generations of new training puzzles made by moving givens; Sudoku only. See
            `tasks.sudoku.neighbours`.
        augmentations: versions baked after each training puzzle. Mazes have 7, in a fixed order.
        relabel: recompute the labels of baked mazes by the tie-break rule; off turns them along.
        seed: of everything random.
        limit: read the first rows of each file only.
        skip_invalid: leave faulty rows out instead of refusing the file.
        check_unique: demand exactly one solution.
        compat: "trm" draws as the official scripts do (9x9 Sudoku and Maze); their mazes turn the labels.
        allow_leak: build although training questions stand in the test split, too.
        licence: a note for the manifest; by default what the data set's card says.
    """

    subsample: int | None = None
    min_difficulty: int | None = None
    neighbours: int = 0
    augmentations: int = 0
    relabel: bool = True
    seed: int = 0
    limit: int | None = None
    skip_invalid: bool = False
    check_unique: bool = False
    compat: str | None = None
    allow_leak: bool = False
    licence: str | None = None

    def __post_init__(self) -> None:
        if self.compat not in (None, TRM):
            raise UserError(f"compat={self.compat}: expected trm. Leave it out to build our own way.")
        least = {
            "subsample": 1,
            "limit": 1,
            "neighbours": 0,
            "augmentations": 0,
            "seed": 0,
            "min_difficulty": 0,
        }
        for name, bound in least.items():
            value = getattr(self, name)
            if value is not None and value < bound:
                raise UserError(f"{name}={value}: expected at least {bound}.")
        if self.compat and self.seed >= 2**32:
            raise UserError(f"seed={self.seed}: NumPy's old generator takes seeds below 2**32. Lower it.")


@dataclass(frozen=True)
class _Rows:
    """The puzzles of one split, and where each stands: number of the file, row below its header."""

    puzzles: PuzzleSet
    file: np.ndarray
    row: np.ndarray
    record: list[dict[str, Any]]

    def __getitem__(self, index: np.ndarray) -> _Rows:
        return _Rows(self.puzzles[index], self.file[index], self.row[index], self.record)


def build_sudoku(sources: Sequence[str | Path], out: str | Path, **options: Any) -> dict[str, Any]:
    """A Sudoku folder; see `build_puzzles`."""
    return build_puzzles("sudoku", sources, out, **options)


def build_maze(sources: Sequence[str | Path], out: str | Path, **options: Any) -> dict[str, Any]:
    """A maze folder; see `build_puzzles`."""
    return build_puzzles("maze", sources, out, **options)


def build_puzzles(
    task: str | TextTask,
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    test: Sequence[str | Path] = (),
    options: Options | None = None,
    overwrite: bool = False,
    progress: bool = False,
) -> dict[str, Any]:
    """Build a puzzle folder from puzzle files of any task that can be kept as text.

    A puzzle that a split holds twice stays; the manifest counts it.

    Args:
        task: its name (the board follows from the row length), or the task.
        sources: training puzzles: files, folders with `train.csv`, or `hf:owner/name[@revision]`.
        out: the folder to make.
        test: test puzzles; by default the `test.csv` beside each `train.csv`.
        options: by default, all rows as they are.
        overwrite: replace a folder that was built here.
        progress: show a bar.
    Returns:
        The manifest.
    Raises:
        UserError: `out` exists, a source is missing or faulty, or options do not fit the puzzles.
    """
    options = options or Options()
    options = replace(options, relabel=options.relabel and not options.compat)
    check_target(out, overwrite)
    found = find_sources(sources, test)
    kinds = {"train": found.train} | ({"test": found.test} if found.test else {})
    read = {name: _read(files, task, options, progress) for name, files in kinds.items()}
    board = read["train"].puzzles.task
    join([rows.puzzles[:0] for rows in read.values()])  # refuses splits of different boards
    old = np.random.RandomState(options.seed) if options.compat else None
    chosen = _choose(len(read["train"].puzzles), options, old)
    if chosen is not None:
        read["train"] = read["train"][chosen]
    if options.neighbours:
        read["train"] = _with_neighbours(read, options, progress)
    leak = _leak(read, options.allow_leak, progress)
    train = _with_versions(board, read["train"].puzzles, options, old, progress)
    splits = {name: train if name == "train" else as_split(r.puzzles) for name, r in read.items()}
    manifest = {
        "builder": board.name.partition("-")[0],
        "seed": options.seed,
        "options": {k: v for k, v in asdict(options).items() if k not in ("seed", "licence")},
        "licence": options.licence or found.licence or NOT_STATED,
        "sources": {name: rows.record for name, rows in read.items()},
        "counts": {name: _counts(split, read[name].puzzles) for name, split in splits.items()},
        "leaks": {"up_to_symmetry": leak} if leak else None,
    }
    write_folder(
        out,
        board,
        splits,
        manifest=manifest,
        subset=None if chosen is None else _subset(read["train"]),
        facts={
            name: {k: v for k, v in r.puzzles.facts.items() if k in KEPT_FACTS} for name, r in read.items()
        },
        overwrite=overwrite,
    )
    return manifest


# -- reading and choosing


def _read(files: Sequence[SourceFile], task: str | TextTask, options: Options, progress: bool) -> _Rows:
    """All files of a split, too easy puzzles left out."""
    sets, file, row, record = [], [], [], []
    bar = tqdm(files, desc="reading", unit="file", disable=not progress or len(files) < 2)
    for number, source in enumerate(bar):
        puzzles, sound = read_rows(
            source.path, task, options.limit, options.skip_invalid, options.check_unique
        )
        rows = np.flatnonzero(sound)
        hard = _hard_enough(puzzles, source.path, options.min_difficulty)
        sets.append(puzzles if hard.all() else puzzles[hard])
        file.append(np.full(int(hard.sum()), number))
        row.append(rows[hard])
        left_out = {"invalid": np.flatnonzero(~sound).tolist(), "too_easy": int((~hard).sum())}
        record.append({**source.record(), "rows": len(sound), "left_out": left_out})
    puzzles = join(sets)
    if not len(puzzles):
        names = ", ".join(source.name for source in files)
        raise UserError(f"{names}: no puzzle is rated {options.min_difficulty} or more. Lower it.")
    return _Rows(puzzles, np.concatenate(file), np.concatenate(row), record)


def _hard_enough(puzzles: PuzzleSet, path: Path, least: int | None) -> np.ndarray:
    if least is None:
        return np.ones(len(puzzles), bool)
    if "rating" not in puzzles.facts:
        raise UserError(f"{path}: has no ratings to select by. Leave out --min-difficulty.")
    return puzzles.facts["rating"] >= least


def _choose(count: int, options: Options, old: np.random.RandomState | None) -> np.ndarray | None:
    """Rows of a random subset; None for all. In the order drawn if official, else in that of the source."""
    size = options.subsample
    if size is None or size >= count:
        if size is not None and size > count:
            log.warning("subsample=%d, but there are only %d puzzles: all are taken", size, count)
        return None
    if old is not None:
        return legacy.subset(count, size, old)
    return np.sort(np.random.default_rng([options.seed, SUBSET]).permutation(count)[:size])


def _with_neighbours(read: dict[str, _Rows], options: Options, progress: bool) -> _Rows:
    """The training puzzles and those that moved givens lead to, none of which is a test puzzle."""
    rows = read["train"]
    if not isinstance(rows.puzzles.task, Sudoku) or options.compat:
        other = f"compat={options.compat}" if options.compat else rows.puzzles.task.name
        raise UserError(f"neighbours={options.neighbours}: {other} has none. Leave it out.")
    from loopscope.tasks.sudoku.neighbours import neighbours, without

    new = neighbours(rows.puzzles, options.neighbours, np.random.default_rng(options.seed), progress)
    new = without(new, [read[name].puzzles for name in read if name != "train"], progress)
    none = np.full(len(new), -1)
    return _Rows(
        join([rows.puzzles, new]), np.append(rows.file, none), np.append(rows.row, none), rows.record
    )


def _subset(rows: _Rows) -> dict[str, Any]:
    return {
        "about": "group g of the training split is row row[g] (0: the first below the header) "
        "of file files[file[g]]; -1: none, a neighbour made of them",
        "files": [record["name"] for record in rows.record],
        "file": rows.file.tolist(),
        "row": rows.row.tolist(),
    }


def _counts(split: SplitArrays, puzzles: PuzzleSet) -> dict[str, int]:
    """Sizes of a split, and how many of its questions stand there a second time."""
    return {**sizes(split), "duplicates": len(puzzles) - len(_questions(puzzles))}


def _questions(puzzles: PuzzleSet) -> set[bytes]:
    return {row.tobytes() for row in puzzles.inputs}


def _leak(read: dict[str, _Rows], allow: bool, progress: bool) -> int:
    """How many test puzzles are training puzzles too, up to symmetry; refused unless allowed."""
    if "test" not in read:
        return 0
    test = read["test"].puzzles
    pairs = overlap(read["train"].puzzles, test, progress)
    if len(pairs) and not allow:
        raise UserError(
            f"{test.name}: {len(pairs)} of {len(test)} test puzzles are in training too, up to symmetry. "
            "Choose other files, or pass --allow-leak."
        )
    if len(pairs):
        log.warning("%d of %d test puzzles are training puzzles too: scores mislead", len(pairs), len(test))
    return len(pairs)


# -- versions


def as_split(puzzles: PuzzleSet) -> SplitArrays:
    """Every row a group of its own."""
    assert puzzles.labels is not None
    return _grouped(puzzles.inputs, puzzles.labels, 1)


def _grouped(inputs: np.ndarray, labels: np.ndarray, size: int) -> SplitArrays:
    """One example a puzzle, `size` puzzles a group, no identifiers."""
    ends = np.arange(len(inputs) + 1, dtype=np.int32)
    return SplitArrays(inputs, labels, np.zeros(len(inputs), np.int32), ends, ends[::size].copy())


def _with_versions(
    task: Task, puzzles: PuzzleSet, options: Options, old: np.random.RandomState | None, progress: bool
) -> SplitArrays:
    """The training split: each puzzle as it is, then its versions."""
    inputs, labels, count = puzzles.inputs, puzzles.labels, options.augmentations
    assert labels is not None
    if isinstance(task, Maze):
        if count:
            inputs, labels = _maze_versions(task, inputs, labels, options)
        return _grouped(inputs, labels, 1 + count)
    if old is not None and (task.name != "sudoku-3x3"):
        raise UserError(
            f"compat={TRM}: the official script builds sudoku-3x3, not {task.name}. Leave it out."
        )
    if not count:
        return as_split(puzzles)
    if old is not None:
        rows = tqdm(range(len(inputs)), desc="versions", unit="puzzle", disable=not progress)
        return _grouped(*legacy.sudoku_versions(inputs, labels, count, old, rows), 1 + count)
    return _grouped(*_random_versions(task, inputs, labels, options, progress), 1 + count)


def _random_versions(
    task: Task, inputs: np.ndarray, labels: np.ndarray, options: Options, progress: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Each row, then as many random symmetric copies of it as asked for."""
    count, (rows, cells) = options.augmentations, inputs.shape
    pair = [np.empty((rows, 1 + count, cells), np.uint8) for _ in range(2)]
    rng = np.random.default_rng([options.seed, VERSIONS])
    step = max(1, ROWS_AT_ONCE // count)
    with tqdm(total=rows, desc="versions", unit="puzzle", disable=not progress) as bar:
        for start in range(0, rows, step):
            block = slice(start, min(start + step, rows))
            source = [np.repeat(tokens[block], count, 0) for tokens in (inputs, labels)]
            made = task.augment(source[0], source[1], rng)
            for new, tokens, versions in zip(pair, (inputs, labels), made, strict=True):
                new[block, 0] = tokens[block]
                new[block, 1:] = versions.reshape(-1, count, cells)
            bar.update(block.stop - start)
    return pair[0].reshape(-1, cells), pair[1].reshape(-1, cells)


def _maze_versions(
    task: Maze, inputs: np.ndarray, labels: np.ndarray, options: Options
) -> tuple[np.ndarray, np.ndarray]:
    """Each maze, then its turns and mirror images in the official order."""
    most = len(task.symmetries) - 1
    count = options.augmentations
    if count > most or (options.compat and count != most):
        expected = str(most) if options.compat else f"0 to {most}"
        raise UserError(f"augmentations={count}: {task.name} has {most} other versions. Give {expected}.")
    orders, cells = task.cell_orders[: 1 + count], task.seq_len
    mazes, answers = (tokens[:, orders].reshape(-1, cells) for tokens in (inputs, labels))
    if options.relabel:
        own = answers[:: 1 + count].copy()
        answers = task.solutions(mazes)[0]
        answers[:: 1 + count] = own  # the source's label stays, whatever its tie-break
    return mazes, answers


__all__ = ["Options", "as_split", "build_maze", "build_puzzles", "build_sudoku"]
