"""Puzzle files: CSV (plain or gzip) with the columns `source,question,answer,rating`.

Unusual: fields are never stripped (a space is a free cell of a maze), all rows are checked at once
with arrays, and only a row that fails is looked at singly, to say in words what is wrong.
"""

from __future__ import annotations

import csv
import gzip
import io
import logging
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, NamedTuple, Protocol, cast, runtime_checkable

import numpy as np

from loopscope.errors import UserError
from loopscope.files import written_whole
from loopscope.tasks.base import PAD, TASKS, PuzzleSet, Task

COLUMNS = ("source", "question", "answer", "rating")
REMEDY = "Fix the row or pass --skip-invalid."
log = logging.getLogger("loopscope")


@runtime_checkable
class TextTask(Task, Protocol):
    """What a task offers so that its puzzles can be kept in a text file."""

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Texts of `seq_len` characters to tokens (N, L) uint8; a foreign character becomes 255."""
        ...

    def format(self, tokens: np.ndarray) -> str:
        """One row of tokens (L,) to text."""
        ...

    def facts(self, inputs: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
        """What can be counted on each solved puzzle, by name, (B,) each."""
        ...

    def complaint(self, question: str, answer: str = "") -> str | None:
        """What is wrong with a puzzle, in a few words, or None. An empty answer is not checked."""
        ...

    def solutions(self, inputs: np.ndarray, limit: int = 2) -> tuple[np.ndarray, np.ndarray]:
        """A solution of each puzzle (B, L) and the number of solutions counted up to `limit` (B,)."""
        ...


class _Rows(NamedTuple):
    """The raw fields column by column, the line each row ends on, and rows with a wrong number of fields."""

    columns: dict[str, list[str]]
    lines: list[int]
    ragged: dict[int, str]


class _Faults:
    """Collects faulty rows, or raises at the first."""

    def __init__(self, path: Path, lines: list[int], skip: bool) -> None:
        self.path, self.lines, self.skip = path, lines, skip
        self.sound = np.ones(len(lines), bool)
        self.first = ""

    def add(self, row: int, what: str) -> None:
        message = f"line {self.lines[row]}: {what}"
        if not self.skip:
            raise UserError(f"{self.path} {message}. {REMEDY}")
        self.sound[row] = False
        self.first = self.first or message

    def report(self) -> None:
        skipped, total = int((~self.sound).sum()), len(self.lines)
        if skipped == total:
            raise UserError(
                f"{self.path}: all {total} rows are invalid; {self.first}. Check the task and file."
            )
        if skipped:
            log.warning("%s: skipped %d of %d rows, such as %s", self.path, skipped, total, self.first)


def read_rows(
    path: str | Path,
    task: str | TextTask | None = None,
    limit: int | None = None,
    skip_invalid: bool = False,
    check_unique: bool = False,
) -> tuple[PuzzleSet, np.ndarray]:
    """Read and check a puzzle file, and tell which of its rows were kept.

    Args:
        path: a `.csv` or `.csv.gz` file with a header line. Columns `question` and `answer` are
            required, `source` and `rating` optional. An empty answer is filled in by the task's solver.
        task: a task name (the board follows from the row length) or a task; by default the first that
            can read the first rows.
        limit: take the first rows only.
        skip_invalid: leave faulty rows out, with one warning on the logger `loopscope`.
        check_unique: also demand exactly one solution, equal to the answer.
    Returns:
        The puzzles with labels; facts are those of the task (`givens` for Sudoku), and `source` and
        `rating` where the file has them. And for every row of the file whether it was kept, (rows,) bool.
    Raises:
        UserError: the file cannot be read, or `FILE line N:` what is wrong with a row.
    """
    path = Path(path)
    rows = _read_rows(path, limit)
    faults = _Faults(path, rows.lines, skip_invalid)
    for row, what in rows.ragged.items():
        faults.add(row, what)
    if not faults.sound.any():
        faults.report()
    board = _board(task or _kind(rows), rows, path) if not isinstance(task, TextTask) else task
    ratings = _ratings(rows, faults)
    inputs, labels = _checked(board, rows, faults)
    _fill_in(board, rows, inputs, labels, faults, check_unique)
    faults.report()
    facts = {"source": np.array(rows.columns["source"])} if "source" in rows.columns else {}
    facts |= {} if ratings is None else {"rating": ratings}
    kept = np.flatnonzero(faults.sound)
    inputs, labels = inputs[kept], labels[kept]
    facts = {name: fact[kept] for name, fact in facts.items()} | board.facts(inputs, labels)
    puzzles = PuzzleSet(board, inputs, labels, np.zeros(len(kept), np.int32), facts, path.name)
    return puzzles, faults.sound


# -- the file


@contextmanager
def _opened(path: Path) -> Iterator[IO[str]]:
    """The file as text; whatever is wrong with it becomes one line."""
    try:
        with open(path, "rb") as raw, gzip.open(raw) if path.suffix == ".gz" else raw as stream:
            yield io.TextIOWrapper(stream, encoding="utf-8-sig", newline="")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file. Check the path.") from None
    except EOFError:
        raise UserError(f"{path}: the gzip stream is cut off. Fetch the file again.") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: not readable as gzip ({error}). Fetch it again, or drop .gz.") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path}: not CSV text in UTF-8 ({error}). A compressed file must end in .gz."
        ) from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}). Give a .csv or .csv.gz file.") from None


def _read_rows(path: Path, limit: int | None) -> _Rows:
    fields: list[list[str]] = []
    lines: list[int] = []
    with _opened(path) as stream:
        reader = csv.reader(stream)
        header = _header(next(reader, None), path)
        for row in islice((row for row in reader if row), limit):  # blank lines are no rows
            fields.append(row)
            lines.append(reader.line_num)
    if not fields:
        raise UserError(
            f"{path}: holds no rows, expected puzzles below the header. Check the file or the limit."
        )
    ragged = {
        i: f"has {len(row)} fields, the header {len(header)}"
        for i, row in enumerate(fields)
        if len(row) != len(header)
    }
    for i in ragged:
        fields[i] = [""] * len(header)
    columns = dict(zip(header, map(list, zip(*fields, strict=True)), strict=True))
    return _Rows(columns, lines, ragged)


def _header(header: list[str] | None, path: Path) -> list[str]:
    if header is None:
        raise UserError(
            f"{path}: is empty, expected the header {','.join(COLUMNS)} and puzzles. Check the path."
        )
    for name in ("question", "answer"):
        if name not in header:
            mend = (
                "Put commas between the columns"
                if len(header) == 1 and name in header[0]
                else "Add the header line"
            )
            raise UserError(
                f"{path} line 1: no column {name}, expected the header {','.join(COLUMNS)}. {mend}."
            )
    return header


def _kind(rows: _Rows) -> str:
    """The name of a task in which one of the first questions makes sense; Sudoku where none does."""
    for question in rows.columns["question"][:20]:
        for name in TASKS:
            try:
                board = TASKS[name](len(question))
            except UserError:
                continue  # no board of that size
            if isinstance(board, TextTask) and board.complaint(question) is None:
                return name
    return "sudoku"


def _board(name: str, rows: _Rows, path: Path) -> TextTask:
    """The task of that name whose board has as many cells as most questions."""
    questions = (q for i, q in enumerate(rows.columns["question"]) if i not in rows.ragged)
    length = Counter(map(len, questions)).most_common(1)[0][0]
    try:
        board = TASKS[name](length)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return cast(TextTask, board)


# -- the checks


def _ratings(rows: _Rows, faults: _Faults) -> np.ndarray | None:
    """The column as numbers; None when it is absent or wholly empty."""
    texts = rows.columns.get("rating", [])
    if not any(texts):
        return None
    ratings = np.zeros(len(texts), np.int32)
    for i, text in enumerate(texts):
        if text.isascii() and text.isdecimal() and len(text) < 10:
            ratings[i] = int(text)
        elif i not in rows.ragged:
            faults.add(i, f"rating is {text!r}, expected a whole number")
    return ratings


def _checked(board: TextTask, rows: _Rows, faults: _Faults) -> tuple[np.ndarray, np.ndarray]:
    """Encode all rows and check them; faulty and unanswered rows stay PAD where nothing is known."""
    questions, answers = rows.columns["question"], rows.columns["answer"]
    sizes = np.array([(len(q), len(a)) for q, a in zip(questions, answers, strict=True)])
    inputs = _encoded(board, questions, sizes[:, 0] == board.seq_len)
    labels = _encoded(board, answers, sizes[:, 1] == board.seq_len)
    legible = (inputs > 0).all(1) & (labels > 0).all(1)
    good = np.zeros(len(inputs), bool)
    good[legible] = board.verify(inputs[legible], labels[legible])
    for i in np.flatnonzero(~good & faults.sound):
        if what := board.complaint(questions[i], answers[i]):
            faults.add(int(i), what)
        else:
            assert not answers[i], f"{board.name}: no complaint about row {i}, yet it fails"
    return inputs, labels


def _encoded(board: TextTask, texts: list[str], fits: np.ndarray) -> np.ndarray:
    """Tokens (N, L); a text of the wrong length and an unknown character become PAD."""
    tokens = np.zeros((len(texts), board.seq_len), np.uint8)
    tokens[fits] = board.encode([texts[i] for i in np.flatnonzero(fits)])
    tokens[tokens >= board.vocab_size] = PAD
    return tokens


def _fill_in(
    board: TextTask, rows: _Rows, inputs: np.ndarray, labels: np.ndarray, faults: _Faults, check_unique: bool
) -> None:
    """Solve the puzzles without answer, in place; with `check_unique` all, to count their solutions."""
    answered = np.array([bool(answer) for answer in rows.columns["answer"]])
    open_rows = np.flatnonzero(faults.sound & (~answered | check_unique))
    if not len(open_rows):
        return
    found, counts = board.solutions(inputs[open_rows])
    for i, count in zip(open_rows[counts != 1], counts[counts != 1], strict=True):
        faults.add(int(i), "the puzzle has no solution" if count == 0 else "the puzzle has several solutions")
    new = ~answered[open_rows]
    other = ~new & (counts == 1) & (found != labels[open_rows]).any(1)  # a maze's path with another tie-break
    for i in open_rows[other]:
        faults.add(int(i), "the answer is not the one that the solver gives")
    labels[open_rows[new]] = found[new]


# -- writing


def write_puzzles(puzzles: PuzzleSet, path: str | Path) -> None:
    """Write a puzzle file that `read_puzzles` reads back; equal puzzles give equal bytes.

    Facts `source` and `rating` are kept, others are not. Missing labels and ratings become empty fields.

    Args:
        path: ends in `.csv`, or in `.csv.gz` to compress.
    """
    board = cast(TextTask, puzzles.task)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    empty = [""] * len(puzzles)
    questions = map(board.format, puzzles.inputs)
    answers = empty if puzzles.labels is None else map(board.format, puzzles.labels)
    source, rating = (puzzles.facts.get(name, empty) for name in ("source", "rating"))
    writer.writerows(zip(source, questions, answers, rating, strict=True))
    content = text.getvalue().encode()
    if str(path).endswith(".gz"):
        content = gzip.compress(content, mtime=0)
    with written_whole(path) as beside:
        beside.write_bytes(content)
