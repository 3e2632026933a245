"""Mazes drawn into a matplotlib Axes: walls dark, path blue, S and G as letters, changed cells marked."""

from __future__ import annotations

import numpy as np
from jaxtyping import Integer
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.patches import Rectangle

from loopscope.reports.drawing import GREY, INK, OTHERS, UNSOLVED
from loopscope.tasks.maze import Maze
from loopscope.tasks.maze.board import FREE, GOAL, PATH, START, WALL

BLUE = OTHERS[0]
START_COLOUR = UNSOLVED  # vermilion: stands out from walls and path


def draw_maze(
    ax: Axes, maze: Maze, inputs: Integer[np.ndarray, "L"], answer: Integer[np.ndarray, "L"] | None = None
) -> None:
    """One maze; squares are vectors, so the picture stays sharp and its bytes do not vary.

    Args:
        ax: where to draw; its ticks and spines go.
        maze: the board.
        inputs: the question (L,): walls, S and G.
        answer: path marks (L,) to draw with it. Where it changes the maze otherwise, the cell is
            crossed out.
    """
    marked = np.zeros(maze.seq_len, bool) if answer is None else (answer == PATH) & (inputs == FREE)
    changed = np.zeros(maze.seq_len, bool) if answer is None else (answer != inputs) & ~marked
    _squares(ax, maze, inputs == WALL, INK, 0.0)
    _squares(ax, maze, marked, BLUE, 0.12)
    for token, letter in ((START, "S"), (GOAL, "G")):
        for cell in np.flatnonzero(inputs == token):
            row, col = divmod(int(cell), maze.cols)
            _letter(ax, row, col, letter, maze)
    rows, cols = np.divmod(np.flatnonzero(changed), maze.cols)
    ax.scatter(
        cols + 0.5,
        rows + 0.5,
        marker="x",
        s=cell_points(ax, maze.rows, maze.cols) ** 2 * 0.3,
        color=UNSOLVED,
        zorder=4,
    )
    ax.add_patch(Rectangle((0, 0), maze.cols, maze.rows, fill=False, edgecolor=GREY, linewidth=0.8))
    ax.set(xlim=(0, maze.cols), ylim=(maze.rows, 0), aspect="equal", xticks=[], yticks=[])
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _squares(ax: Axes, maze: Maze, cells: np.ndarray, colour: str, margin: float) -> None:
    """Fill the chosen cells, `margin` of a cell narrower on every side."""
    rows, cols = np.divmod(np.flatnonzero(cells), maze.cols)
    corners = np.array([(0, 0), (1, 0), (1, 1), (0, 1)]) * (1 - 2 * margin) + margin
    shapes = np.stack([cols, rows], axis=1)[:, None] + corners
    # A hair of edge in the same colour closes the seams between neighbours.
    ax.add_collection(PolyCollection(list(shapes), facecolors=colour, edgecolors=colour, linewidths=0.2))


def _letter(ax: Axes, row: int, col: int, letter: str, maze: Maze) -> None:
    """S on a filled square, G in an empty one: told apart also where the letters are too small to read."""
    paper, ink = (START_COLOUR, "white") if letter == "S" else ("white", START_COLOUR)
    ax.add_patch(
        Rectangle((col, row), 1, 1, facecolor=paper, edgecolor=START_COLOUR, linewidth=1.2, zorder=3)
    )
    text = ax.text(col + 0.5, row + 0.5, letter, ha="center", va="center_baseline", color=ink, zorder=4)
    text.set(fontsize=0.75 * cell_points(ax, maze.rows, maze.cols), fontweight="bold")


def cell_points(ax: Axes, rows: int, cols: int) -> float:
    """Height of a cell in points, before the layout settles."""
    box = ax.get_window_extent()
    return float(min(box.width / cols, box.height / rows) * 72 / ax.figure.dpi)
