"""Films of one puzzle: the board segment by segment, with drift and local growth underneath.

    film = record(model, puzzles, index=3, segments=32)
    animate(film, "film.gif")
    figure = film_strip({"quick success": film, "failure": other})

A film is plain arrays, so one may also come from a file. Changed cells lie on yellow, cells that break a
rule are framed in vermilion: told apart by form as well as by colour.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Integer
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image
from scipy.special import expit

from loopscope.dynamics.lyapunov import advance, check_state, orthonormal_start, segment_functions
from loopscope.errors import UserError
from loopscope.evaluation.subject import budget_of, check_fits, device_of
from loopscope.files import written_whole
from loopscope.latent import distance
from loopscope.reports.drawing import (
    GREY,
    INK,
    SOLVED,
    UNSOLVED,
    colour_table,
    log_values,
    mark_budget,
    reduced,
    styled,
)
from loopscope.reports.maze_boards import BLUE, cell_points
from loopscope.reports.puzzle_figure import ARC_COLOURS, draw_puzzle
from loopscope.tasks import Arc, PuzzleSet, Task
from loopscope.tasks.faults import broken_cells, is_right

YELLOW = "#F0E442"
BUDGET = 16  # segments, of a system that does not tell its own
FRAMES = 40  # of an animation, at most
STEP, LAST = 450, 3000  # milliseconds that a frame stays
DPI = 100
KEY = "yellow: changed in this segment; vermilion frame: {}"


@dataclass(frozen=True)
class Film:
    """One orbit of T segments on a puzzle of L cells.

    Attributes:
        task: whose board it is.
        inputs: the question.
        boards: the answer after every segment.
        halt_logit: of the answer after every segment.
        drift: norm of the change of the latent in every segment.
        growth: of a random tangent in every segment, nats; None where it was not measured.
        budget: segments of the training; None where that is not known.
        label: the solution; None where that is not known. Looked at for ARC only.
    """

    task: Task
    inputs: Integer[np.ndarray, " L"]
    boards: Integer[np.ndarray, "T L"]
    halt_logit: Float[np.ndarray, " T"]
    drift: Float[np.ndarray, " T"]
    growth: Float[np.ndarray, " T"] | None = None
    budget: int | None = None
    label: Integer[np.ndarray, " L"] | None = None

    def __len__(self) -> int:
        return len(self.boards)

    @cached_property
    def right(self) -> Bool[np.ndarray, " T"]:
        """Whether the answer is right after each segment."""
        return is_right(self.task, self.inputs, self.boards, self.label)

    def board(self, t: int) -> Integer[np.ndarray, " L"]:
        """The board after `t` segments; the question after none."""
        return self.boards[t - 1] if t else self.inputs

    def changed(self, t: int) -> Bool[np.ndarray, " L"]:
        """Cells that segment `t` changed; none for the question."""
        return self.board(t) != self.board(max(t - 1, 0))

    def broken(self, t: int) -> Bool[np.ndarray, " L"]:
        """Cells that break a rule after `t` segments."""
        return broken_cells(self.task, self.inputs, self.board(t), self.label if t else None)


@torch.no_grad()
def record(
    model: Any,
    puzzles: PuzzleSet,
    index: int = 0,
    segments: int | None = None,
    *,
    growth: bool = True,
    seed: int = 0,
) -> Film:
    """Run one orbit from the model's own start and keep what a film shows.

    Args:
        model: anything that keeps the `RecursiveSystem` protocol; for growth it must compute in float32 or
            float64.
        puzzles: a set; of ARC one whose rows are shown as they are.
        index: row of the set.
        segments: length of the orbit; default the training budget.
        growth: also measure the growth of one tangent, which starts at random. It triples the time.
        seed: of the tangent.
    Raises:
        UserError: no such row, a number out of range, or puzzles of another size than the model's.
    """
    budget = budget_of(model)
    segments = (budget or BUDGET) if segments is None else segments
    check_fits(model, puzzles)
    if not 0 <= index < len(puzzles):
        raise UserError(f"index={index}: expected 0 to {len(puzzles) - 1}, a row of {puzzles.name}.")
    if segments < 1:
        raise UserError(f"segments={segments}: expected at least 1.")
    row = puzzles[index : index + 1]
    ctx = model.encode(row.batch(device_of(model)))
    z = model.initial_state(ctx)
    tangent = None
    if growth:
        check_state(z)
        tangent = orthonormal_start(z, 1, seed=seed, puzzle_index=[index])
    functions = segment_functions(model, ctx, "segment")
    boards, numbers = [], []
    for _ in range(segments):
        before, rate = z, float("nan")
        if tangent is None:
            z = model.segment(z, ctx)
        else:
            z, tangent, step = advance(functions, z, tangent)
            rate = step.item()
        out = model.readout(z, ctx)
        boards.append(out.logits[0].argmax(-1).to(torch.uint8).cpu().numpy())
        numbers.append((float(out.halt_logit[0]), float(distance(z, before)[0]), rate))
    halt, drift, rates = np.array(numbers).T
    label = None if row.labels is None else row.labels[0]
    return Film(
        row.task,
        row.inputs[0],
        np.stack(boards),
        halt,
        drift,
        rates if growth else None,
        budget,
        label,
    )


# -- animation


@styled
def animate(film: Film, path: str | Path) -> Path:
    """Write a film as an animated GIF, whole or not at all: the question, then segment by segment.

    Of more than 40 segments some are left out, ever more of the later ones. The last frame stays longer.

    Raises:
        UserError: the name ends in something else than .gif.
    """
    path = Path(path)
    if path.suffix != ".gif":
        raise UserError(f"{path}: expected a name that ends in .gif. Choose one.")
    frames = _frames(film)
    sample = np.concatenate([np.asarray(frame)[::2] for frame in frames])
    own = (BLUE, *ARC_COLOURS * isinstance(film.task, Arc))
    table = colour_table(Image.fromarray(sample), own)  # of one frame it would lack what others show
    pictures = [reduced(frame, table) for frame in frames]
    waits = [STEP] * (len(frames) - 1) + [LAST]
    with written_whole(path) as beside:
        pictures[0].save(
            beside, format="GIF", save_all=True, append_images=pictures[1:], duration=waits, loop=0
        )
    return path


def shown_segments(segments: int) -> list[int]:
    """Segments to show in an animation, 0 for the question and the last one among them."""
    if segments < FRAMES:
        return list(range(segments + 1))
    return sorted({0, *np.geomspace(1, segments, FRAMES).round().astype(int).tolist()})


def _frames(film: Film) -> list[Image.Image]:
    """One picture for every shown segment; the layout is worked out once."""
    figure = Figure(figsize=(4.8, 6.6), dpi=DPI, facecolor="white")
    canvas = FigureCanvasAgg(figure)
    rows = 3 if film.growth is None else 4
    grid = figure.add_gridspec(rows, 1, height_ratios=(0.55, 4.4, 0.95, 0.95)[:rows])
    head, board = (figure.add_subplot(grid[i]) for i in range(2))
    curves = [figure.add_subplot(grid[i]) for i in range(2, rows)]
    points = draw_curves(film, curves)
    frames: list[Image.Image] = []
    is_arc = isinstance(film.task, Arc)
    for t in shown_segments(len(film)):
        _draw_head(head, film, t)
        board.clear()
        draw_board(board, film, t)
        board.set_xlabel(KEY.format("differs from the solution" if is_arc else "breaks a rule"), fontsize=7.5)
        for ax, point, values in zip(curves, points, (film.drift, film.growth), strict=False):
            assert values is not None
            point.set_data([t] if t else [], [values[t - 1]] if t else [])
            ax.set_xlim(0.3, len(film) + 0.7)
        if not frames:
            canvas.draw()
            figure.set_layout_engine("none")
        canvas.draw()
        frames.append(Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy()))
    return frames


def _draw_head(ax: Axes, film: Film, t: int) -> None:
    """Which segment, what is to be said of the board, and how sure the model is."""
    ax.clear()
    ax.set_axis_off()
    ax.set(xlim=(0, 1), ylim=(0, 1))
    ax.text(0, 0.95, f"segment {t} of {len(film)}" if t else "the puzzle", va="top", fontsize=12)
    words, colour = in_words(film, t)
    ax.text(1, 0.95, words, va="top", ha="right", fontsize=10, color=colour)
    if t:
        share = float(np.nan_to_num(expit(film.halt_logit[t - 1])))
        ax.add_patch(Rectangle((0, 0.02), 1, 0.2, facecolor="#E4E4E4"))
        ax.add_patch(Rectangle((0, 0.02), share, 0.2, facecolor=BLUE))
        ax.text(0, 0.3, f"the model is {100 * share:.0f} % sure", fontsize=8)


def in_words(film: Film, t: int) -> tuple[str, str]:
    """The state of the board after `t` segments in a few words, and their colour."""
    if not t:
        return "", INK
    changed, broken = int(film.changed(t).sum()), int(film.broken(t).sum())
    if film.right[t - 1]:
        return "solved" + f", {changed} changed" * bool(changed), SOLVED
    fault = "differ" if isinstance(film.task, Arc) else "break a rule"
    return f"{changed} changed" + f", {broken} {fault}" * bool(broken), UNSOLVED if broken else INK


# -- pieces


def draw_board(ax: Axes, film: Film, t: int) -> None:
    """The board after `t` segments: changed cells on yellow, cells that break a rule framed."""
    answer, (height, width) = film.board(t), film.task.grid
    draw_puzzle(ax, film.task, film.inputs, answer if t else None)
    if isinstance(film.task, Arc):
        height, width = film.task.crop(answer[None])[0].tolist()  # what is drawn starts in the same corner
    cells = np.arange(film.task.seq_len).reshape(film.task.grid)[:height, :width].ravel()
    changed, broken = film.changed(t)[cells], film.broken(t)[cells]
    for cell in cells[changed]:
        row, col = divmod(int(cell), film.task.grid[1])
        if isinstance(film.task, Arc):  # its colours must stay as they are
            ax.plot(col + 0.5, row + 0.5, "o", color=YELLOW, markersize=3, markeredgecolor=INK, zorder=5)
        else:
            ax.add_patch(Rectangle((col, row), 1, 1, facecolor=YELLOW, alpha=0.55, linewidth=0, zorder=0.4))
    thick = min(1.8, 0.12 * cell_points(ax, height, width)) if height else 0
    for cell in cells[broken]:
        row, col = divmod(int(cell), film.task.grid[1])
        ax.add_patch(
            Rectangle(
                (col + 0.07, row + 0.07), 0.86, 0.86, fill=False, edgecolor=UNSOLVED, lw=thick, zorder=6
            )
        )


def draw_curves(film: Film, axes: list[Axes], font: float = 8.0) -> list[Any]:
    """Drift and, where it was measured, growth over segments; gives an empty point on each curve."""
    segments = np.arange(1, len(film) + 1)
    names = ("drift (norm of the change per segment)", "growth (nats per segment)")
    points = []
    for ax, values, name in zip(axes, (film.drift, film.growth), names, strict=False):
        assert values is not None
        ax.plot(segments, values, color=BLUE, linewidth=1.2, marker=".", markersize=3)
        ax.set_title(name, fontsize=font, pad=3)
        ax.tick_params(labelsize=font)
        (point,) = ax.plot([], [], "o", color=INK, markersize=6, zorder=5, clip_on=False)
        point.set_in_layout(False)  # without data it lies nowhere, and the layout would make room for that
        points.append(point)
        ax.set_xlim(0.3, len(film) + 0.7)
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        if film.budget is not None and film.budget <= len(film):
            words = "training budget" if ax is axes[0] else None  # kept clear of the title at the left
            mark_budget(ax, film.budget, words, side="left" if 2 * film.budget > len(film) else "right")
    positive = film.drift[np.isfinite(film.drift) & (film.drift > 0)]
    if len(positive):
        log_values(axes[0], positive.min() / 1.5, positive.max() * 1.5, most=4)
    if film.growth is not None:
        axes[1].axhline(0, color=GREY, linewidth=0.7)
    axes[-1].set_xlabel("segments", fontsize=font)
    return points


# -- strip


@styled
def film_strip(films: Mapping[str, Film], shown: int = 4) -> Figure:
    """Films below each other: some boards of each side by side, drift and growth below them.

    Args:
        films: name -> film, such as "quick success".
        shown: boards of each, the question not among them.
    """
    figure = Figure(figsize=(7.5, 3.55 * len(films)), facecolor="none")
    parts = figure.subfigures(len(films), 1, squeeze=False)[:, 0]
    for part, (name, film) in zip(parts, films.items(), strict=True):
        found = np.flatnonzero(film.right)
        words = (
            f"first right after segment {found[0] + 1} of {len(film)}"
            if len(found)
            else f"never right in {len(film)} segments"
        )
        part.suptitle(f"{name}: {words}", x=0.01, ha="left", fontsize=9, fontweight="bold", color=INK)
        above, below = part.subfigures(2, 1, height_ratios=(2.1, 1))
        chosen = strip_segments(film, shown)
        for ax, t in zip(above.subplots(1, len(chosen), squeeze=False)[0], chosen, strict=True):
            draw_board(ax, film, t)
            ax.set_title(f"segment {t}", fontsize=7.5, loc="center", pad=3)
        curves = list(below.subplots(1, 1 if film.growth is None else 2, squeeze=False)[0])
        draw_curves(film, curves, font=7.0)
        curves[0].set_xlabel("segments", fontsize=7)
    return figure


def strip_segments(film: Film, shown: int) -> list[int]:
    """The first and the last segment, the first right one, those that changed the most cells, then others."""
    counts = np.array([film.changed(t).sum() for t in range(1, len(film) + 1)])
    wanted = [1, len(film)]
    if film.right.any():
        wanted.append(int(film.right.argmax()) + 1)
    wanted += [int(t) + 1 for t in np.argsort(-counts, kind="stable") if counts[t]]
    wanted += np.geomspace(1, len(film), shown).round().astype(int).tolist()
    wanted += range(1, len(film) + 1)
    return sorted(list(dict.fromkeys(wanted))[:shown])
