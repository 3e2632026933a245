"""ARC tasks from JSON: Kaggle-style pairs of files, and folders with one file for each task.

Unusual: the order of the keys in a task's object is kept, because the official builder trains on the
pairs in that order; and every fault of a file becomes one line that names file, task, pair and cell.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from glob import escape
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from jaxtyping import UInt8

from loopscope.errors import UserError
from loopscope.registry import did_you_mean

SIDE = 30  # a grid has at most that many rows and columns
COLOURS = 10
SEPARATOR = "|||"  # between the parts of a version's name
SPLITS = ("train", "test")
CHALLENGES, SOLUTIONS = "_challenges.json", "_solutions.json"


class Pair(NamedTuple):
    """One example: two grids of colours 0 to 9; `output` is None where it is not known."""

    input: UInt8[np.ndarray, "h w"]
    output: UInt8[np.ndarray, "H W"] | None


@dataclass(frozen=True, eq=False)
class ArcTask:
    """One ARC task.

    Attributes:
        id: its name, such as "007bbfb7".
        pairs: demonstrations ("train") and test pairs ("test"), both in the order of the file.
    """

    id: str
    pairs: Mapping[str, tuple[Pair, ...]]

    def as_json(self) -> dict[str, list[dict[str, list[list[int]]]]]:
        """The task as plain lists, keys in the order of the file; an unknown output is left out."""
        return {split: [_as_lists(pair) for pair in pairs] for split, pairs in self.pairs.items()}


def _as_lists(pair: Pair) -> dict[str, list[list[int]]]:
    known = {} if pair.output is None else {"output": pair.output.tolist()}
    return {"input": pair.input.tolist(), **known}


# -- finding


def subset_files(source: str | Path, subset: str) -> list[Path]:
    """The files of one subset: a file of challenges and perhaps its solutions, or one for each task.

    Looks for `<source>_<subset>_challenges.json` (with `_solutions.json` beside it, both plain or
    `.gz`), for such a pair of files inside the folder `source`, then for a folder of task files:
    `source/<subset>` or `source/data/<subset>`, as in the ARC-AGI repositories.

    Args:
        source: a folder, or the common beginning of the file names ("data/arc-agi").
        subset: "training", "evaluation2", "concept", ...
    Raises:
        UserError: there is no such subset, or more than one.
    """
    source = Path(source)
    is_folder = source.is_dir()
    folder, prefix = (source, "*") if is_folder else (source.parent, escape(source.name))
    pattern = f"{prefix}_{escape(subset)}{CHALLENGES}"
    found = [*sorted(folder.glob(pattern)), *sorted(folder.glob(pattern + ".gz"))]
    if len({path.name.removesuffix(".gz") for path in found}) > 1:
        names = ", ".join(path.name for path in found)
        raise UserError(f"{source}: several files hold {subset} ({names}). Give the prefix of one of them.")
    if found:
        solutions = _solutions_of(found[0])
        return [found[0], solutions] if solutions else [found[0]]
    for inner in (source / subset, source / "data" / subset):
        if is_folder and inner.is_dir():
            return task_files(inner)
    there = subsets_in(source)
    move = (
        did_you_mean(subset, there)
        if there
        else "Give the folder with the json files, or the start of their names."
    )
    raise UserError(f"{source}: no subset {subset!r}. {move}")


def task_files(folder: str | Path) -> list[Path]:
    """All JSON files of a folder and its subfolders (ConceptARC's concepts), in the order of task ids.

    Raises:
        UserError: there is none, or two have the same name.
    """
    files: dict[str, Path] = {}
    for path in sorted([*Path(folder).rglob("*.json"), *Path(folder).rglob("*.json.gz")]):
        other = files.setdefault(_task_id(path), path)
        if other != path:
            raise UserError(f"{path}: {other} is the same task id. Rename or remove one of the two.")
    if not files:
        raise UserError(f"{folder}: holds no .json file, expected one for each task. Check the path.")
    return [files[task_id] for task_id in sorted(files)]


def _task_id(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".json")


def _solutions_of(challenges: Path) -> Path | None:
    plain = challenges.with_name(challenges.name.removesuffix(".gz").replace(CHALLENGES, SOLUTIONS))
    zipped = plain.with_name(plain.name + ".gz")
    return next((path for path in (plain, zipped) if path != challenges and path.is_file()), None)


def subsets_in(source: str | Path) -> list[str]:
    """The names `read_subset` knows for this source, sorted."""
    source = Path(source)
    is_folder = source.is_dir()
    folder, prefix = (source, "") if is_folder else (source.parent, f"{source.name}_")
    files = [path.name.split(CHALLENGES)[0] for path in folder.glob(f"{escape(prefix)}*{CHALLENGES}*")]
    names = {name.rpartition("_")[2] if is_folder else name.removeprefix(prefix) for name in files}
    for parent in (source, source / "data"):
        if parent.is_dir():
            names |= {p.name for p in parent.iterdir() if p.is_dir() and next(p.rglob("*.json"), None)}
    return sorted(names)


# -- reading


def read_subset(source: str | Path, subset: str) -> list[ArcTask]:
    """All tasks of one subset; where they are looked for: see `subset_files`.

    Raises:
        UserError: there is no such subset, or a file is faulty.
    """
    files = subset_files(source, subset)
    return read_challenges(files[0]) if CHALLENGES in files[0].name else read_tasks(files)


def read_challenges(path: str | Path) -> list[ArcTask]:
    """Tasks of a file `..._challenges.json[.gz]`, in the order of the file.

    Where a file `..._solutions.json[.gz]` lies beside it, its grids are the outputs of the test pairs
    (they win over outputs in the challenges). Without it, outputs that are not there stay unknown.

    Raises:
        UserError: `FILE: task ID, ...` what is wrong and what to do.
    """
    path = Path(path)
    tasks = _object(path, "of task ids and tasks")
    if not tasks:
        raise UserError(f"{path}: holds no tasks. Check the file.")
    beside = _solutions_of(path)
    solutions = None if beside is None else _object(beside, "of task ids and output grids")
    read = []
    for task_id, content in tasks.items():
        task = _Reader(path, task_id).task(content)
        if beside is not None and solutions is not None:
            task = _Reader(beside, task_id).solved(task, solutions)
        read.append(task)
    return read


def read_tasks(files: Iterable[Path]) -> list[ArcTask]:
    """Tasks of files that hold one each; the name of the file is the task's id.

    Raises:
        UserError: `FILE: task ID, ...` what is wrong and what to do.
    """
    return [_Reader(path, _task_id(path)).task(_load(path)) for path in files]


def _load(path: Path) -> Any:
    def unique(items: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(items)
        if len(found) < len(items):
            twice = next(key for i, (key, _) in enumerate(items) if key in dict(items[:i]))
            raise UserError(f"{path}: key {twice!r} stands twice in one object. Remove one of the two.")
        return found

    try:
        raw = path.read_bytes()
        return json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw, object_pairs_hook=unique)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Check the path.") from None
    except EOFError:
        raise UserError(f"{path}: the gzip stream is cut off. Fetch the file again.") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: not readable as gzip ({error}). Fetch it again, or drop .gz.") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path} line {error.lineno}: no JSON ({error.msg}). Fetch the file again.") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: no text in UTF-8. A compressed file must end in .gz.") from None
    except (RecursionError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path}: JSON out of bounds ({error}). Check that it holds ARC tasks.") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Give a JSON file.") from None


def _object(path: Path, what: str) -> dict[str, Any]:
    value = _load(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds {_kind(value)}, expected an object {what}. Check the file.")
    return value


class _Reader:
    """Turns the JSON of one task into arrays; knows where it is, to say so when something is wrong."""

    def __init__(self, path: Path, task_id: str) -> None:
        self.path, self.id = path, task_id
        if not task_id or SEPARATOR in task_id or not task_id.isprintable():
            raise UserError(
                f"{path}: {task_id!r} is not a task id (empty, unprintable or with |||). Rename it."
            )

    def fail(self, what: str) -> NoReturn:
        raise UserError(f"{self.path}: task {self.id}, {what}. Fix the file or leave the task out.")

    def task(self, content: Any) -> ArcTask:
        if not isinstance(content, dict):
            self.fail(f"holds {_kind(content)}, expected an object with the keys train and test")
        for split in SPLITS:
            if not isinstance(content.get(split), list) or not content[split]:
                self.fail(f"key {split!r}: {_kind(content.get(split))}, expected a list of pairs")
        # Other keys ("name", ...) say nothing about the grids.
        return ArcTask(self.id, {k: tuple(self.pairs(k, v)) for k, v in content.items() if k in SPLITS})

    def pairs(self, split: str, items: list[Any]) -> Iterable[Pair]:
        for number, item in enumerate(items, start=1):
            where = f"{split} pair {number}"
            if not isinstance(item, dict) or "input" not in item:
                self.fail(f"{where}: {_kind(item)} without 'input', expected input and output")
            if split == "train" and "output" not in item:
                self.fail(f"{where}: has no 'output'")
            output = self.grid(f"{where}, output", item["output"]) if "output" in item else None
            yield Pair(self.grid(f"{where}, input", item["input"]), output)

    def solved(self, task: ArcTask, solutions: Mapping[str, Any]) -> ArcTask:
        """The task with the outputs of its test pairs."""
        tests, outputs = task.pairs["test"], solutions.get(self.id)
        if not isinstance(outputs, list):
            self.fail(f"solutions: {_kind(outputs)}, expected a list of {len(tests)} grids")
        if len(outputs) != len(tests):
            self.fail(f"{len(outputs)} solutions, expected one for each of its {len(tests)} test pairs")
        grids = [self.grid(f"solution {i}", grid) for i, grid in enumerate(outputs, start=1)]
        joined = tuple(pair._replace(output=grid) for pair, grid in zip(tests, grids, strict=True))
        return ArcTask(task.id, {**task.pairs, "test": joined})

    def grid(self, where: str, value: Any) -> UInt8[np.ndarray, "h w"]:
        if fault := _grid_fault(value):
            self.fail(f"{where}: {fault}")
        return np.array(value, np.uint8)


def _grid_fault(grid: Any) -> str | None:
    """What is wrong with a grid, in a few words; None when nothing is."""
    if not isinstance(grid, list) or not grid or not all(isinstance(row, list) and row for row in grid):
        return f"{_kind(grid)}, expected a list of rows, each a list of colours"
    for number, row in enumerate(grid, start=1):
        if len(row) != len(grid[0]):
            return f"row {number} has {len(row)} cells, row 1 has {len(grid[0])}"
    if max(len(grid), len(grid[0])) > SIDE:
        return f"{len(grid)} x {len(grid[0])} cells, expected at most {SIDE} x {SIDE}"
    # `type` and not isinstance: true and false are no colours.
    if set(map(type, chain.from_iterable(grid))) == {int}:
        cells = np.array(grid)
        if cells.min() >= 0 and cells.max() < COLOURS:
            return None
    row, col, cell = next(
        (i, j, cell)
        for i, row in enumerate(grid, start=1)
        for j, cell in enumerate(row, start=1)
        if type(cell) is not int or not 0 <= cell < COLOURS
    )
    return f"{_short(cell)} in row {row}, column {col}, expected a colour 0 to {COLOURS - 1}"


def _short(value: Any) -> str:
    text = json.dumps(value) if isinstance(value, float | str | bool | None) else _kind(value)
    if type(value) is int:
        text = str(value) if abs(value) < 10**9 else "a huge number"
    return text if len(text) <= 20 else text[:20] + "..."


def _kind(value: Any) -> str:
    """The kind of a JSON value, in words."""
    if value is None:
        return "nothing"
    words = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return "an empty list" if value == [] else words.get(type(value), "a number")
