"""Puzzle folders in the layout of the official TRM and HRM code, written and read.

    DIR/identifiers.json, manifest.json, subset.json, test_puzzles.json (ARC)
    DIR/{train,test}/dataset.json
    DIR/{train,test}/all__{inputs,labels,puzzle_identifiers,puzzle_indices,group_indices}.npy
    DIR/{train,test}/facts__<name>.npy      one value per group; ours, the official loader ignores it

Unusual: arrays are memory-mapped, so a folder of several GB opens at once and shares its memory between
processes; nothing in a folder is trusted before it is checked; no file holds a time stamp, so equal
content means equal bytes. Folders of HRM's builder lack `total_puzzles`, those of TRM's Sudoku builder
hold int64 tokens: both are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from loopscope.errors import UserError
from loopscope.files import written_whole
from loopscope.provenance import package_version
from loopscope.registry import did_you_mean
from loopscope.tasks.base import PAD, TASKS, Groups, PuzzleSet, Task
from loopscope.tasks.grid import GridTask
from loopscope.tasks.storage.csv_puzzles import TextTask
from loopscope.tasks.storage.layout import (
    FACTS_LIMIT,
    FORMAT_VERSION,
    IDENTIFIERS,
    MANIFEST,
    METADATA,
    SUBSET,
    TEST_PUZZLES,
    Metadata,
    check_structure,
    read_arrays,
    read_facts,
    read_identifiers,
    read_manifest,
    read_metadata,
    read_tokens,
    row_blocks,
    wrong,
)
from loopscope.tasks.storage.split_arrays import SplitArrays
from loopscope.tasks.sudoku import Sudoku

BLANK_NAME = "<blank>"  # name of identifier 0
DRAWN = "drawn"  # `versions` in the manifest: they are no rows, they are made when drawn
ARC_SHAPE, MAZE_TOKENS = (900, 12), 6  # (cells, tokens), tokens: what tells official folders apart


# -- writing


def check_target(out: str | Path, overwrite: bool = False) -> None:
    """Refuse a folder that must not be replaced; call it before long work.

    Raises:
        UserError: `out` exists, and `overwrite` is off or the folder was not written by us; or it is the
            folder one is in.
    """
    out = Path(out)
    if Path.cwd().is_relative_to(out.resolve()):
        raise UserError(f"{out}: is the folder you are in. Name a new one.")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    ours = (out / MANIFEST).is_file() and (out / IDENTIFIERS).is_file()
    if not ours:
        raise UserError(
            f"{out}: exists and is not a puzzle folder written by loopscope. Choose another place."
        )
    if not overwrite:
        raise UserError(f"{out}: exists already. Choose another place or pass --overwrite.")


def write_folder(
    out: str | Path,
    task: Task,
    splits: Mapping[str, SplitArrays],
    *,
    identifiers: Sequence[str] = (BLANK_NAME,),
    manifest: Mapping[str, Any] | None = None,
    subset: Mapping[str, Any] | None = None,
    test_puzzles: Mapping[str, Any] | None = None,
    facts: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a puzzle folder, whole or not at all; equal arguments give equal bytes.

    Args:
        out: the folder to make.
        task: what the puzzles are; its name goes into the manifest.
        splits: "train" and "test", or one of them; dtypes are kept as they are.
        identifiers: name of every puzzle identifier, the first `<blank>`.
        manifest: what `manifest.json` shall say beside format and task.
        subset: `subset.json`, the rows of a random draw.
        test_puzzles: `test_puzzles.json`, the grids of the tasks under test (ARC).
        facts: per split, facts by name with one value per group.
        overwrite: replace a folder that was written here.
    Raises:
        UserError: see `check_target`.
    """
    check_target(out, overwrite)
    head = {"format": "loopscope puzzle folder", "format_version": FORMAT_VERSION}
    head |= {"loopscope": package_version("loopscope"), "task": task.name}
    with written_whole(out) as beside:
        beside.mkdir()
        for name, split in splits.items():
            assert len(split.puzzle_identifiers) == len(split.puzzle_indices) - 1 == split.group_indices[-1]
            _write_split(beside / name, task, split, len(identifiers), (facts or {}).get(name, {}))
        _dump(beside / IDENTIFIERS, list(identifiers))
        if test_puzzles is not None:
            _dump(beside / TEST_PUZZLES, test_puzzles)
        if subset is not None:
            _dump(beside / SUBSET, subset)
        _dump(beside / MANIFEST, {**head, **(manifest or {})}, indent=2)


def _write_split(
    folder: Path, task: Task, split: SplitArrays, num_names: int, facts: Mapping[str, np.ndarray]
) -> None:
    folder.mkdir()
    for name, array in split._asdict().items():
        np.save(folder / f"all__{name}.npy", array)
    for name, fact in facts.items():
        assert len(fact) == len(split.group_indices) - 1, name
        text = fact.dtype.kind == "U"
        np.save(folder / f"facts__{name}.npy", np.char.encode(fact, "utf-8") if text else fact)
    _dump(folder / METADATA, asdict(metadata_of(task, split, num_names)))


def metadata_of(task: Task, split: SplitArrays, num_names: int) -> Metadata:
    """What the official builders write beside such arrays.

    Where puzzles have no identifiers of their own (Sudoku, Maze) they put the number of groups into
    `total_puzzles`, else the number of puzzles.
    """
    groups, puzzles = len(split.group_indices) - 1, len(split.puzzle_identifiers)
    return Metadata(
        pad_id=PAD,
        ignore_label_id=PAD,
        blank_identifier_id=0,
        vocab_size=task.vocab_size,
        seq_len=task.seq_len,
        num_puzzle_identifiers=num_names,
        total_groups=groups,
        mean_puzzle_examples=len(split.inputs) / puzzles,
        total_puzzles=groups if num_names == 1 else puzzles,
        sets=["all"],
    )


def _dump(path: Path, value: Any, indent: int | None = None) -> None:
    path.write_text(json.dumps(value, indent=indent), encoding="utf-8")


# -- reading


def splits_in(path: str | Path) -> list[str]:
    """The splits of a puzzle folder, "train" first; empty where there is none."""
    found = {file.parent.name for file in Path(path).glob(f"*/{METADATA}")}
    return sorted(found, key=lambda name: (name != "train", name))


def read_folder(
    path: str | Path, split: str = "test", task: str | Task | None = None, limit: int | None = None
) -> PuzzleSet:
    """Read one split of a puzzle folder, ours or one of the official builders.

    Args:
        path: the folder that holds `train/` and `test/`.
        split: which of them.
        task: a task or its name; by default the manifest, or else sizes and tokens, tell it.
        limit: take the first rows only; they lose their groups.
    Returns:
        The puzzles with their groups (None where every row is one), tokens memory-mapped. Facts are those
        stored per group (a version of a puzzle has those of its source) and, in sets of up to 500,000
        rows, texts and those of the task.
    Raises:
        UserError: a file is missing or damaged, or the files contradict each other.
    """
    root = Path(path)
    folder = _split_folder(root, split)
    meta = read_metadata(folder)
    manifest = read_manifest(root)
    board = _task_of(folder, meta, manifest, task)
    arrays = read_arrays(folder)
    check_structure(folder, meta, arrays)
    _check_names(root, meta)
    groups = _groups(arrays)
    if manifest.get("versions") == DRAWN and board.name.startswith("arc-"):
        board, groups = _versions_to_draw(root, meta, arrays)
    count = len(arrays.inputs) if limit is None else min(limit, len(arrays.inputs))
    inputs = read_tokens(folder, "inputs", arrays.inputs[:count], meta)
    labels = read_tokens(folder, "labels", arrays.labels[:count], meta)
    facts = {name: fact[:count] for name, fact in read_facts(folder, arrays).items()}
    if count <= FACTS_LIMIT and isinstance(board, TextTask):
        facts |= board.facts(inputs, labels)
    ids = np.repeat(arrays.puzzle_identifiers, np.diff(arrays.puzzle_indices))[:count].astype(np.int32)
    whole = count == len(arrays.inputs)
    return PuzzleSet(
        board, inputs, labels, ids, facts, f"{root.resolve().name}/{split}", groups if whole else None
    )


def check_rules(puzzles: PuzzleSet) -> np.ndarray:
    """Row numbers of the puzzles whose label breaks the rules or changes a given, (K,) int64.

    ARC has no rules to check, so none there.
    """
    assert puzzles.labels is not None, "nothing to check without labels"
    if puzzles.task.name.startswith("arc-"):
        return np.empty(0, np.int64)
    faulty = [
        start + np.flatnonzero(~puzzles.task.verify(puzzles.inputs[start:stop], puzzles.labels[start:stop]))
        for start, stop in row_blocks(puzzles.inputs)
    ]
    return np.concatenate([*faulty, np.empty(0, np.int64)]).astype(np.int64)


def _split_folder(root: Path, split: str) -> Path:
    if not root.is_dir():
        raise wrong(root, "no such folder", "Check the path.")
    if (root / split / METADATA).is_file():
        return root / split
    there = sorted(file.parent.name for file in root.glob("*/dataset.json"))
    if there:
        raise wrong(root, f"has no split {split!r}", did_you_mean(split, there))
    above = "Give the folder above." if (root / METADATA).exists() else "Check the path."
    raise wrong(root, f"no {split}/dataset.json, so no puzzle folder", above)


# -- the task


def _task_of(folder: Path, meta: Metadata, manifest: Mapping[str, Any], task: str | Task | None) -> Task:
    said = manifest.get("task")
    if said and isinstance(task, str) and task != said and not said.startswith(f"{task}-"):
        kind = said.partition("-")[0]
        raise wrong(folder, f"holds {said}, not {task}", f"Say {kind}, in a recipe data.task={kind}.")
    wanted = said if said and (task is None or isinstance(task, str)) else task or _guess(meta)
    if wanted is None:
        known = ", ".join(sorted(TASKS))
        raise wrong(
            folder / METADATA,
            f"{meta.seq_len} cells with {meta.vocab_size} tokens fit no task known here",
            f"Name the task ({known}).",
        )
    try:
        board = task_named(wanted, meta.seq_len) if isinstance(wanted, str) else wanted
    except UserError as error:
        raise UserError(f"{folder / 'dataset.json'}: {error}") from None
    if (board.seq_len, board.vocab_size) != (meta.seq_len, meta.vocab_size):
        raise wrong(
            folder / METADATA,
            f"seq_len {meta.seq_len} and vocab_size {meta.vocab_size}, but {board.name} has "
            f"{board.seq_len} and {board.vocab_size}",
            "Name the right task, or build the folder again.",
        )
    return board


def task_named(name: str, cells: int) -> Task:
    """The task of a full name (`sudoku-2x3`) or a bare one (`sudoku`), with that many cells.

    Raises:
        UserError: no such task, or none with that many cells.
    """
    bare = name if name in TASKS else name.rpartition("-")[0] or name
    rows, _, cols = name.removeprefix(f"{bare}-").partition("x")
    if name == bare or not (rows.isdecimal() and cols.isdecimal() and len(rows + cols) < 7):
        return TASKS[bare](cells)
    if bare == "sudoku":
        return Sudoku(int(rows), int(cols))
    square = TASKS[bare](max(int(rows), int(cols)) ** 2)
    return replace(square, rows=int(rows), cols=int(cols)) if isinstance(square, GridTask) else square


def _guess(meta: Metadata) -> str | None:
    """The official folders do not say what they hold. 4x4 Sudoku and 4x4 mazes look alike: Sudoku."""
    side = math.isqrt(meta.seq_len)
    if (meta.seq_len, meta.vocab_size) == ARC_SHAPE:
        return "arc"
    if side * side != meta.seq_len:
        return None
    if meta.vocab_size == side + 2:
        return "sudoku"
    return "maze" if meta.vocab_size == MAZE_TOKENS else None


def _check_names(root: Path, meta: Metadata) -> None:
    """As many names as identifiers; a set without identifiers of its own may lack the file."""
    if meta.num_puzzle_identifiers == 1 and not (root / IDENTIFIERS).exists():
        return
    if (count := len(read_identifiers(root))) != meta.num_puzzle_identifiers:
        raise wrong(root / IDENTIFIERS, f"{count} names, but dataset.json says {meta.num_puzzle_identifiers}")


def _groups(arrays: SplitArrays) -> Groups | None:
    """None where every row is a group of its own."""
    if len(arrays.group_indices) - 1 == len(arrays.inputs):
        return None
    index, ids = arrays.puzzle_indices.astype(np.int32), arrays.puzzle_identifiers.astype(np.int32)
    return Groups(index[:-1], index[1:], ids, arrays.group_indices.astype(np.int32))


def _versions_to_draw(root: Path, meta: Metadata, arrays: SplitArrays) -> tuple[Task, Groups]:
    """ARC sets that hold plain rows only: each identifier names a version, to be made when drawn."""
    from loopscope.tasks.arc.board import Arc
    from loopscope.tasks.arc.versions import expand_groups, parse_names

    identifiers = read_identifiers(root)
    try:
        task = Arc(parse_names(identifiers).versions, untranslated=min(1.0, 1 / meta.mean_puzzle_examples))
    except UserError as error:
        raise UserError(f"{root / IDENTIFIERS}: {error}") from None
    return task, expand_groups(arrays, identifiers)
