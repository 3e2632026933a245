"""Boards on a terminal: what is wrong marked, and the boards of a trace, side by side where they fit.

Marks are characters as well as colours, so that nothing is lost in a file or to a colour-blind reader.
Every cell is two characters wide, so that it looks square.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table
from rich.text import Text

from loopscope.evaluation.solve import Answers
from loopscope.tasks import Arc, Maze, PuzzleSet, Sudoku, Task
from loopscope.tasks.arc.board import FIRST_COLOUR, PALETTE
from loopscope.tasks.faults import broken_cells, changed_givens, is_right
from loopscope.tasks.maze.board import GOAL, PATH, START, WALL
from loopscope.tasks.sudoku.board import FIRST_DIGIT

FRAME = "┌┬┐├┼┤└┴┘─│ \n"
CLASH, BROKEN, NEW, GONE = "!", "*", "+", "-"
CAPTION = 25  # characters, the width of a 9x9 board
BAR = 20  # characters for a change of the latent of 1; none for one of 1e-4
DRIFT = "\nsure: halt logit as a probability; drift: relative change of the latent"
KEYS = {  # of a board; what a trace adds
    "sudoku": (
        f"bold: given; {CLASH} breaks a rule; {BROKEN} changes a given",
        "; cyan: changed in that segment",
    ),
    "maze": (
        f"• path; {BROKEN} changes the maze",
        f"; {NEW} marked, {GONE} unmarked in that segment",
    ),
    "arc": (f"{CLASH} differs from the solution", f"; {NEW} changed in that segment"),
}


def key(task: Task, traced: bool) -> str:
    """What the marks mean."""
    board, trace = KEYS[task.name.split("-")[0]]
    return board + (trace + DRIFT) * traced


def board(
    task: Task,
    inputs: np.ndarray,
    answer: np.ndarray,
    before: np.ndarray | None = None,
    style: str = "",
    label: np.ndarray | None = None,
) -> Text:
    """One board.

    Args:
        task: the task.
        inputs: the puzzle (L,).
        answer: what to draw (L,).
        before: an earlier answer; cells that differ from it are coloured.
        style: of the cells that are neither given nor marked.
        label: the solution, where it is known (ARC).
    """
    changed = np.zeros(len(answer), bool) if before is None else answer != before
    broken = broken_cells(task, inputs, answer, label)
    if isinstance(task, Maze):
        return _maze(task, answer, before, broken, style)
    if isinstance(task, Arc):
        return _colours(task, answer, changed, broken)
    assert isinstance(task, Sudoku), task.name
    return _digits(task, inputs, answer, changed, broken, style)


def _digits(
    task: Sudoku, givens: np.ndarray, answer: np.ndarray, changed: np.ndarray, broken: np.ndarray, style: str
) -> Text:
    drawn = list(task.render(answer))
    places = [i for i, symbol in enumerate(drawn) if symbol not in FRAME]
    assert len(places) == task.seq_len
    given, touched = givens >= FIRST_DIGIT, changed_givens(task, givens, answer)
    for cell, place in enumerate(places):
        if broken[cell]:
            drawn[place + 1] = BROKEN if touched[cell] else CLASH
    text = Text("".join(drawn))
    for cell, place in enumerate(places):
        colour = "red" if broken[cell] else "cyan" if changed[cell] else style
        text.stylize(f"{'bold ' if given[cell] else ''}{colour}".strip(), place, place + 2)
    return text


def _maze(task: Maze, answer: np.ndarray, before: np.ndarray | None, broken: np.ndarray, style: str) -> Text:
    looks = {
        WALL: ("██", "bright_black"),
        START: ("S ", "bold green"),
        GOAL: ("G ", "bold magenta"),
        PATH: ("• ", style or "blue"),
    }
    rule = "─" * (2 * task.cols)
    text = Text(f"┌{rule}┐\n")
    earlier = answer if before is None else before
    for cell, (token, was) in enumerate(zip(answer.tolist(), earlier.tolist(), strict=True)):
        look = looks.get(token, ("  ", ""))
        if broken[cell]:
            look = f"{BROKEN} ", "bold red"
        elif token != was and PATH in (token, was):
            look = f"{NEW if token == PATH else GONE} ", "bold cyan"
        row_starts, row_ends = cell % task.cols == 0, cell % task.cols == task.cols - 1
        text.append("│" * row_starts).append(*look).append("│\n" * row_ends)
    return text.append(f"└{rule}┘")


def _colours(task: Arc, answer: np.ndarray, changed: np.ndarray, broken: np.ndarray) -> Text:
    """The grid of an answer: the number of each colour on it, and a mark behind the number."""
    height, width = task.crop(answer[None])[0].tolist()
    if not height:
        return Text("(no grid)")
    text, side = Text(), task.grid[1]
    for row in range(height):
        for cell in range(row * side, row * side + width):
            colour = int(answer[cell]) - FIRST_COLOUR
            mark = CLASH if broken[cell] else NEW if changed[cell] else " "
            paper = PALETTE[colour]
            ink = "black" if sum(paper) > 380 else "bright_white"
            text.append(f"{colour}{mark}", f"{'bold ' * (mark != ' ')}{ink} on rgb{paper}".replace(", ", ","))
        text.append("\n")
    return text[:-1]


# -- traces


def trace(puzzles: PuzzleSet, answers: Answers, row: int, width: int) -> Any:
    """How the plain orbit went: a board for every segment that changed it, side by side where they fit.

    Where two boards do not fit into `width`, a line for every segment, then the board after the last
    change.
    """
    steps = list(_steps(puzzles, answers, row))
    changed = [step for step in steps if step[1]]
    broad = max([CAPTION, *(line.cell_len for step in changed for line in step[3].split("\n"))])
    columns = (width + 2) // (broad + 2)
    if columns < 2:
        last = Text.assemble((f"segment {changed[-1][0]}\n", "bold"), changed[-1][3]) if changed else Text()
        return Group(_lines(steps), last)
    grid = Table.grid(padding=(0, 2, 1, 0))
    for _ in range(columns):
        grid.add_column(width=broad)
    panels = [
        Text.assemble(
            (f"segment {t}\n", "bold"), f"{count} changed, {_wrong(puzzles.task, faults)}\n", tail, b
        )
        for t, count, faults, b, tail in ((*step[:4], _caption(step)) for step in changed)
    ]
    for start in range(0, len(panels), columns):
        grid.add_row(*panels[start : start + columns])
    return grid


Step = tuple[int, int, int, Text, float, float]  # segment, cells changed, wrong, board, halt logit, residual


def _steps(puzzles: PuzzleSet, answers: Answers, row: int) -> Iterator[Step]:
    assert answers.trace is not None
    assert answers.trace_halt_logit is not None
    assert answers.trace_residual is not None
    task, inputs, label = puzzles.task, puzzles.inputs[row], _label(puzzles, row)
    before = inputs
    for t, answer in enumerate(answers.trace[row, : answers.segments[row, 0]]):
        halt, residual = answers.trace_halt_logit[row, t], answers.trace_residual[row, t]
        faults = int(broken_cells(task, inputs, answer, label).sum())
        drawn = board(task, inputs, answer, before, label=label)
        yield t + 1, int((answer != before).sum()), faults, drawn, float(halt), float(residual)
        before = answer


def _label(puzzles: PuzzleSet, row: int) -> np.ndarray | None:
    return None if puzzles.labels is None else puzzles.labels[row]


def _wrong(task: Task, faults: int) -> str:
    return f"{faults} clash" if isinstance(task, Sudoku) else f"{faults} wrong"


def _caption(step: Step) -> str:
    return f"{sure(step[4])}, drift {step[5]:.2g}\n"


def _lines(steps: list[Step]) -> Table:
    """A line for every segment; the bar is the change of the latent, on a logarithmic scale."""
    table = Table(box=None, pad_edge=False)
    for name in ("segment", "changed", "wrong", "sure", "drift"):
        table.add_column(name, justify="right")
    table.add_column("drift, log scale")
    for t, changed, faults, _, halt, residual in steps:
        length = BAR * (1 + np.log10(max(residual, 1e-4)) / 4) if residual == residual else 0
        bar = Text("▇" * min(BAR, round(length)), "blue")
        count = Text(str(changed), "cyan" if changed else "")
        wrong = Text(str(faults), "red" if faults else "")
        table.add_row(str(t), count, wrong, sure(halt).removesuffix(" sure"), f"{residual:.2g}", bar)
    return table


def sure(halt: float) -> str:
    """A halt logit as the probability that the answer is right, in the eyes of the model."""
    return f"{50 * (1 + np.tanh(halt / 2)):.0f} % sure"


def trace_summary(puzzles: PuzzleSet, answers: Answers, row: int) -> str:
    """When the answer changed last, and when it became right."""
    assert answers.trace is not None
    inputs, boards = puzzles.inputs[row], answers.trace[row, : answers.segments[row, 0]]
    changed = np.flatnonzero((boards != np.stack([inputs, *boards[:-1]])).any(1)) + 1
    last, total = (int(changed[-1]) if len(changed) else 0), len(boards)
    settled = (
        f"unchanged from segment {last + 1} to {total}"
        if last < total
        else f"still changing at segment {total}"
    )
    right = is_right(puzzles.task, inputs, boards, _label(puzzles, row))
    found = f"first right after segment {int(right.argmax()) + 1}" if right.any() else "never right"
    if isinstance(puzzles.task, Arc) and not puzzles.labels[row].any():  # type: ignore[index]
        found = "no solution to compare with"
    return f"the answer is {settled}, {found}"
