"""The browser playground: a puzzle is solved before one's eyes, then the run is disturbed.

What is shown comes from functions that need no browser. gradio is an extra, imported where the page is
built. Pictures are SVG inside the page, and nothing is fetched from elsewhere.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, wraps
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from jaxtyping import Float
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats
from scipy.special import expit

from loopscope.dynamics.interventions import kicked_at
from loopscope.dynamics.local_growth import finite_growth
from loopscope.errors import UserError
from loopscope.evaluation.subject import check_fits, device_of
from loopscope.models.load import list_shipped, load
from loopscope.reports.animation import KEY, Film, draw_board, draw_curves, in_words, record, shown_segments
from loopscope.reports.drawing import GREY, STYLE, UNSOLVED, log_values, mark_budget, styled, to_svg
from loopscope.reports.maze_boards import BLUE
from loopscope.tasks import PuzzleSet, Sudoku, read_puzzles, sudoku_for
from loopscope.tasks.storage.shipped import shipped_puzzles

MODEL = "sudoku9-equivariant"
FIRST = 9  # on opening: the tenth of sudoku9-hard, for which this model needs a little more than its budget
LISTED = 64  # puzzles of each shipped set
APART = 1e-3  # of two nearby starts, relative to the norm of the start
STRAIGHT = (3e-6, 0.1)  # distances a line is fitted to: above rounding, below those of unrelated states
FRAME = "|│─┌┬┐├┼┤└┴┘"  # of a board as `solve` prints it
PAUSE = 0.1  # seconds between two boards, besides drawing them
WORDS = f"""# loopscope playground
A small network changes its hidden state again and again, and after every *segment* of such steps the state is
read as an answer to a Sudoku. Watch the answer come together (bold: given; {KEY.format("breaks a rule")}) and
the changes of the state die out, or neither."""
DISTURBED = """## Disturb the run
A run that has found its answer mostly comes back to it after a kick and forgets a small change of its start.
One that still searches makes a small change large, until the two runs know nothing of each other."""
CSS = ".picture svg { width: 100%; max-width: 500px; height: auto; display: block; margin: 0 auto }"

Seen = tuple[str, Film]  # the name of a model, and its run on a puzzle


class Fit(NamedTuple):
    """ln distance = level + exponent * segment, from segment 1 to `last`; `error` is that of the exponent."""

    exponent: float
    error: float
    level: float
    last: int


@cache
def network(source: str) -> Any:
    """A model that the playground can show, loaded once.

    Raises:
        UserError: no such model, or none for Sudoku.
    """
    model = load(source, dtype="float32", device="cuda" if torch.cuda.is_available() else "cpu")
    try:
        check_fits(model, parse("." * model.settings.seq_len))
    except UserError:
        raise UserError(f"{source}: not a model for Sudoku. Give one, or use loopscope solve.") from None
    return model


@cache
def puzzles_for(cells: int) -> dict[str, str]:
    """The shipped puzzles with that many cells, name -> text; the hard ones first."""
    sets: dict[str, Any] = {name: read_puzzles(name, limit=LISTED) for name in reversed(shipped_puzzles())}
    return {
        f"{name} {i + 1} ({(row > 1).sum()} givens)": puzzles.task.format(row)
        for name, puzzles in sets.items()
        if puzzles.task.seq_len == cells
        for i, row in enumerate(puzzles.inputs)
    }


def parse(text: str) -> PuzzleSet:
    """A Sudoku as a set of one, from its cells row by row; spaces, line ends and a printed frame are dropped.

    Raises:
        UserError: not a Sudoku, in one line.
    """
    cells = "".join(symbol for symbol in text if symbol not in FRAME and not symbol.isspace())
    if not cells:
        raise UserError("the puzzle: nothing given. Choose one, or type its cells, a dot for each blank.")
    task = sudoku_for(len(cells))
    assert isinstance(task, Sudoku)
    if complaint := task.complaint(cells):
        raise UserError(f"the puzzle: {complaint}. Check the text.")
    return PuzzleSet(task, task.parse(cells)[None], None, np.zeros(1, np.int32), {}, "the puzzle")


# -- the run


def watch(source: str, text: str, segments: int) -> Seen:
    """Run a model on a puzzle given as text, from the model's own start."""
    return source, record(network(source), parse(text), 0, int(segments), growth=False)


def verdict(film: Film) -> str:
    """Whether the last answer keeps the rules, since when, and what the model thinks of it."""
    sure = f"The model is {100 * expit(film.halt_logit[-1]):.0f} % sure of it."
    if not film.right[-1]:
        faults = int(film.broken(len(film)).sum())
        return f"**Not solved** in {len(film)} segments: {faults} cells of the answer break a rule. {sure}"
    since = 1 + max(np.flatnonzero(~film.right) + 1, default=0)
    late = ", past the training budget" if film.budget and since > film.budget else ""
    return f"**Solved** from segment {since} on{late}: the answer keeps every rule. {sure}"


@styled
def show(seen: Seen, t: int) -> tuple[str, str, str]:
    """What is seen after `t` segments: a line of words, the board, and drift and confidence, both as SVG."""
    film, t = seen[1], int(t)
    cells, lines = Figure(figsize=(4.2, 4.2)), Figure(figsize=(4.2, 4.2))
    draw_board(cells.add_subplot(), film, t)
    drift, sure = lines.subplots(2, 1, sharex=True)
    draw_curves(replace(film, growth=None), [drift])
    _over_segments(sure, film, np.arange(1, len(film) + 1), film.halt_logit)
    sure.axhline(0, color=GREY, linewidth=0.7)
    drift.set(xlabel="", title="", ylabel="change of the state (drift)")
    sure.set_ylabel("confidence (halt logit)")
    lines.align_ylabels()
    for ax, values in ((drift, film.drift), (sure, film.halt_logit)):
        ax.plot([t][:t], values[max(t - 1, 0)][None][:t], "o", color=UNSOLVED, markersize=6, zorder=5)
    words = f"**Segment {t} of {len(film)}**: {in_words(film, t)[0]}" if t else "**The puzzle**"
    return words, to_svg(cells, f"board after {t} segments"), to_svg(lines, "drift and confidence")


def play(seen: Seen) -> Iterator[tuple[Any, ...]]:
    """The run as an animation: segment and what is seen after it."""
    for t in shown_segments(len(seen[1])):
        yield t, *show(seen, t)
        time.sleep(PAUSE)


def _over_segments(ax: Axes, film: Film, x: np.ndarray, y: np.ndarray) -> None:
    """A curve in the look of `draw_curves`, with the training budget."""
    ax.plot(x, y, color=BLUE, linewidth=1.2, marker=".", markersize=3)
    ax.set(xlabel="segments", xlim=(-0.3, len(film) + 0.7))
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    if film.budget and film.budget <= len(film):
        mark_budget(ax, film.budget, None)


# -- disturbances


@styled
def kick(seen: Seen, segment: int, sigma: float, seed: int) -> tuple[str, str]:
    """Whether a run lands on the same answer after a kick: words, and a picture as SVG.

    Args:
        seen: the run without kick.
        segment: after which the state is kicked, from 0 to one before the last.
        sigma: size, in units of the spread of the state.
        seed: which kick.
    """
    (source, film), start = seen, int(segment)
    if not 0 <= start < len(film):
        raise UserError(f"kick after segment {start}: expected 0 to {len(film) - 1}. Choose an earlier one.")
    system = kicked_at(network(source), start, sigma=sigma, seed=int(seed))
    kicked = record(system, _puzzle(film), 0, len(film) - start, growth=False)
    differ = (kicked.boards != film.boards[start:]).sum(1)
    figure = Figure(figsize=(4.2, 5.4))
    above, below = figure.subplots(2, 1, height_ratios=(3, 1))
    ends = Film(film.task, film.inputs, np.stack([film.boards[-1], kicked.boards[-1]]), *np.zeros((2, 2)))
    draw_board(above, ends, 2)  # what "changed" are the cells in which the two differ
    above.set_title("the last board; yellow: differs from the run without kick")
    _over_segments(below, film, np.arange(start + 1, len(film) + 1), differ)
    below.axvline(start, color=UNSOLVED, linewidth=0.9)
    below.set(title="cells that differ from the run without kick", ylim=(-0.5, max(5, 1.08 * differ.max())))
    return _landing(film, kicked, differ), to_svg(figure, "the kicked run")


def _landing(film: Film, kicked: Film, differ: np.ndarray) -> str:
    if differ[-1]:
        sort = "a right" if kicked.right[-1] else "a wrong"
        return f"**Another answer**, {sort} one: {differ[-1]} of {len(film.inputs)} cells differ."
    since = len(film) - len(kicked) + 1 + max(np.flatnonzero(differ) + 1, default=0)
    return f"**The same answer**: the two runs show equal boards from segment {since} on."


@styled
def nearby(seen: Seen) -> tuple[str, str]:
    """How the distance of two runs goes whose starts are 1e-3 apart: words, and a picture as SVG."""
    film = seen[1]
    batch = _puzzle(film).batch(device_of(model := network(seen[0])))
    found = finite_growth(model, batch, segments=len(film), sizes=[APART])
    distance = np.concatenate([[APART], found["distance"].values.ravel()])
    fit = fit_line(distance)
    figure = Figure(figsize=(4.2, 3.6))
    ax = figure.add_subplot()
    _over_segments(ax, film, np.arange(len(distance)), distance)
    x = np.array([1, max(fit.last, 1)])
    ax.plot(x, np.exp(fit.level + fit.exponent * x), color=UNSOLVED, linestyle="--", linewidth=1.2)
    log_values(ax, distance[distance > 0].min() / 2, distance.max() * 2)
    ax.set_title("distance, relative to the norm of the start (dashed: fit)")
    if math.isnan(fit.exponent):
        return f"**No exponent**: a line needs 3 segments, {fit.last} are fit for one.", to_svg(
            figure, "distance"
        )
    words = (
        f"**They {'part' if fit.exponent > 0 else 'meet'}**: exponent {fit.exponent:+.2f} nats per segment "
        f"(standard error of the line {fit.error:.2f}, segments 1 to {fit.last}); a segment multiplies the "
        f"distance by {math.exp(fit.exponent):.2f}."
    )
    return words, to_svg(figure, "distance of two nearby runs")


def fit_line(distance: Float[np.ndarray, " T"]) -> Fit:
    """The exponent of a distance after 0, 1, 2, ... segments: the slope of its logarithm.

    Fitted until it first is as small as rounding or as large as that of unrelated states. The step from 0
    to 1 is left out: a network that normalises its state takes part of the difference away in it.
    """
    inside = (distance[1:] > STRAIGHT[0]) & (distance[1:] < STRAIGHT[1])
    last = len(inside) if inside.all() else int(inside.argmin())
    if last < 3:
        return Fit(math.nan, math.nan, math.nan, last)
    line = stats.linregress(np.arange(1, last + 1), np.log(distance[1 : last + 1]))
    return Fit(float(line.slope), float(line.stderr), float(line.intercept), last)


def _puzzle(film: Film) -> PuzzleSet:
    task: Any = film.task
    return parse(task.format(film.inputs))


# -- the page


def build(source: str = MODEL) -> Any:
    """The page as gradio Blocks, not yet served; `source` is the model chosen on opening."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read on import
    import gradio as gr

    mpl.rcParams.update(STYLE)  # visitors are served by threads, and `styled` is no lock

    def told(f: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its mistakes shown to the visitor."""

        @wraps(f)
        def call(first: Any, *more: Any) -> Any:
            if first is None:
                raise gr.Error("Press Solve first.", print_exception=False)
            try:
                return f(first, *more)
            except UserError as error:
                raise gr.Error(str(error), title="That does not work", print_exception=False) from None

        return call

    def offer(source: str, text: str | None) -> tuple[Any, str]:
        texts = puzzles_for(network(source).settings.seq_len)
        if text not in texts.values():
            text = next(iter(list(texts.values())[FIRST:]), "")
        return gr.Dropdown(list(texts.items()), value=text or None), text or ""

    def limits(seen: Seen) -> tuple[Any, ...]:
        last = len(seen[1])
        return (
            gr.Slider(maximum=last, value=0),
            gr.Slider(maximum=last - 1, value=last // 4),
            verdict(seen[1]),
        )

    picture: dict[str, Any] = {"elem_classes": "picture", "padding": False}
    with gr.Blocks(title="loopscope playground", analytics_enabled=False) as page:
        seen = gr.State()
        gr.Markdown(WORDS)
        with gr.Row():
            with gr.Column(min_width=300, scale=3):
                model = gr.Dropdown(
                    list(dict.fromkeys([source, *list_shipped()])), value=source, label="Model"
                )
                choice = gr.Dropdown(label="Puzzle")
                text = gr.Textbox(label="or your own, row by row, a dot for each blank", lines=3)
                segments = gr.Slider(1, 128, 32, step=1, label="Segments to run")
                go = gr.Button("Solve", variant="primary")
            with gr.Column(min_width=320, scale=4):
                words, cells = gr.Markdown(), gr.HTML(**picture)
                t = gr.Slider(0, 32, 0, step=1, label="Segment")
                again = gr.Button("Play again", size="sm")
            with gr.Column(min_width=320, scale=4):
                says, lines = gr.Markdown(), gr.HTML(**picture)
        gr.Markdown(DISTURBED)
        with gr.Row():
            with gr.Column(min_width=320):
                moment = gr.Slider(0, 31, 8, step=1, label="Kick the state after segment")
                sigma = gr.Slider(0, 3, 0.3, step=0.05, label="Size of the kick (1: the spread of the state)")
                seed = gr.Slider(0, 20, 0, step=1, label="Which kick (seed)")
                hit, landing, ended = gr.Button("Kick"), gr.Markdown(), gr.HTML(**picture)
            with gr.Column(min_width=320):
                near, parting, gap = gr.Button("Two nearby starts"), gr.Markdown(), gr.HTML(**picture)

        chosen = [
            page.load(offer, [model, text], [choice, text]),
            model.input(offer, [model, text], [choice, text]),
            choice.input(lambda value: value, choice, text),
        ]
        views = [words, cells, lines]
        quiet: dict[str, Any] = {"show_progress": "hidden"}
        film: Any = lambda run: (yield from play(run))  # noqa: E731  gradio looks for a generator function
        films = []
        for begin in (go.click, *(event.success for event in chosen)):
            ready = begin(told(watch), [model, text, segments], seen).success(limits, seen, [t, moment, says])
            films.append(ready.success(film, seen, [t, *views], api_name="play", **quiet))
        films.append(again.click(film, seen, [t, *views], cancels=films, **quiet))
        t.input(told(show), [seen, t], views, cancels=films, trigger_mode="always_last", **quiet)
        gr.on([go.click, choice.input, model.input], cancels=films)
        hit.click(told(kick), [seen, moment, sigma, seed], [landing, ended])
        near.click(told(nearby), seen, [parting, gap])
    return page


def launch(source: str, port: int, share: bool = False, **more: Any) -> Any:
    """Serve the page until interrupted; `more` goes to `Blocks.launch` of gradio.

    Raises:
        UserError: no such model, or the port is taken.
    """
    network(source)
    page = build(source)
    import gradio as gr

    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    look = {"theme": gr.themes.Default(**fonts), "css": CSS, "footer_links": []}
    try:
        return page.launch(server_port=port, share=share, ssr_mode=False, **look, **more)
    except OSError:
        raise UserError(f"--port {port}: taken already. Choose another.") from None
