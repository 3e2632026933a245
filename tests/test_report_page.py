"""The page: it stands alone, has stable bytes, says what is missing, and holds its data."""

from __future__ import annotations

import base64
import io
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from loopscope.errors import UserError
from loopscope.reports import read_measurements, report, tables
from loopscope.reports.measurement import Measurement
from loopscope.reports.published import escape_comparison, published
from report_data import BUDGET, K_EXPONENTS, STOP, Page, one, synthetic


@pytest.fixture(scope="module")
def page_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return report(synthetic(), tmp_path_factory.mktemp("report") / "report.html").read_text()


def test_page_stands_alone(page_text: str) -> None:
    page = Page(page_text)
    assert page.open == []
    assert all(r.startswith(("#", "data:")) for r in page.references)
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert "@import" not in page_text
    assert not re.search(r"url\((?!#)", page_text)
    inner = {r[1:] for r in page.references if r.startswith("#")}
    assert inner <= set(page.ids)
    headings = [i for i in page.ids if i.startswith("word-")]
    assert len(headings) == len(set(headings))


def test_page_says_the_numbers(page_text: str) -> None:
    text = Page(page_text).text
    assert "sudoku-trm-mlp solves 60.0 % [50.2, 69.1] of 100 puzzles in 16 segments." in text
    assert "Failures wander: 0 of 40 failures settled (upper bound 7.2 %)." in text
    for part in (
        "The published column was not measured here",
        "TRM-MLP 0.994 [0.991, 0.996]",
        "+2.16 per segment",
        "4f" * 32,
    ):
        assert part in text
    assert "loopscope measure sudoku-trm-mlp --segments 64 --exponents 4 --out run.zarr" in text
    assert not re.search(r"\bnan\b", text.lower().replace("nan: no puzzle", ""))


def test_figure_data_is_in_the_page(page_text: str) -> None:
    links = [r for r in Page(page_text).references if r.startswith("data:text/csv;base64,")]
    frames = [pd.read_csv(io.BytesIO(base64.b64decode(link.partition(",")[2]))) for link in links]
    assert len(frames) == 8
    assert frames[0]["applications"].tolist()[:2] == [21, 42]
    assert frames[0]["solved"].tolist()[BUDGET - 1] == 0.6


def test_same_data_same_bytes(page_text: str, tmp_path: Path) -> None:
    assert report(synthetic(), tmp_path / "again.html").read_text() == page_text


def test_missing_variables_leave_a_sentence(tmp_path: Path) -> None:
    bare = synthetic().drop_vars(["ftle", "growth", "basin_solved", "basin_final", "answer", "rating"])
    text = Page(report(bare, tmp_path / "bare.html").read_text()).text
    assert "add --exponents 4" in text
    assert "Restarts were not measured" in text
    assert "no difficulty rating" in text
    assert "boards were not recorded" in text
    assert "Spectrum by fate" not in text
    assert "Nearby states" not in text
    least = xr.Dataset({"solved": bare["solved"]}, attrs={"budget": BUDGET})
    text = Page(report(least, tmp_path / "least.html").read_text()).text
    assert "solves 60.0 %" in text
    assert "The drift was not recorded." in text


def test_short_single_state_run(tmp_path: Path) -> None:
    """One drift, growth on the segments themselves, nothing after a budget that is cut short."""
    data = synthetic(stop=STOP).isel(segment=slice(0, 3)).rename(drift_H="drift")
    data = data.drop_vars(["drift_L", "growth", "basin_solved", "basin_final"])
    text = Page(report(data, tmp_path / "short.html").read_text()).text
    assert "Fates need a drift over at least 4 segments" in text
    assert "in 3 segments" in text


def test_growth_padded_over_all_segments_reads_the_same() -> None:
    data = synthetic()
    padded = np.full((100, STOP, K_EXPONENTS), np.nan)
    padded[:, :BUDGET] = data["growth"].values
    other = data.drop_vars("growth").assign(growth=(("puzzle", "segment", "exponent"), padded))
    assert tables.quantities(read_measurements(other)[0]) == tables.quantities(read_measurements(data)[0])


def test_several_and_files(tmp_path: Path) -> None:
    synthetic(name="trm").to_zarr(tmp_path / "a.zarr", consolidated=False)
    hrm = synthetic(55, 4, 41, settled_wrong=36, applications=6, name="hrm")
    text = report([tmp_path / "a.zarr", hrm], tmp_path / "both.html").read_text()
    page = Page(text)
    assert "Side by side" in page.text
    assert "Failures settle: 36 of 45" in page.text
    assert {"run1", "run2"} <= set(page.ids)
    a, b = read_measurements([tmp_path / "a.zarr", hrm])
    found = escape_comparison(a, b, paired=True)
    assert found is not None
    # 10 and 4 escapes; the rest of 40 and 45 puzzles are watched for 48 segments
    shares = [10 / (sum(range(4, 44, 4)) + 30 * 48), 4 / (sum(range(4, 20, 4)) + 41 * 48)]
    expected = np.log1p(-shares[0]) / np.log1p(-shares[1])
    assert found.per_segment.value == pytest.approx(expected)
    assert found.per_application.value == pytest.approx(expected * 6 / 21)
    assert "trm escapes" in page.text.replace("sudoku-", "")
    assert "times as fast as hrm per segment" in page.text
    assert "Accuracy against compute, side by side" in page.text
    twice = read_measurements([synthetic(), synthetic()])
    assert twice[0].name != twice[1].name


def test_measurements_of_other_puzzles_are_told_apart(tmp_path: Path) -> None:
    words = "were measured on different puzzles"
    a, b = synthetic(name="a"), synthetic(name="b")
    assert words not in report([a, b], tmp_path / "same.html").read_text()
    assert words in report([a, b.isel(puzzle=slice(0, 90))], tmp_path / "other.html").read_text()


def test_incomplete_run_counts_only_what_is_done(tmp_path: Path) -> None:
    data = synthetic()
    data["measured"][40:] = False
    data.to_zarr(tmp_path / "part.zarr", consolidated=False)
    text = Page(report(tmp_path / "part.zarr", tmp_path / "part.html").read_text()).text
    assert "40 of 100 puzzles (the run is not complete)" in text


def test_published_only_for_its_puzzles() -> None:
    m = one()
    assert published(m, "failures that settled").startswith("HRM 0.55 % [0.33, 0.78]; TRM-MLP 0.0 %")
    assert published(m, "solved after 16 segments") == "HRM 52.6 %; TRM-MLP 87.6 %"
    assert published(m, "solved after 64 segments") == ""
    maze = Measurement(m.data.assign_attrs(task="maze-30x30"), "maze")
    assert published(maze, "failures that settled") == ""


def test_not_a_measurement(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.zarr"):
        report(tmp_path / "missing.zarr", tmp_path / "out.html")
    with pytest.raises(UserError, match="not a measurement"):
        report(xr.Dataset({"x": ("puzzle", [1.0])}), tmp_path / "out.html")
    with pytest.raises(UserError, match="no measurement given"):
        report([], tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()
