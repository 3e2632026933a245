"""Boards on a terminal: givens bold, what is wrong marked, the boards of a trace side by side.

Marks are characters as well as colours, so that nothing is lost in a file or to a colour-blind reader.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from rich.table import Table
from rich.text import Text

from loopscope.evaluation.solve import Answers
from loopscope.tasks.sudoku.board import FIRST_DIGIT, Sudoku

FRAME = "┌┬┐├┼┤└┴┘─│ \n"
CLASH, BROKEN = "!", "*"  # a cell that breaks a rule, a given that was changed
CAPTION = 25  # characters, the width of a 9x9 board
KEY = f"bold: given; {CLASH} breaks a rule; {BROKEN} changes a given"


def board(
    task: Sudoku, givens: np.ndarray, answer: np.ndarray, before: np.ndarray | None = None, style: str = ""
) -> Text:
    """One board.

    Args:
        task: the task.
        givens: the puzzle (L,).
        answer: what to draw (L,).
        before: an earlier answer; cells that differ from it are coloured.
        style: of the cells that are neither given nor marked.
    """
    drawn = list(task.render(answer))
    places = [i for i, symbol in enumerate(drawn) if symbol not in FRAME]
    assert len(places) == task.seq_len
    given = givens >= FIRST_DIGIT
    broken, clash = given & (answer != givens), task.conflicts(answer[None])[0]
    changed = np.zeros_like(given) if before is None else answer != before
    for cell, place in enumerate(places):
        if broken[cell] or clash[cell]:
            drawn[place + 1] = BROKEN if broken[cell] else CLASH
    text = Text("".join(drawn))
    for cell, place in enumerate(places):
        colour = "red" if broken[cell] or clash[cell] else "cyan" if changed[cell] else style
        text.stylize(f"{'bold ' if given[cell] else ''}{colour}".strip(), place, place + 2)
    return text


def trace(task: Sudoku, givens: np.ndarray, answers: Answers, width: int) -> Table:
    """The board after every segment that changed it, as many beside each other as `width` allows."""
    panels = list(_panels(task, givens, answers))
    columns = max(1, (width + 2) // (CAPTION + 2))
    grid = Table.grid(padding=(0, 2, 1, 0))
    for _ in range(columns):
        grid.add_column(width=CAPTION)
    for start in range(0, len(panels), columns):
        grid.add_row(*panels[start : start + columns])
    return grid


def _panels(task: Sudoku, givens: np.ndarray, answers: Answers) -> Iterator[Text]:
    assert answers.trace is not None
    assert answers.trace_halt_logit is not None
    assert answers.trace_residual is not None
    before = givens
    for t, answer in enumerate(answers.trace[0]):
        changed, clashes = int((answer != before).sum()), int(task.conflicts(answer[None]).sum())
        if changed:
            halt, residual = answers.trace_halt_logit[0, t], answers.trace_residual[0, t]
            yield Text.assemble(
                (f"segment {t + 1}\n", "bold"),
                f"{changed} changed, {clashes} clash\n",
                f"halt {halt:+.1f}, residual {residual:.2g}\n",
                board(task, givens, answer, before),
            )
        before = answer


def trace_summary(task: Sudoku, givens: np.ndarray, answers: Answers) -> str:
    """When the answer changed last, and when it became right."""
    assert answers.trace is not None
    boards = answers.trace[0]
    changed = np.flatnonzero((boards != np.stack([givens, *boards[:-1]])).any(1)) + 1
    last, total = (int(changed[-1]) if len(changed) else 0), len(boards)
    settled = (
        f"unchanged from segment {last + 1} to {total}"
        if last < total
        else f"still changing at segment {total}"
    )
    right = task.verify(np.stack([givens] * total), boards)
    found = f"first right after segment {int(right.argmax()) + 1}" if right.any() else "never right"
    return f"the answer is {settled}, {found}"
