"""Figures: what stands on their axes, and pictures of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from PIL import Image

from loopscope.reports import drawing, figures
from report_data import one


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.4, 1.0, [0.4, 0.6, 0.8, 1.0]),
        (0.03, 1.0, [0.05, 0.1, 0.2, 0.5, 1.0]),
        (7.1, 48.0, [10, 20, 30, 40]),
        (0.0005, 30.0, [0.001, 0.01, 0.1, 1, 10]),
        (1e-9, 300.0, [1e-8, 1e-6, 1e-4, 0.01, 1, 100]),
    ],
)
def test_ticks_suit_the_range(low: float, high: float, ticks: list[float]) -> None:
    assert drawing.log_ticks(low, high) == pytest.approx(ticks)


@pytest.mark.parametrize("high", [1.3, 4.0, 9.0, 12.0, 60.0, 900.0, 1e5, 1e9])
def test_there_are_at_least_two_ticks_on_a_low_panel(high: float) -> None:
    for start in (1.0, 2.1, 3.3, 5.2, 9.9):
        found = drawing.log_ticks(start, start * high, 4)
        assert len(found) >= 2
        assert min(found) >= start
        assert max(found) <= start * high * 1.001


def test_no_share_above_one_is_a_tick() -> None:
    for least in (0.4, 0.1, 0.001):
        ax = Figure().subplots()
        drawing.log_per_cent(ax, least)
        assert max(ax.get_yticks()) == 1.0
        assert ax.get_ylim()[1] < 1.3


def test_steps_of_a_training_run_are_whole() -> None:
    for steps in (range(20, 41), [3], [1, 2], range(0, 7001, 100)):
        ax = Figure().subplots()
        ax.plot(list(steps), list(steps))
        drawing.training_steps(ax)
        low, high = ax.get_xlim()
        shown = [tick for tick in ax.get_xticks() if low <= tick <= high]
        assert shown
        assert all(tick == round(tick) for tick in shown)


def test_the_fit_is_named_and_its_rejection_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def names() -> list[str]:
        return [text.get_text() for text in figures.survival_curve(one()).figure.axes[0].texts]

    assert "constant rate" in names()
    monkeypatch.setattr("loopscope.dynamics.decay.DecayTest.flagged", property(lambda _: True))
    assert "constant rate\n(rejected)" in names()


def test_a_picture_is_sharp_and_small(tmp_path: Path) -> None:
    drawing.save_png(figures.survival_curve(one()).figure, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width == 1000
    assert (tmp_path / "p.png").stat().st_size < 60_000


def test_rare_colours_of_a_picture_are_kept() -> None:
    """One red pixel among shades of green."""
    shades = np.zeros((64, 256, 3), np.uint8)
    shades[..., 1] = np.arange(256)
    shades[3, 7] = red = [round(255 * part) for part in to_rgb(drawing.UNSOLVED)]
    picture = Image.fromarray(shades)
    shown = np.asarray(drawing.reduced(picture, drawing.colour_table(picture)).convert("RGB")).astype(int)
    assert shown[3, 7].tolist() == red
    assert abs(shown - shades).max() < 12
