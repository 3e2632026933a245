"""Cells of one answer that are wrong beyond doubt: by the rules, or by the solution where there is one."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Integer

from loopscope.tasks.arc.board import Arc
from loopscope.tasks.base import PAD, Task
from loopscope.tasks.maze.board import FREE, PATH, Maze
from loopscope.tasks.sudoku.board import FIRST_DIGIT, Sudoku


def changed_givens(
    task: Task, inputs: Integer[np.ndarray, " L"], answer: Integer[np.ndarray, " L"]
) -> Bool[np.ndarray, " L"]:
    """Cells of the question that an answer may not touch but does.

    Sudoku: digits. Maze: everything but a free cell that becomes path. Other tasks give nothing.
    """
    if isinstance(task, Sudoku):
        return (inputs >= FIRST_DIGIT) & (answer != inputs)
    if isinstance(task, Maze):
        return (answer != inputs) & ~((inputs == FREE) & (answer == PATH))
    return np.zeros(inputs.shape, bool)


def broken_cells(
    task: Task,
    inputs: Integer[np.ndarray, " L"],
    answer: Integer[np.ndarray, " L"],
    label: Integer[np.ndarray, " L"] | None = None,
) -> Bool[np.ndarray, " L"]:
    """Cells that break a rule; of ARC, which has none, those that differ from the solution.

    Args:
        task: whose rules.
        inputs: the question.
        answer: what is checked.
        label: the solution, looked at for ARC only; None or all PAD when it is not known.
    """
    broken = changed_givens(task, inputs, answer)
    if isinstance(task, Sudoku):
        return broken | task.conflicts(answer[None])[0]
    if isinstance(task, Arc) and label is not None and (label != PAD).any():
        return (label != PAD) & (answer != label)
    return broken


def is_right(
    task: Task,
    inputs: Integer[np.ndarray, " L"],
    answers: Integer[np.ndarray, "T L"],
    label: Integer[np.ndarray, " L"] | None = None,
) -> Bool[np.ndarray, " T"]:
    """Whether each of several answers to one question is right: by the rules, of ARC by the solution.

    ARC without a solution is never right, as nothing tells.
    """
    if not isinstance(task, Arc):
        return task.verify(np.repeat(inputs[None], len(answers), axis=0), answers)
    if label is None or not (label != PAD).any():
        return np.zeros(len(answers), bool)
    wanted = task.decode(label[None])[0]
    return np.array([np.array_equal(grid, wanted) for grid in task.decode(answers)], bool)
