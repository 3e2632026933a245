"""One puzzle from the command line: a Sudoku, a text file with a Sudoku or a maze, an ARC task file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from loopscope.errors import UserError

if TYPE_CHECKING:
    from loopscope.tasks import GridTask, PuzzleSet

FILES = (".txt", ".maze", ".json", ".gz", ".csv")
KINDS = "a Sudoku string, a text file with a Sudoku or a maze, or an ARC task (.json)"


def file_of(words: Sequence[str]) -> Path | None:
    """The file that the PUZZLE arguments name; None where they are the cells of a Sudoku.

    Raises:
        UserError: what looks like the name of a file, and is none.
    """
    text = words[0] if len(words) == 1 else ""
    path = Path(text)
    if text and len(text) < 256 and "\n" not in text and path.is_file():
        if path.name.removesuffix(".gz").endswith(".csv"):
            raise UserError(
                f"{text}: a table of puzzles, expected {KINDS}. Use loopscope eval --data {text}."
            )
        return path
    if path.suffix in FILES or "/" in text:
        raise UserError(f"{text}: no such file, expected {KINDS}. Check the path.")
    return None


def read_text_puzzle(words: Sequence[str], path: Path | None) -> PuzzleSet:
    """A Sudoku or a maze as a set of one, without its answer.

    Args:
        words: the arguments; the cells of a Sudoku, row by row, where there is no file.
        path: a text file. With a `#` or an `S` it is a maze: rows of `#`, space, `S` and `G`, all in one
            row if square. Else it holds the digits of a Sudoku.
    Raises:
        UserError: not a puzzle, in one line.
    """
    text = "\n".join(words) if path is None else _text(path)
    name = "the puzzle" if path is None else str(path)
    if path is not None and ("#" in text or "S" in text):
        return _alone(*_maze(text), name)
    from loopscope.tasks import Sudoku, sudoku_for

    cells = "".join(text.split())
    if not cells:
        raise UserError(f"{name}: is empty, expected {KINDS}. Give one.")
    try:
        task = sudoku_for(len(cells))
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
    assert isinstance(task, Sudoku)
    return _alone(task, cells, name)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise UserError(f"{path}: no text in UTF-8, expected {KINDS}. Check the file.") from None


def _maze(text: str) -> tuple[GridTask, str]:
    """The task and the cells; rows that an editor has cut short end in free cells."""
    from loopscope.tasks import Maze

    rows = text.strip("\r\n").splitlines()
    width = max(map(len, rows))
    side = math.isqrt(width)
    if len(rows) == 1 and side * side == width:
        return Maze(side, side), rows[0]
    return Maze(len(rows), width), "".join(row.ljust(width) for row in rows)


def _alone(task: GridTask | Any, cells: str, name: str) -> PuzzleSet:
    from loopscope.tasks import PuzzleSet

    if complaint := task.complaint(cells):
        raise UserError(f"{name}: {complaint}. Check the {'string' if name == 'the puzzle' else 'file'}.")
    return PuzzleSet(task, task.parse(cells)[None], None, np.zeros(1, np.int32), {}, name)


# -- ARC


def read_arc_puzzle(path: Path, model: Any, data: str | None) -> tuple[PuzzleSet, PuzzleSet, list[str]]:
    """The test inputs of an ARC task file, in all versions that the model knows.

    Args:
        path: one task, `{"train": [...], "test": [...]}`; its name is the id of the task.
        model: with a puzzle table.
        data: the folder it was trained with, whose `identifiers.json` names the rows of the table; None
            takes the one its recipe tells.
    Returns:
        The set for the vote, its plain version alone, and the names of all identifiers.
    Raises:
        UserError: what is missing, in one line.
    """
    from loopscope.tasks import Arc, PuzzleSet
    from loopscope.tasks.arc.files import read_tasks
    from loopscope.tasks.arc.versions import parse_names
    from loopscope.tasks.base import Groups

    [task] = read_tasks([path])
    names = _names(path, model, data)
    parsed = parse_names(names)
    if task.id not in names:
        raise UserError(
            f"{path}: task {task.id} has no row in the model's puzzle table ({len(names)} identifiers), and "
            "a row is all it knows of a task. Build a folder with this task and train on it."
        )
    ids = np.flatnonzero(parsed.base == parsed.bases.index(task.id)).astype(np.int32)
    tests = task.pairs["test"]
    inputs = Arc().encode([pair.input for pair in tests])
    labels = Arc().encode([pair.output for pair in tests])
    count = np.zeros(len(ids), np.int32)
    groups = Groups(count, count + np.int32(len(tests)), ids, np.array([0, len(ids)], np.int32))
    plain = np.full(len(tests), names.index(task.id), np.int32)  # the task as it is goes by its own id
    rows = PuzzleSet(Arc(), inputs, labels, plain, {}, str(path))
    vote = PuzzleSet(Arc(parsed.versions), inputs, labels, plain, {}, str(path), groups)
    return vote, rows, names


def _names(path: Path, model: Any, data: str | None) -> list[str]:
    from loopscope.tasks.storage.layout import read_identifiers

    s = model.settings
    if not s.puzzle_emb_ndim:
        raise UserError(
            f"{path}: the model has no puzzle table, so nothing tells it what the task asks. "
            "Give an ARC model."
        )
    if data is None:
        recipe = model.facts.get("recipe", {})
        known: Any = recipe.get("data", {}).get("path") if isinstance(recipe, dict) else None
        data = known[0] if isinstance(known, list | tuple) and len(known) == 1 else known
    if not isinstance(data, str) or not Path(data).is_dir():
        raise UserError(
            f"{path}: which row of the model's puzzle table the task has is not known here. "
            "Name the folder the model was trained with: --data FOLDER."
        )
    return read_identifiers(data)
