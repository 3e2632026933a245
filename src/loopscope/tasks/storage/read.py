"""One function that reads puzzles wherever they are kept."""

from __future__ import annotations

from pathlib import Path

from loopscope.errors import UserError
from loopscope.tasks.base import PuzzleSet, Task
from loopscope.tasks.storage.csv_puzzles import TextTask, read_rows
from loopscope.tasks.storage.folder import read_folder
from loopscope.tasks.storage.shipped import puzzle_file


def read_puzzles(
    path: str | Path,
    task: str | Task | None = None,
    limit: int | None = None,
    skip_invalid: bool = False,
    check_unique: bool = False,
    split: str = "test",
) -> PuzzleSet:
    """Read and check puzzles.

    Args:
        path: a puzzle folder, ours or one of the official builders; a `.csv` or `.csv.gz` file with the
            columns `question` and `answer` and perhaps `source` and `rating`; or the name of shipped
            puzzles. An empty answer in a file is filled in by the task's solver.
        task: a task or its name; by default what is read tells it.
        limit: take the first rows only.
        skip_invalid: leave faulty rows of a file out, with one warning on the logger `loopscope`.
        check_unique: also demand exactly one solution, equal to the answer. This one and the one before are
            refused for a folder, whose rows were checked when it was built.
        split: which split of a folder; a file has none.
    Returns:
        The puzzles with labels; facts are those of the task (`givens` for Sudoku), and `source` and
        `rating` where they are known.
    Raises:
        UserError: there is nothing there, or what is there is damaged; names the file and mostly the row.
    """
    if Path(path).is_dir():
        if skip_invalid or check_unique:
            which = "skip_invalid" if skip_invalid else "check_unique"
            raise UserError(f"{path}: {which} is for files; a folder was checked when built. Leave it out.")
        return read_folder(path, split, task, limit)
    if task is not None and not isinstance(task, str | TextTask):
        raise UserError(f"{path}: {task.name} is not kept in puzzle files. Give a built folder.")
    return read_rows(puzzle_file(path), task, limit, skip_invalid, check_unique)[0]
