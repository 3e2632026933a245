"""Reports: numbers against hand-computed ones, missing variables, stable bytes, a page that stands alone."""

from __future__ import annotations

import base64
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from scipy import stats

from loopscope.errors import UserError
from loopscope.reports import figures, findings, orbit_figures, read_measurements, report, tables
from loopscope.reports.boards import board_svg, token_text
from loopscope.reports.drawing import to_svg
from loopscope.reports.measurement import Measurement
from loopscope.reports.published import escape_ratio, published_table
from loopscope.reports.quantity import Quantity, median, rounded, zero_bound

BUDGET, STOP, K_EXPONENTS = 16, 64, 4
SOLUTION = "534678912672195348198342567859761423426853791713924856961537284287419635345286179"


def synthetic(
    solved_early: int = 60,
    solved_late: int = 10,
    never: int = 30,
    *,
    settled_wrong: int = 0,
    stop: int = STOP,
    applications: int = 21,
    kick: float = 0.5,
    name: str = "sudoku-trm-mlp",
    seed: int = 0,
) -> xr.Dataset:
    """A measurement with known outcomes.

    `solved_early` puzzles are solved at segment 2, 3, ..., 12 in turn and stay solved; `solved_late` at
    20, 24, 28, ...; `never` not at all. Successes drift .01 in the end, failures 30, except
    `settled_wrong` of them.
    """
    rng = np.random.default_rng(seed)
    n = solved_early + solved_late + never
    first = np.full(n, -1)
    first[:solved_early] = 2 + np.arange(solved_early) % 11
    first[solved_early : solved_early + solved_late] = 20 + 4 * np.arange(solved_late)
    first[first > stop] = -1
    segment = np.arange(1, stop + 1)
    solved = (first[:, None] > 0) & (segment >= first[:, None])
    correct = solved[:, min(BUDGET, stop) - 1]
    still = solved.copy()
    still[n - settled_wrong :, 6:] = True
    noise = rng.lognormal(0, 0.2, (n, stop))
    steps = np.cumsum(still, axis=1)
    drift = np.where(still, 30 * 0.2 ** np.minimum(steps, 5), 30) * noise
    growth = np.where(solved[:, :BUDGET, None], -0.3, 2.0) - 0.25 * np.arange(K_EXPONENTS)
    growth = growth + rng.normal(0, 0.3, growth.shape)
    labels = np.tile(np.array([int(c) + 1 for c in SOLUTION], np.uint8), (n, 1))
    inputs = np.where(np.arange(81) % 3 == 0, labels, 1).astype(np.uint8)
    answers = labels.copy()
    answers[~correct, 1], answers[~correct, 4] = labels[~correct, 2], 1
    hits = np.where(
        correct[:, None, None], True, rng.random((n, 3, 4)) < np.array([0, kick, kick])[None, :, None]
    )
    plane = ("puzzle", "segment")
    variables = {
        "solved": (plane, solved),
        "cell_accuracy": (plane, np.where(solved, 1.0, 79 / 81)),
        "halt_logit": (plane, np.where(solved, 4.0, -6.0) + rng.normal(0, 1, (n, stop))),
        "drift_H": (plane, drift),
        "drift_L": (plane, 0.5 * drift),
        "growth": (("puzzle", "segment_growth", "exponent"), growth),
        "ftle": (("puzzle", "exponent"), growth.mean(axis=1)),
        "first_solved": (("puzzle",), first),
        "basin_solved": (("puzzle", "sigma", "restart"), hits),
        "basin_final": (("puzzle", "sigma", "restart"), hits),
        "inputs": (("puzzle", "cell"), inputs),
        "labels": (("puzzle", "cell"), labels),
        "answer": (("puzzle", "cell"), answers),
        "measured": (("puzzle",), np.ones(n, bool)),
    }
    coords = {
        "puzzle": np.arange(n),
        "segment": segment,
        "exponent": np.arange(1, K_EXPONENTS + 1),
        "sigma": [0.0, 0.1, 0.3],
        "restart": np.arange(1, 5),
        "rating": ("puzzle", np.where(np.arange(n) % 2 == 0, 0, 50)),
        "givens": ("puzzle", np.full(n, 27)),
    }
    attrs = {
        "format": "loopscope-measurement-1",
        "model": name,
        "model_hash": "4f" * 32,
        "data": "sudoku-extreme test",
        "data_hash": "a1" * 32,
        "task": "sudoku-3x3",
        "n": n,
        "seed": 0,
        "budget": BUDGET,
        "applications_per_segment": applications,
        "exponents_segments": BUDGET,
        "restart_segments": BUDGET,
        "traj_dtype": "float32",
        "tangent_dtype": "float32",
        "num_parameters": 5_028_866,
        "versions": '{"loopscope": "0.1.0", "torch": "2.9"}',
        "command": f"loopscope measure {name} --segments {stop} --exponents {K_EXPONENTS} --out run.zarr",
        "created": "2026-01-01T00:00:00+00:00",
    }
    runs = xr.Dataset(variables, coords, attrs)
    units = {
        "growth": "nats per segment",
        "ftle": "nats per segment",
        "first_solved": "segments",
        "drift_H": "norm",
    }
    for variable in runs.data_vars:
        runs[variable].attrs.update(units=units.get(str(variable), "1"), long_name=str(variable))
    return runs


def one(**how: object) -> Measurement:
    return read_measurements(synthetic(**how))[0]  # type: ignore[arg-type]


class Page(HTMLParser):
    """Collects what a page would load, its ids, and whether its tags close."""

    VOID = frozenset({"meta", "br", "link", "img", "input", "hr"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.references: list[str] = []
        self.ids: list[str] = []
        self.tags: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("href", "src", "xlink:href", "srcset", "action", "data", "poster"):
                self.references.append(value or "")
            if name == "id":
                self.ids.append(value or "")
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.words).replace("\u00a0", " ").split())


@pytest.fixture(scope="module")
def page_text(tmp_path_factory: pytest.TempPathFactory) -> str:
    return report(synthetic(), tmp_path_factory.mktemp("report") / "report.html").read_text()


# -- numbers


def test_quantities_against_hand() -> None:
    numbers = tables.quantities(one())
    assert numbers["solved after 16 segments"].value == 0.6
    assert numbers["solved after 64 segments"].value == 0.7
    wilson = stats.binomtest(60, 100).proportion_ci(method="wilson")
    got = numbers["solved after 16 segments"]
    assert (got.low, got.high) == pytest.approx((wilson.low, wilson.high))
    assert str(got) == "60.0 % [50.2, 69.1]"
    assert numbers["cells right"].value == pytest.approx(0.6 + 0.4 * 79 / 81)
    # 10 escapes at 4, 8, ..., 40 segments after the budget, 30 puzzles watched for all 48
    p = 10 / (sum(range(4, 44, 4)) + 30 * 48)
    assert numbers["escape rate"].value == pytest.approx(-math.log1p(-p))
    assert numbers["escape rate per application"].value == pytest.approx(-math.log1p(-p) / 21)
    assert numbers["failures that settled"].value == 0
    assert "0 of 40; one-sided upper bound 7.22 %" in numbers["failures that settled"].note


def test_headline_for_a_terminal() -> None:
    rows = dict(tables.headline(synthetic()))
    assert rows["solved after 16 segments"] == "60.0 % [50.2, 69.1]"


def test_auc_and_medians_against_scipy() -> None:
    data = synthetic(seed=3)
    # make the classes overlap, so that the area is not trivially one
    data["ftle"] = data["ftle"] + np.random.default_rng(1).normal(0, 2, data["ftle"].shape)
    m = read_measurements(data)[0]
    numbers = tables.quantities(m)
    right, wrong = data["ftle"].values[:60, 0], data["ftle"].values[60:, 0]
    u = stats.mannwhitneyu(-right, -wrong).statistic / (60 * 40)
    assert 0.55 < u < 0.95
    assert numbers["AUC, low exponent → solved"].value == pytest.approx(u)
    assert numbers["median exponent, unsolved"].value == np.median(wrong)
    ranked = np.sort(wrong)  # order statistics of 40: ranks 14 and 27 cover the median with >= 95 %
    assert stats.binom.cdf(26, 40, 0.5) - stats.binom.cdf(13, 40, 0.5) > 0.95
    assert numbers["median exponent, unsolved"].low == pytest.approx(ranked[13])
    assert numbers["median exponent, unsolved"].high == pytest.approx(ranked[26])


def test_early_exponent_uses_only_puzzles_still_open() -> None:
    m = one()
    early = tables.quantities(m)["AUC, low early exponent → solved later"]
    assert early.n == int((m.first_solved[:60] > tables.EARLY).sum()) + 40
    retrospective = tables.quantities(m)["AUC, low exponent → solved"]
    assert retrospective.value > 0.99  # the exponents of the test data know nothing before the solution
    assert early.low < 0.5 < early.high


def test_fates_and_ratings() -> None:
    m = one(settled_wrong=7)
    table = tables.fate_rows(m)
    assert table is not None
    assert [list(row[1:]) for row in table.rows] == [[60, 7, 67], [0, 33, 33], [60, 40, 100]]
    bands = tables.rating_rows(m)
    assert bands is not None
    found = {str(row[0]): row[1] for row in bands.rows}
    assert str(found["0"]).startswith("60.0 %")
    assert str(found["100+"]) == "NaN: no puzzle"


def test_restart_rates_against_hand() -> None:
    m = one()
    hits = m.data["basin_solved"].values[60:, 2]
    single, best, final = tables.restart_rates(m, ~m.correct, 2)
    assert single.value == pytest.approx(hits.mean())
    assert best.value == pytest.approx(hits.any(axis=1).mean())
    assert final.value == pytest.approx(hits.mean())
    none = tables.restart_rates(m, ~m.correct, 0)[0]
    assert none.value == 0
    assert none.high == pytest.approx(stats.binomtest(0, 40).proportion_ci(method="wilson").high)
    assert none.high > 0.05  # a bootstrap of zeros would claim certainty


def test_zero_bound_and_formats() -> None:
    assert zero_bound(254) == pytest.approx(1 - 0.05 ** (1 / 254))
    assert rounded(2.0, sign=True) == "+2.00"
    assert rounded(-0.1524) == "−0.152"
    assert rounded(2.2e-5) == "2.20×10⁻⁵"
    assert rounded(-math.inf) == "−∞"
    assert (
        str(Quantity(math.nan, math.nan, math.nan, 0, note="no unsolved puzzle")) == "NaN: no unsolved puzzle"
    )
    assert str(median(np.array([np.nan]), "nats", "no solved puzzle")) == "NaN: no solved puzzle"


# -- findings follow the numbers


@pytest.mark.parametrize(
    ("settled", "verdict"),
    [(0, "Failures wander"), (4, "Failures wander"), (36, "Failures settle"), (17, "Undecided")],
)
def test_fate_verdict(settled: int, verdict: str) -> None:
    found = findings.fate_finding(tables.fates(one(settled_wrong=settled)))
    assert found is not None
    assert found.verdict.startswith(verdict)
    assert f"{settled} of 40 failures settled" in found.evidence


def test_failures_that_are_still_slowing_down_do_not_count_as_wandering() -> None:
    table = tables.fates(one(settled_wrong=0))
    level = findings.fate_finding(table, 0)
    falling = findings.fate_finding(table, table.wandering_wrong - 1)
    assert level.verdict == "Failures wander"
    assert falling.verdict == "Some failures wander, most settle or are about to"
    assert f"{table.wandering_wrong - 1} more still falls" in falling.evidence


def test_still_falling_is_read_from_the_last_two_windows() -> None:
    data = synthetic()
    m = read_measurements(data)[0]
    assert findings.still_falling(m) == 0  # the failures of the synthetic run keep their speed
    drift = data[m.drift_name].values.copy()
    drift[~m.correct] *= 0.8 ** np.arange(drift.shape[1])
    slower = read_measurements(data.assign({m.drift_name: (("puzzle", "segment"), drift)}))[0]
    assert findings.still_falling(slower) == int((~slower.correct & ~slower.settled).sum()) > 0


def test_fate_verdict_needs_two_groups() -> None:
    """One peak of drift: Otsu still cuts, and the report must not believe it."""
    data = synthetic()
    data["drift_H"][:] = np.exp(np.random.default_rng(0).normal(0, 1, (100, 1))) * np.ones((1, STOP))
    found = findings.fate_finding(tables.fates(read_measurements(data)[0]))
    assert found is not None
    assert found.verdict.startswith("Undecided")
    assert "arbitrary" in found.evidence


def test_empty_classes_say_why(tmp_path: Path) -> None:
    perfect = one(solved_early=50, solved_late=0, never=0)
    numbers = tables.quantities(perfect)
    assert math.isnan(numbers["AUC, low exponent → solved"].value)
    assert "no unsolved puzzle" in str(numbers["AUC, low exponent → solved"])
    assert "every puzzle is solved by segment 16" in str(numbers["escape rate"])
    verdicts = [f.verdict for f in findings.findings(perfect, numbers)]
    assert "No failure to classify" in verdicts
    hopeless = one(solved_early=0, solved_late=0, never=30)
    assert "no solved puzzle" in str(tables.quantities(hopeless)["median exponent, solved"])
    for name, m in (("perfect", perfect), ("hopeless", hopeless)):
        Page(report(m.data, tmp_path / f"{name}.html").read_text())


def test_time_and_restart_verdicts() -> None:
    more = findings.time_finding(one())
    assert more is not None
    assert more.verdict == "More time helps"
    assert "10 puzzles were gained and 0 lost" in more.evidence
    assert f"p = {stats.binomtest(10, 10).pvalue:.2g}" in more.evidence
    same = findings.time_finding(one(solved_late=2))
    assert same is not None
    assert same.verdict.startswith("Undecided")
    verdicts = {}
    for kick in (0.0, 0.5, 0.9):
        found = findings.restart_finding(one(kick=kick))
        assert found is not None
        verdicts[kick] = found.verdict
    assert "0 lost (exact McNemar p = 1). 0 of 30" in str(findings.time_finding(one(solved_late=0)))
    assert verdicts == {
        0.0: "Undecided whether kicks free failures",
        0.5: "Kicks free most failures",
        0.9: "Kicks free most failures",
    }


def test_exponent_verdict_follows_the_sign() -> None:
    data = synthetic()
    data["ftle"] = -data["ftle"]
    m = read_measurements(data)[0]
    found = findings.exponent_finding(tables.quantities(m))
    assert found is not None
    assert found.verdict == "A high exponent goes with success"
    plain = findings.exponent_finding(tables.quantities(one()))
    assert plain is not None
    assert plain.verdict.startswith("A low exponent")
    assert "not shown to say more" in plain.evidence


def test_mcnemar_only_on_the_same_puzzles() -> None:
    a, b = read_measurements([synthetic(name="a"), synthetic(50, 10, 40, name="b")])
    assert "10 are solved only by a and 0 only by b" in str(findings.mcnemar(a, b))
    other = b.data.assign_attrs(data_hash="other")
    assert findings.mcnemar(a, Measurement(other, "b")) is None


# -- figures


def test_figure_data() -> None:
    m = one(settled_wrong=7)
    accuracy = figures.accuracy_by_segment(m).table
    assert accuracy["solved"].tolist() == pytest.approx(m.solved.mean(axis=0).tolist())
    survival = figures.survival_curve(m).table
    assert survival["unsolved"].iloc[[0, BUDGET, STOP]].tolist() == pytest.approx([1.0, 0.4, 0.3])
    assert survival["fit"].iloc[BUDGET] == pytest.approx(0.4)
    spectrum = orbit_figures.spectrum_by_fate(m).table.set_index(["fate", "exponent"])
    assert spectrum.loc[("settled, unsolved", 1), "n"] == 7
    expected = np.quantile(m.exponents[93:, 0], 0.5, method="nearest")
    assert spectrum.loc[("settled, unsolved", 1), "median"] == pytest.approx(expected)
    scatter = orbit_figures.drift_against_exponent(m).table
    assert (len(scatter), int(scatter["settled"].sum())) == (100, 67)
    restarts = figures.restart_curves(m).table
    assert set(restarts["n"]) == {60, 40}


def test_chosen_orbits() -> None:
    m = one()
    orbits = orbit_figures.chosen_orbits(m)
    assert m.first_solved[orbits["quick success"]] == np.sort(m.first_solved[m.first_solved > 0])[70 // 4]
    assert m.first_solved[orbits["late success"]] == 40  # the middle of 20, 24, ..., 56
    assert m.first_solved[orbits["failure"]] == -1


def test_training_curves() -> None:
    lines = [
        {"step": s, "minutes": s / 100, "kind": "train", "loss": 2 / s, "exact_accuracy": s / 1000}
        for s in range(50, 500, 50)
    ]
    evals = [{"step": 200, "minutes": 2, "kind": "eval", "exact_accuracy": 0.6}]
    evals += [{"step": 400, "minutes": 4, "kind": "eval", "exact_accuracy": 0.5}]
    plot = figures.training_curves([*lines, *evals])
    assert "60.0 % at step 200" in plot.caption
    assert len(plot.table) == len(lines) + 2
    assert "no validation" in figures.training_curves(lines).caption


def test_svg_is_stable_and_without_date() -> None:
    first, again = (to_svg(figures.accuracy_by_segment(one()).figure, "title") for _ in range(2))
    assert first == again
    assert "date" not in first.lower()
    assert first.startswith("<svg")


# -- boards


def test_board_marks_exactly_the_wrong_cells() -> None:
    labels = np.array([int(c) + 1 for c in SOLUTION], np.uint8)
    inputs = np.where(np.arange(81) < 30, labels, 1).astype(np.uint8)
    answer = labels.copy()
    answer[[40, 80]] = 1
    drawn = board_svg(inputs, labels, answer, "sudoku-3x3")
    assert drawn.count('class="wrong"') == 2
    assert drawn.count('class="given"') == 30
    assert drawn.count('class="found"') == 49
    assert ">9</text>" in drawn[drawn.rindex('class="right"') :]
    unlabelled = labels.copy()
    unlabelled[40] = 0
    assert board_svg(inputs, unlabelled, answer, "sudoku-3x3").count('class="wrong"') == 1


def test_token_text() -> None:
    assert [token_text("sudoku-3x3", t) for t in (0, 1, 2, 10)] == ["", "", "1", "9"]
    assert [token_text("maze-30x30", t) for t in range(6)] == ["", "#", "", "S", "G", "o"]
    assert token_text("arc-1", 2) == "0"
    assert token_text("unknown", 7) == "7"
    assert board_svg(*np.ones((3, 12), np.uint8), "own").startswith("<svg")  # not a square: one row


# -- the page


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
    for part in ("published, not measured here", "0.993 [0.991, 0.996]", "+2.16 per segment", "4f" * 32):
        assert part in text
    assert "loopscope measure sudoku-trm-mlp --segments 64 --exponents 4 --out run.zarr" in text
    assert not re.search(r"\bnan\b", text.lower().replace("nan: no puzzle", ""))


def test_figure_data_is_in_the_page(page_text: str) -> None:
    links = [r for r in Page(page_text).references if r.startswith("data:text/csv;base64,")]
    frames = [pd.read_csv(io.BytesIO(base64.b64decode(link.partition(",")[2]))) for link in links]
    assert len(frames) == 8
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
    ratio = escape_ratio(a, b)
    assert ratio is not None
    assert ratio[0] / ratio[1] == pytest.approx(21 / 6)
    assert f"{ratio[0]:.2g} times as fast as hrm per segment" in page.text
    twice = read_measurements([synthetic(), synthetic()])
    assert twice[0].name != twice[1].name


def test_incomplete_run_counts_only_what_is_done(tmp_path: Path) -> None:
    data = synthetic()
    data["measured"][40:] = False
    data.to_zarr(tmp_path / "part.zarr", consolidated=False)
    text = Page(report(tmp_path / "part.zarr", tmp_path / "part.html").read_text()).text
    assert "40 of 100 puzzles (the run is not complete)" in text


def test_published_only_for_its_puzzles() -> None:
    m = one()
    numbers = tables.quantities(m)
    assert published_table(m, numbers) is not None
    maze = Measurement(m.data.assign_attrs(task="maze-30x30"), "maze")
    assert published_table(maze, numbers) is None


def test_not_a_measurement(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"missing\.zarr"):
        report(tmp_path / "missing.zarr", tmp_path / "out.html")
    with pytest.raises(UserError, match="not a measurement"):
        report(xr.Dataset({"x": ("puzzle", [1.0])}), tmp_path / "out.html")
    with pytest.raises(UserError, match="no measurement given"):
        report([], tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()
