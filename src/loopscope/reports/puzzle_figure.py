"""One picture of a puzzle set: how hard its puzzles are, and a few of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Integer
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from loopscope.errors import UserError
from loopscope.files import written_whole
from loopscope.reports.boards import token_text
from loopscope.reports.drawing import GREY, INK, styled
from loopscope.reports.maze_boards import BLUE, cell_points, draw_maze
from loopscope.tasks import Maze, Sudoku, Task
from loopscope.tasks.arc.board import PALETTE
from loopscope.tasks.base import PAD
from loopscope.tasks.survey import Survey, class_edges, class_names, counted

SHOWN = 3  # puzzles
ENDINGS = (".svg", ".pdf", ".png")
SHADES = (BLUE, "#E69F00", GREY)
ARC_COLOURS = tuple("#{:02X}{:02X}{:02X}".format(*colour) for colour in PALETTE)


def checked_name(path: str | Path) -> Path:
    """The path of a picture to write; call it before long work.

    Raises:
        UserError: the name ends in something that is no picture.
    """
    path = Path(path)
    if path.suffix not in ENDINGS:
        raise UserError(f"{path}: expected a name that ends in {', '.join(ENDINGS)}. Choose one.")
    return path


@styled  # names inside an svg are random without its salt
def save_figure(found: Survey, path: str | Path) -> None:
    """Draw a set and write the picture, whole or not at all.

    Raises:
        UserError: the name ends in something that is no picture.
    """
    path = checked_name(path)
    figure = draw_set(found)
    with written_whole(path) as beside:
        nothing = {"Date": None} if path.suffix == ".svg" else None
        figure.savefig(beside, format=path.suffix[1:], metadata=nothing, dpi=160)


@styled
def draw_set(found: Survey) -> Figure:
    """Histogram of the hardness of every split, and the first puzzles of the last one with their answers."""
    figure = Figure(figsize=(7.5, 3.7), facecolor="white")
    grid = figure.add_gridspec(2, 2 * SHOWN, height_ratios=(1.2, 1))
    _draw_hardness(figure.add_subplot(grid[0, :]), found)
    name, split = list(found.splits.items())[-1]
    puzzles = split.sources
    count = min(SHOWN, len(puzzles))
    for i in range(count):
        question, answer = (figure.add_subplot(grid[1, 2 * i + side]) for side in (0, 1))
        draw_puzzle(question, puzzles.task, puzzles.inputs[i])
        question.set_title(f"{name} {i}")
        if puzzles.labels is None:
            answer.set_axis_off()
        else:
            draw_puzzle(answer, puzzles.task, puzzles.inputs[i], puzzles.labels[i])
            answer.set_title("answer")
    return figure


def _draw_hardness(ax: Axes, found: Survey) -> None:
    known = {name: split for name, split in found.splits.items() if split.hardness}
    ax.set_title(f"{found.name}: {found.task}")
    if not known:
        ax.text(0.5, 0.5, "nothing here tells how hard a puzzle is", ha="center", transform=ax.transAxes)
        return
    facts = {split.hardness for split in known.values()}
    everything = np.concatenate([split.numbers[split.hardness] for split in known.values()])  # type: ignore[index]
    edges = class_edges(everything)
    names = class_names(edges)
    for i, (name, split) in enumerate(known.items()):
        values = split.numbers[str(split.hardness)]
        shares = np.array(counted(values, edges)) / len(values)
        place = np.arange(len(names)) + (i - (len(known) - 1) / 2) * 0.8 / len(known)
        label = f"{name}, n = {len(values):,}"
        ax.bar(place, 100 * shares, 0.8 / len(known), color=SHADES[i % len(SHADES)], label=label)
    ax.set_xticks(range(len(names)), names)
    ax.set_xlabel(" / ".join(sorted(str(fact).replace("_", " ") for fact in facts)))
    ax.set_ylabel("puzzles (%)")
    ax.grid(axis="x", visible=False)
    ax.legend(frameon=False, ncols=len(known), loc="lower right", bbox_to_anchor=(1, 1), borderaxespad=0)


def draw_puzzle(
    ax: Axes, task: Task, inputs: Integer[np.ndarray, "L"], answer: Integer[np.ndarray, "L"] | None = None
) -> None:
    """One puzzle, or with `answer` its answer, in the usual look of its task."""
    if isinstance(task, Maze):
        draw_maze(ax, task, inputs, answer)
        return
    shown = inputs if answer is None else answer
    if task.name.startswith("arc-"):
        _draw_colours(ax, shown.reshape(task.grid))
    else:
        _draw_cells(ax, task, inputs, shown)
    ax.set(xticks=[], yticks=[], aspect="equal")
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)


def _draw_colours(ax: Axes, canvas: np.ndarray) -> None:
    """An ARC grid, cut out of its canvas."""
    rows, cols = (np.flatnonzero((canvas > 1).any(axis)) for axis in (1, 0))
    if not len(rows):
        ax.text(0.5, 0.5, "no answer", ha="center", va="center", transform=ax.transAxes)
        return
    grid = canvas[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1].astype(int) - 2
    ax.pcolormesh(grid, cmap=ListedColormap(ARC_COLOURS), vmin=0, vmax=9, edgecolors=GREY, linewidth=0.2)
    ax.set(xlim=(0, grid.shape[1]), ylim=(grid.shape[0], 0))


def _draw_cells(ax: Axes, task: Task, inputs: np.ndarray, shown: np.ndarray) -> None:
    """A letter or digit in every cell, givens dark and bold; heavy lines around the boxes of a Sudoku."""
    height, width = task.grid
    for cell, token in enumerate(shown):
        given = inputs[cell] == token and token != PAD
        row, col = divmod(cell, width)
        ax.text(
            col + 0.5,
            row + 0.5,
            token_text(task.name, int(token)),
            ha="center",
            va="center_baseline",
            color=INK if given else BLUE,
            fontweight="bold" if given else "normal",
            fontsize=0.6 * cell_points(ax, height, width),
        )
    tall, wide = (task.box_rows, task.box_cols) if isinstance(task, Sudoku) else (height, width)
    level = [([(0, i), (width, i)], i % tall == 0) for i in range(height + 1)]
    upright = [([(i, 0), (i, height)], i % wide == 0) for i in range(width + 1)]
    lines, heavy = zip(*level, *upright, strict=True)
    weights = [1.1 if thick else 0.3 for thick in heavy]
    ax.add_collection(LineCollection(list(lines), colors=INK, linewidths=weights, capstyle="projecting"))
    ax.set(xlim=(0, width), ylim=(height, 0))
