"""What a person sees while a model trains: a live panel on a terminal, a plain bar anywhere else."""

from __future__ import annotations

import math
import time
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text
from tqdm.auto import tqdm

from loopscope.config import Recipe

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 32  # of a curve, in characters
WINDOW = 50  # steps over which the speed is taken


@runtime_checkable
class View(Protocol):
    """Something that shows a run."""

    def step(self) -> None:
        """An optimiser step is done."""

    def line(self, values: Mapping[str, Any]) -> None:
        """A line of metrics was written."""

    def close(self) -> None:
        """The run has ended or stopped."""


class NoView:
    """Shows nothing."""

    def step(self) -> None:
        pass

    def line(self, values: Mapping[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


class Bar:
    """One line that grows, and a line per evaluation."""

    def __init__(self, total: int, done: int) -> None:
        self.bar = tqdm(total=total, initial=done, unit="step", smoothing=0.05)

    def step(self) -> None:
        self.bar.update()

    def line(self, values: Mapping[str, Any]) -> None:
        if values["kind"] == "train":
            self.bar.set_postfix(loss=f"{values['loss']:.3f}", refresh=False)
            return
        scores = {k: v for k, v in values.items() if isinstance(v, float) and k != "minutes"}
        self.bar.write(f"step {values['step']}: " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()))

    def close(self) -> None:
        self.bar.close()


class LivePanel:
    """Loss, exact accuracy, halting, learning rate, speed and time left, each with its curve so far.

    Args:
        recipe: the settings.
        total: steps of the run.
        done: steps done before this sitting.
        console: where to draw; None takes stderr.
    """

    def __init__(self, recipe: Recipe, total: int, done: int, console: Console | None = None) -> None:
        self.recipe, self.total, self.done = recipe, total, done
        self.history: dict[str, list[float]] = defaultdict(list)
        self.last: dict[str, Mapping[str, Any]] = {}
        self.best = 0.0
        self.ticks: deque[float] = deque([time.monotonic()], maxlen=WINDOW + 1)
        self.began = time.monotonic()
        console = console or Console(stderr=True)
        self.live = Live(get_renderable=self.panel, console=console, refresh_per_second=2)
        self.live.start()

    def step(self) -> None:
        self.done += 1
        self.ticks.append(time.monotonic())

    def line(self, values: Mapping[str, Any]) -> None:
        kind = values["kind"]
        self.last[kind] = values
        for key, value in values.items():
            if isinstance(value, int | float):
                logarithmic = key == "loss" and value > 0
                self.history[f"{kind}/{key}"].append(math.log(value) if logarithmic else float(value))
        if kind == "eval" and (score := values.get("exact_accuracy")) is not None:
            self.best = max(self.best, score)

    def close(self) -> None:
        self.live.stop()

    def panel(self) -> Panel:
        """The picture of this moment."""
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style="dim")
        grid.add_column(justify="right")
        grid.add_column(style="cyan", no_wrap=True)
        for name, value, key in self._rows():
            grid.add_row(name, value, sparkline(self.history[key], WIDTH))
        title = f"{self.recipe.name}  step {self.done:,} of {self.total:,}"
        bar = Table.grid(expand=True)
        bar.add_row(ProgressBar(total=self.total, completed=self.done))
        return Panel(Group(bar, grid, Text(self._times(), "dim")), title=title, title_align="left", width=78)

    def _rows(self) -> list[tuple[str, str, str]]:
        """Name, value as text, key of the curve."""
        train, rows = self.last.get("train", {}), []
        if (loss := train.get("loss")) is not None:
            rows.append(("loss", f"{loss:.4f}", "train/loss"))
        if (exact := train.get("exact_accuracy")) is not None:
            rows.append(("exact, training", f"{100 * exact:.1f} %", "train/exact_accuracy"))
        if (held_out := self.last.get("eval", {}).get("exact_accuracy")) is not None:
            words = f"{100 * held_out:.1f} %, best {100 * self.best:.1f} %"
            rows.append(("exact, validation", words, "eval/exact_accuracy"))
        if (segments := train.get("segments")) is not None:
            budget = self.recipe.model.halt_max_steps
            rows.append(("halts after", f"{segments:.1f} of {budget} segments", "train/segments"))
        if (lr := train.get("lr")) is not None:
            rows.append(("learning rate", f"{lr:.2e}", "train/lr"))
        return rows or [("waiting for", f"step {self.recipe.train.log_every:,}", "")]

    def _times(self) -> str:
        spent = time.monotonic() - self.began
        if len(self.ticks) < 2:
            return "the first step may compile for a minute"
        seconds = (self.ticks[-1] - self.ticks[0]) / (len(self.ticks) - 1)
        left = (self.total - self.done) * seconds
        if limit := self.recipe.train.max_minutes:
            left = min(left, max(0.0, 60 * limit - spent))
        rate = self.recipe.train.batch_size / seconds
        words = f"{1 / seconds:.3g} steps, {rate:,.0f} puzzle segments a second"
        return f"{words}; {clock(spent)} spent, {clock(left)} left"


def clock(seconds: float) -> str:
    """A duration as a person says it: 42 s, 7 min, 3 h 05 min."""
    minutes = int(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def sparkline(values: Sequence[float], width: int) -> str:
    """A curve in `width` characters at most: means of equal stretches, from the least to the largest."""
    finite = [v for v in values if v == v]
    if not finite:
        return ""
    count = min(width, len(finite))
    cuts = [len(finite) * i // count for i in range(count + 1)]
    means = [sum(finite[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, high = min(means), max(means)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    return "".join(BARS[round((m - low) * scale)] for m in means)


def make_view(recipe: Recipe, total: int, done: int) -> View:
    """The panel where stderr is a terminal, else the bar."""
    if Console(stderr=True).is_terminal:
        return LivePanel(recipe, total, done)
    return Bar(total, done)
