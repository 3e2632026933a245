"""Answers of one run, a row for each puzzle, as a table that other programs read.

Columns: `puzzle` (its number in the set), `key` (of the question, so that two files can be told to be about
the same puzzles), `segments`, `solved`, `cell_accuracy`, `halt_logit`, what the task checks without labels,
`answer`. ARC has a row for each test input, named by `task` and `test`.
"""

from __future__ import annotations

import gzip
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from loopscope.errors import UserError
from loopscope.evaluation.arc_votes import ATTEMPTS
from loopscope.evaluation.evaluate import Evaluation
from loopscope.files import sha256, written_whole
from loopscope.tasks.base import PuzzleSet, Task
from loopscope.tasks.storage.csv_puzzles import TextTask

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".csv", ".csv.gz", ".parquet")
FIRST = ("puzzle", "key", "segments", "solved")
LEFT_OUT = ("absorbed_accuracy", "cumulative_accuracy")  # scores that say nothing of the answer given


def check_target(path: str | Path) -> None:
    """Refuse a name that cannot be written; call it before long work.

    Raises:
        UserError: another suffix, or parquet without pyarrow.
    """
    if not str(path).endswith(SUFFIXES):
        raise UserError(f"{path}: expected a name that ends in {', '.join(SUFFIXES)}. Choose another.")
    if str(path).endswith(".parquet") and find_spec("pyarrow") is None:
        raise UserError(f"{path}: parquet needs pyarrow. Run pip install pyarrow, or choose a .csv name.")


def answer_table(evaluation: Evaluation, puzzles: PuzzleSet) -> pd.DataFrame:
    """The answers at the largest number of segments that was scored.

    Args:
        evaluation: of these puzzles, with answers; or one of ARC.
        puzzles: the set.
    """
    import pandas as pd

    segments = max(evaluation.outcomes)
    columns = dict(evaluation.outcomes[segments])
    if "task" in columns:
        known = pd.DataFrame(columns)
        known.insert(2, "segments", segments)
        known.insert(3, "solved", [rank is not None and 1 <= rank <= ATTEMPTS for rank in columns["rank"]])
        return known
    keys = [sha256(row.tobytes())[:16] for row in puzzles.inputs]
    head = [np.arange(len(keys)), keys, np.full(len(keys), segments), columns.pop("exact")]
    texts = [_text(puzzles.task, row) for row in columns.pop("answer")]
    kept = {name: column for name, column in columns.items() if name not in LEFT_OUT}
    return pd.DataFrame(dict(zip(FIRST, head, strict=True)) | kept | {"answer": texts})


def _text(task: Task, tokens: np.ndarray) -> str:
    return task.format(tokens) if isinstance(task, TextTask) else " ".join(map(str, tokens.tolist()))


def write_answers(path: str | Path, table: pd.DataFrame) -> None:
    """Write a table, whole or not at all; equal tables give equal bytes.

    Raises:
        UserError: see `check_target`.
    """
    check_target(path)
    with written_whole(path) as beside:
        if str(path).endswith(".parquet"):
            table.to_parquet(beside, index=False)
        else:
            text = table.to_csv(index=False).encode()
            beside.write_bytes(gzip.compress(text, mtime=0) if str(path).endswith(".gz") else text)


def read_solved(path: str | Path) -> tuple[list[tuple[str, ...]], np.ndarray]:
    """What a run solved: what each puzzle is (number and key, or ARC task), and whether it was, (N,) bool.

    An ARC task is one row here, solved when all its test inputs are.

    Raises:
        UserError: no such file, or none that `write_answers` wrote.
    """
    import pandas as pd

    check_target(path)
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file. Write one with loopscope eval --out.")
    try:
        text = dict.fromkeys(("task", "key", "answer"), str)
        is_table = str(path).endswith(".parquet")
        table = pd.read_parquet(path) if is_table else pd.read_csv(path, dtype=text)
        name = ["task"] if "task" in table else ["puzzle", "key"]
        solved = table.groupby(name, sort=False)["solved"].all()
        return [tuple(map(str, np.atleast_1d(key))) for key in solved.index], solved.to_numpy(bool)
    except (KeyError, ValueError, OSError, EOFError) as error:
        what = " ".join(str(error).split())[:80]
        raise UserError(
            f"{path}: not a table of answers ({what}). Write one with loopscope eval --out."
        ) from None
