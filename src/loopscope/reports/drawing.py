"""How all figures look, and how they become inline SVG with the same bytes for the same data.

Figures are drawn 5 inches wide, so that their text stays readable when a phone shrinks them. Text stays
text; black ink becomes `currentColor`, so that the page decides about dark mode.
"""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator
from PIL import Image

from loopscope.files import written_whole
from loopscope.reports.quantity import RAISED

SOLVED, UNSOLVED, GREY, INK = "#009E73", "#D55E00", "#8C8C8C", "#1B1B1A"
OUTCOMES: dict[
    str, dict[str, Any]
] = {  # name -> how it is drawn; told apart by dash and marker as well as by colour
    "solved": {"color": SOLVED, "linestyle": "-", "marker": "o"},
    "unsolved": {"color": UNSOLVED, "linestyle": (0, (4, 2)), "marker": "x"},
}
STYLE: Any = {  # matplotlib types its keys as a literal of all settings
    "figure.figsize": (5.0, 3.1),
    "figure.constrained_layout.use": True,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "none",
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "axes.labelsize": 8.5,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GREY,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.5,
    "axes.linewidth": 0.7,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.minor.width": 0.5,
    "ytick.minor.width": 0.5,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "lines.linewidth": 1.7,
    "lines.markersize": 4,
    "svg.fonttype": "none",
    "svg.hashsalt": "loopscope",
    "axes.unicode_minus": True,
    "text.parse_math": False,  # a model may be called $5
}
styled: Callable[..., Any] = mpl.rc_context(STYLE)
DPI = 200  # of pictures: sharp on a screen with two dots a pixel
OTHERS = ("#0072B2", "#CC79A7", "#E69F00", "#56B4E9")  # Okabe and Ito; green and vermilion are outcomes
COMMON = 80  # most frequent colours of a picture that it keeps; as many means of the others
SHADES = (1.0, 0.8, 0.6, 0.45, 0.2)  # of every named colour on white, which a picture keeps besides


@dataclass(frozen=True)
class Plot:
    """A figure with what belongs to it.

    Attributes:
        key: short name, used for the file name of its data.
        title: what is shown.
        figure: the picture.
        table: the numbers behind it.
        caption: how to read it, with n and interval.
    """

    key: str
    title: str
    figure: Figure
    table: pd.DataFrame
    caption: str


def to_svg(figure: Figure, title: str) -> str:
    """The figure as an `<svg>` element for a page: no date, no size, no prolog, stable ids."""
    buffer = io.StringIO()
    with mpl.rc_context(STYLE):
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[A-Za-z0-9]+_\d+"', "", text)  # group names repeat from figure to figure
    text = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", text, count=1)
    text = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text, count=1)
    text = re.sub(INK, "currentColor", text, flags=re.IGNORECASE)
    return text.replace("<svg", f'<svg role="img" aria-label="{title}"', 1)


def save_png(figure: Figure, path: Path) -> None:
    """The figure on white, whole or not at all, in few colours so that the file is small."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI, facecolor="white")
    drawn = Image.open(buffer).convert("RGB")
    with written_whole(path) as beside:
        reduced(drawn, colour_table(drawn)).save(beside, format="PNG", optimize=True)


def colour_table(sample: Image.Image, more: Sequence[str] = OTHERS) -> np.ndarray:
    """At most 256 colours for a picture, (n, 3): common and mean ones of a sample, and all with a meaning.

    A rare one would be lost among the common ones: the one red cross among a thousand green dots.

    Args:
        sample: what is to be shown.
        more: colours that mean something besides those of outcomes.
    """
    present, count = np.unique(_numbers(sample), return_counts=True)
    common = _colours(present[np.argsort(-count, kind="stable")][:COMMON])
    mixed = np.reshape(sample.quantize(COMMON).getpalette() or [], (-1, 3))
    named = np.array([to_rgb(colour) for colour in (SOLVED, UNSOLVED, GREY, INK, *more)])
    kept = [255 * (1 - part + part * named) for part in SHADES]
    table = np.vstack([common, mixed, *kept, [[255, 255, 255]]]).round().astype(np.uint8)
    return np.unique(table, axis=0)[:256]


def reduced(picture: Image.Image, table: np.ndarray) -> Image.Image:
    """The picture in the nearest colours of a table."""
    pixels = _numbers(picture)
    present, place = np.unique(pixels, return_inverse=True)
    nearest = ((_colours(present)[:, None] - table.astype(np.int32)) ** 2).sum(-1).argmin(1).astype(np.uint8)
    image = Image.fromarray(nearest[place].reshape(pixels.shape), mode="P")
    image.putpalette(table.tobytes())
    return image


def _numbers(picture: Image.Image) -> np.ndarray:
    """Every pixel as one number."""
    return np.asarray(picture).astype(np.int32) @ np.array([1 << 16, 1 << 8, 1])


def _colours(numbers: np.ndarray) -> np.ndarray:
    """Red, green and blue of such numbers, (n, 3)."""
    return np.stack([numbers >> 16, numbers >> 8 & 255, numbers & 255], axis=1)


def line(ax: Axes, x: np.ndarray, y: np.ndarray, outcome: str, **more: Any) -> None:
    """A curve in the colour and dash of its outcome."""
    kind = OUTCOMES[outcome]
    ax.plot(x, y, color=kind["color"], linestyle=kind["linestyle"], **more)


def band(ax: Axes, x: np.ndarray, low: np.ndarray, high: np.ndarray, color: str) -> None:
    """An interval around a curve."""
    ax.fill_between(x, low, high, color=color, alpha=0.2, linewidth=0)


def log_segments(ax: Axes, stop: int, label: str = "segments", room: int = 9) -> None:
    """Log time axis from 1 to `stop`, ticks at powers of two, of 4 where there is no room for so many."""
    ticks = [2**i for i in range(int(np.log2(max(stop, 1))) + 1)]
    ax.set_xscale("log", base=2)
    ax.set_xlim(0.93, stop * 1.07 if stop > 1 else 2)
    ax.xaxis.set_major_locator(FixedLocator(ticks if len(ticks) <= room else ticks[::2]))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(label)


def mark_budget(
    ax: Axes,
    budget: int,
    words: str | None = "training budget",
    *,
    side: Literal["left", "right"] = "left",
    height: float = 1.0,
) -> None:
    """Dashed grey line where training stopped, named at its top.

    Args:
        ax: with segments along x.
        budget: segments.
        words: the name; None leaves it out.
        side: of the line, where the name stands, at
        height: as a share of the axis.
    """
    ax.axvline(budget, color=GREY, linestyle="--", linewidth=0.9, zorder=1)
    if words:
        ax.annotate(
            words,
            (budget, height),
            xycoords=("data", "axes fraction"),
            xytext=(-3 if side == "left" else 3, 0),
            textcoords="offset points",
            ha="right" if side == "left" else "left",
            va="bottom",
            fontsize=7,
            color=GREY,
            annotation_clip=False,
        )


def label_right(ax: Axes, ends: Sequence[tuple[float, str, str]], gap: float = 0.075) -> None:
    """Names of curves at the right edge, at the height of their ends, moved apart where they would touch.

    Args:
        ax: with its final limits and scales.
        ends: (y in data units, text, colour) per curve.
        gap: least distance, as a share of the axis.
    """
    to_axes = ax.transData + ax.transAxes.inverted()
    placed = sorted(
        (float(to_axes.transform((ax.get_xlim()[1], y))[1]), text, color) for y, text, color in ends
    )
    heights = [min(max(y, 0.0), 1.0) for y, _, _ in placed]
    lines = [1 + text.count("\n") for _, text, _ in placed]
    apart = [gap * (a + b) / 2 for a, b in pairwise(lines)]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + apart[i - 1])
    if heights:
        heights[-1] = min(heights[-1], 1.0)
    for i in range(len(heights) - 2, -1, -1):
        heights[i] = min(heights[i], heights[i + 1] - apart[i])
    for height, (_, text, color) in zip(heights, placed, strict=True):
        ax.text(1.015, height, text, transform=ax.transAxes, color=color, va="center", fontsize=8)


def log_work(ax: Axes, least: float, most: float, label: str) -> None:
    """Logarithmic x axis of costs with plain numbers, room for names."""
    ax.set_xscale("log")
    ax.set_xlim(least / 1.2, most * 1.35)
    ax.xaxis.set_major_locator(FixedLocator(log_ticks(*ax.get_xlim())))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.set_xlabel(label)


def training_steps(ax: Axes) -> None:
    """The x axis of a training run, with ticks at whole steps only."""
    ax.set_xlabel("training step")
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))


def per_cent(ax: Axes) -> None:
    """Shares on the y axis, printed in per cent."""
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def log_per_cent(ax: Axes, least: float) -> None:
    """Shares on a logarithmic y axis from about `least` to 1, no tick above."""
    log_values(ax, least, least**-0.03)  # a little room for the line at 1
    ax.yaxis.set_major_locator(FixedLocator(log_ticks(least, 1.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))


def log_values(ax: Axes, low: float, high: float, most: int = 8) -> None:
    """Logarithmic y axis with plain numbers, at most so many."""
    if not 0 < low < high < math.inf:  # nothing is drawn
        ax.set_yscale("linear")
        return
    ax.set_yscale("log")
    ax.set_ylim(low, high)
    ax.yaxis.set_major_locator(FixedLocator(log_ticks(low, high, most)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    ax.yaxis.set_minor_locator(NullLocator())


def log_ticks(low: float, high: float, most: int = 8) -> list[float]:
    """Ticks of a logarithmic axis, two at least: 1, 2 and 5 times powers of ten; powers only, or every
    second or third one, where those are too many; other round numbers within a factor of 5."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    if high / low > 5:
        for steps, every in (((1, 2, 5), 1), *(((1,), n) for n in range(1, len(decades))), ((1, 3), 1)):
            ticks = [step * 10.0**d for d in decades if d % every == 0 for step in steps]
            inside = [tick for tick in ticks if low <= tick <= high * (1 + 1e-9)]
            if (3 if high / low < 10 else 2) <= len(inside) <= most:
                return inside
    for bins in range(min(most, 5), 20):
        ticks = list(MaxNLocator(bins, steps=[1, 2, 5, 10]).tick_values(low, high))
        inside = [float(tick) for tick in ticks if low <= tick <= high * (1 + 1e-9)]
        if len(inside) >= 2:
            return inside
    return [low, high]


def _tick(value: float) -> str:
    """5, 0.0001, 10⁻⁶, 2×10⁻⁶"""
    if not 0 < value < 0.99e-4:
        return f"{value:g}"
    first, _, power = f"{value:.0e}".partition("e")
    raised = str(int(power)).translate(RAISED)
    return f"10{raised}" if first == "1" else f"{first}×10{raised}"
