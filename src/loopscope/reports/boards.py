"""Boards as SVG: the givens, the answer, and the wrong cells framed."""

from __future__ import annotations

import math
from html import escape

import numpy as np

from loopscope.reports.measurement import Measurement
from loopscope.tasks.base import BLANK, PAD
from loopscope.tasks.sudoku.board import DIGITS

CELL = 20  # svg units
SYMBOLS = {"sudoku": " " + " " + DIGITS, "maze": " # SGo", "arc": "  0123456789"}  # by token


def token_text(task: str, token: int) -> str:
    """What a token looks like on a board; a number where the task is not known."""
    symbols = SYMBOLS.get(task.split("-")[0])
    if symbols is not None and token < len(symbols):
        return symbols[token].strip()
    return "" if token in (PAD, BLANK) else str(token)


def board_svg(inputs: np.ndarray, labels: np.ndarray, answer: np.ndarray, task: str = "") -> str:
    """One board; tokens are (L,) each, drawn as the name of a maze says, else as a square where L is one,
    else as a single row.

    Cells that the input gives are bold; wrong cells are framed and carry, small, the right content too.
    Cells with label 0 do not count and are never wrong.
    """
    rows, columns = _shape(len(answer), task)
    cells = [
        _cell(i % columns, i // columns, int(inputs[i]), int(labels[i]), int(answer[i]), task)
        for i in range(len(answer))
    ]
    wrong = int(((answer != labels) & (labels != PAD)).sum())
    words = f"board of {rows} by {columns} cells, {wrong} wrong"
    view = f"-1 -1 {columns * CELL + 2} {rows * CELL + 2}"
    return (
        f'<svg class="board" role="img" aria-label="{words}" viewBox="{view}" xmlns="http://www.w3.org/2000/svg">'
        f"{''.join(cells)}{_lines(rows, columns, task)}</svg>"
    )


def _shape(cells: int, task: str) -> tuple[int, int]:
    """Rows and columns of a board; the name of a maze tells them (maze-4x9)."""
    if task.startswith("maze-"):
        rows, columns = (int(part) for part in task.removeprefix("maze-").split("x"))
        return rows, columns
    side = math.isqrt(cells)
    return (side, side) if side * side == cells else (1, cells)


def _cell(column: int, row: int, given: int, label: int, answer: int, task: str) -> str:
    x, y = column * CELL, row * CELL
    centre = f'x="{x + CELL / 2:g}" y="{y + CELL * 0.7:g}"'
    text = escape(token_text(task, answer))
    is_given = given == answer and (task.startswith("maze-") or given not in (PAD, BLANK))
    if label != PAD and answer != label:
        right = escape(token_text(task, label))
        return (
            f'<rect class="wrong" x="{x + 1}" y="{y + 1}" width="{CELL - 2}" height="{CELL - 2}"/>'
            f'<text class="bad" {centre}>{text or "·"}</text>'
            f'<text class="right" x="{x + CELL - 2.5:g}" y="{y + CELL - 2.5:g}">{right}</text>'
        )
    if not text:
        return ""
    return f'<text class="{"given" if is_given else "found"}" {centre}>{text}</text>'


def _lines(rows: int, columns: int, task: str) -> str:
    """The grid; heavier lines around sudoku boxes, as the task's name gives them (sudoku-2x3)."""
    tall, wide = rows, columns
    if task.startswith("sudoku-"):
        tall, wide = (int(part) for part in task.removeprefix("sudoku-").split("x"))
    width, height = columns * CELL, rows * CELL
    upright = [(f"M{c * CELL} 0V{height}", c % wide == 0) for c in range(columns + 1)]
    level = [(f"M0 {r * CELL}H{width}", r % tall == 0) for r in range(rows + 1)]
    thin = "".join(path for path, heavy in upright + level if not heavy)
    thick = "".join(path for path, heavy in upright + level if heavy)
    return f'<path class="thin" d="{thin}"/><path class="thick" d="{thick}"/>'


def chosen_boards(m: Measurement) -> dict[str, int]:
    """The middle success and the middle failure by share of right cells; rows of the dataset."""
    if not all(name in m for name in ("inputs", "labels", "answer")):
        return {}
    answers, labels = m.array("answer"), m.array("labels")
    wrong_cells = ((answers != labels) & (labels != PAD)).sum(axis=1)
    chosen = {}
    for name, among in (("a success", wrong_cells == 0), ("a failure", wrong_cells > 0)):
        found = np.flatnonzero(among)
        if len(found):
            chosen[name] = int(found[np.argsort(wrong_cells[found], kind="stable")[len(found) // 2]])
    return chosen
