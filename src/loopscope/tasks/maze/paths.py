"""Shortest paths through mazes, and checks of paths that others marked.

Shortest paths of a maze are hardly ever unique (Maze-Hard: millions). The labels of Maze-Hard follow one
rule: breadth-first search from S, neighbours in the order down, left, right, up; the first to discover a
cell is its parent; the path is read back from G. This rule defines *the* label here.

Unusual: boards are laid out with a border of walls, so that the compiled loops check no edges.
Importing this module loads numba.
"""

from __future__ import annotations

from typing import NamedTuple, no_type_check

import numpy as np
from jaxtyping import Bool, Int32, Integer, UInt8
from numba import njit

from loopscope.tasks.maze.board import FREE, GOAL, PATH, START, WALL, Maze

OPEN, CLOSED = -1, -2  # in place of a distance: not reached (yet), wall


class PathCheck(NamedTuple):
    """What is known of the path that each answer marks.

    Attributes:
        is_path: walls, S and G are kept, and the marked cells are one way from S to G: no branch, no gap,
            no mark beside it, (B,). A way that touches itself is none, as its marks do not tell the order.
        cells: cells of that way with S and G, (B,); 0 where there is none.
        shortest: cells of a shortest path with S and G, (B,); 0 where G cannot be reached.
        is_joined: walls, S and G are kept, and the marked cells hold a way from S to G, whatever else is
            marked, (B,).
    """

    is_path: Bool[np.ndarray, "B"]
    cells: Int32[np.ndarray, "B"]
    shortest: Int32[np.ndarray, "B"]
    is_joined: Bool[np.ndarray, "B"]

    @property
    def is_shortest(self) -> Bool[np.ndarray, "B"]:
        """Whether the way is as short as can be, whichever of the shortest paths it is."""
        return self.is_path & (self.cells == self.shortest)


# -- compiled


@njit(cache=True)
@no_type_check
def room(rows, cols):
    """Room to work in: steps, parents and queue, one entry for each cell of the bordered board."""
    size = (rows + 2) * (cols + 2)
    return np.empty(size, np.int32), np.empty(size, np.int32), np.empty(size, np.int32)


@njit(cache=True)
@no_type_check
def lay_out(tokens, rows, cols, steps):
    """Copy a question to `steps` ((rows + 2) * (cols + 2)) as OPEN and CLOSED. Returns S and G there.

    Both are -1 unless the question holds exactly one S, one G, and no mark.
    """
    width = cols + 2
    steps[:] = CLOSED
    start, goal, sound = -1, -1, True
    for r in range(rows):
        for c in range(cols):
            token, at = tokens[r * cols + c], (r + 1) * width + c + 1
            if token == WALL:
                continue
            steps[at] = OPEN
            if token == START:
                sound = sound and start < 0
                start = at
            elif token == GOAL:
                sound = sound and goal < 0
                goal = at
            elif token != FREE:
                sound = False
    if start < 0 or goal < 0 or not sound:
        return -1, -1
    return start, goal


@njit(cache=True)
@no_type_check
def explore(steps, width, start, goal, parent, queue):
    """Breadth-first search: distances from `start` go to `steps`, the way back to `parent`.

    Stops when `goal` is found; -1 explores everything. Returns the number of cells discovered.
    """
    steps[start] = 0
    queue[0] = start
    head, tail = 0, 1
    while head < tail:
        at = queue[head]
        head += 1
        for offset in (width, -1, 1, -width):  # down, left, right, up
            near = at + offset
            if steps[near] == OPEN:
                steps[near] = steps[at] + 1
                parent[near] = at
                queue[tail] = near
                tail += 1
                if near == goal:
                    return tail
    return tail


@njit(cache=True)
@no_type_check
def _distance_rows(tokens, rows, cols, found):
    steps, parent, queue = room(rows, cols)
    for b in range(len(tokens)):
        start, _ = lay_out(tokens[b], rows, cols, steps)
        if start >= 0:
            explore(steps, cols + 2, start, -1, parent, queue)
        for r in range(rows):
            for c in range(cols):
                found[b, r * cols + c] = max(steps[(r + 1) * (cols + 2) + c + 1], OPEN)


@njit(cache=True)
@no_type_check
def _label_rows(tokens, rows, cols, labels, cells):
    steps, parent, queue = room(rows, cols)
    for b in range(len(tokens)):
        start, goal = lay_out(tokens[b], rows, cols, steps)
        if start < 0:
            continue
        explore(steps, cols + 2, start, goal, parent, queue)
        if steps[goal] < 0:
            continue
        labels[b] = tokens[b]
        cells[b] = steps[goal] + 1
        at = parent[goal]
        while at != start:
            row, col = at // (cols + 2) - 1, at % (cols + 2) - 1
            labels[b, row * cols + col] = PATH
            at = parent[at]


@njit(cache=True)
@no_type_check
def _mark(tokens, answer, rows, cols, marked):
    """Lay out an answer: True on its marks and on G. Returns their number, 0 if the maze was changed."""
    marked[:] = False
    total = 0
    for i in range(len(tokens)):
        if answer[i] != tokens[i] and not (tokens[i] == FREE and answer[i] == PATH):
            return 0
        if answer[i] == PATH or answer[i] == GOAL:
            marked[(i // cols + 1) * (cols + 2) + i % cols + 1] = True
            total += 1
    return total


@njit(cache=True)
@no_type_check
def _walk(marked, width, start, goal):
    """Follow the marks from S for as long as there is exactly one way on.

    Returns the cells walked with S, and the last one: G when nothing is wrong.
    """
    before, at, cells = -1, start, 1
    while True:
        ways, onward = 0, -1
        for offset in (width, -1, 1, -width):
            near = at + offset
            if marked[near] and near != before:
                ways += 1
                onward = near
        if ways != 1:
            return cells, (at if ways == 0 else -at)
        before, at, cells = at, onward, cells + 1


@njit(cache=True)
@no_type_check
def _check_rows(tokens, answers, rows, cols, cells, shortest, joined):
    steps, parent, queue = room(rows, cols)
    marked = np.empty(len(steps), np.bool_)
    for b in range(len(tokens)):
        start, goal = lay_out(tokens[b], rows, cols, steps)
        if start < 0:
            continue
        explore(steps, cols + 2, start, goal, parent, queue)
        shortest[b] = max(steps[goal] + 1, 0)
        total = _mark(tokens[b], answers[b], rows, cols, marked)
        if total > 0:
            walked, last = _walk(marked, cols + 2, start, goal)
            if last == goal and walked == total + 1:
                cells[b] = walked
            for at in range(len(steps)):
                steps[at] = OPEN if marked[at] else CLOSED
            explore(steps, cols + 2, start, goal, parent, queue)
            joined[b] = steps[goal] >= 0


# -- for callers


def distances(maze: Maze, inputs: Integer[np.ndarray, "B L"]) -> Int32[np.ndarray, "B L"]:
    """Steps from S to every cell; -1 for walls and cells that cannot be reached."""
    tokens = _compact(maze, inputs)
    found = np.empty(tokens.shape, np.int32)
    _distance_rows(tokens, maze.rows, maze.cols, found)
    return found


def shortest_paths(
    maze: Maze, inputs: Integer[np.ndarray, "B L"]
) -> tuple[UInt8[np.ndarray, "B L"], Int32[np.ndarray, "B"]]:
    """The label of each maze by the rule above, and the cells of its path with S and G.

    Where G cannot be reached, or S or G is not there exactly once, the label is PAD and the number 0.
    """
    tokens = _compact(maze, inputs)
    labels, cells = np.zeros_like(tokens), np.zeros(len(tokens), np.int32)
    _label_rows(tokens, maze.rows, maze.cols, labels, cells)
    return labels, cells


def check_paths(
    maze: Maze, inputs: Integer[np.ndarray, "B L"], answers: Integer[np.ndarray, "B L"]
) -> PathCheck:
    """Whether each answer marks a path, and how long it and the shortest are; needs no labels."""
    tokens, marks = _compact(maze, inputs), _compact(maze, answers)
    assert len(tokens) == len(marks), (tokens.shape, marks.shape)
    cells, shortest = np.zeros(len(tokens), np.int32), np.zeros(len(tokens), np.int32)
    joined = np.zeros(len(tokens), np.bool_)
    _check_rows(tokens, marks, maze.rows, maze.cols, cells, shortest, joined)
    return PathCheck(cells > 0, cells, shortest, joined)


def last_walked(maze: Maze, answer: Integer[np.ndarray, "L"]) -> tuple[int, bool]:
    """The last cell when the marks of one answer are followed from S, and whether they branch there."""
    board = np.pad(np.asarray(answer).reshape(maze.grid), 1).ravel()
    start, goal = int((board == START).argmax()), int((board == GOAL).argmax())
    _, last = _walk((board == PATH) | (board == GOAL), maze.cols + 2, start, goal)
    row, col = divmod(abs(int(last)), maze.cols + 2)
    return (row - 1) * maze.cols + col - 1, bool(last < 0)


def _compact(maze: Maze, tokens: np.ndarray) -> np.ndarray:
    """As the compiled loops take it; they do not check their indices."""
    assert tokens.shape[1] == maze.seq_len, (tokens.shape, maze)
    assert tokens.max(initial=0) < maze.vocab_size, (tokens.max(), maze)
    return np.ascontiguousarray(tokens, np.uint8)
