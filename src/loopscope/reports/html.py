"""The report: one self-contained page, made from measurements; with models, three puzzles of each run again.

No script, no request to anywhere; pictures are inline SVG and the data behind each is a link that holds
it. The same measurements give the same bytes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from html import escape
from itertools import combinations
from pathlib import Path
from typing import Any

from loopscope.dynamics.escape_compare import EscapeComparison
from loopscope.dynamics.outcomes import outcome_statistics
from loopscope.errors import UserError
from loopscope.evaluation.intervals import Estimate
from loopscope.files import write_text
from loopscope.reports import dynamics_tables, tables
from loopscope.reports.boards import board_svg, chosen_boards
from loopscope.reports.claims import claims, claims_table, tally
from loopscope.reports.compare_figures import accuracy_by_work, survival_by_work
from loopscope.reports.drawing import Plot
from loopscope.reports.figures import accuracy_by_segment, restart_curves, survival_curve
from loopscope.reports.films import film_plot, films
from loopscope.reports.findings import answer, findings, mcnemar, same_puzzles
from loopscope.reports.markup import figure_html, inline, sentence, table_html, whole_page
from loopscope.reports.measurement import HOW_TO_GET, Measurement, Source, read_measurements
from loopscope.reports.orbit_figures import (
    drift_against_exponent,
    drift_series,
    exponents_by_outcome,
    single_orbits,
    spectrum_by_fate,
)
from loopscope.reports.published import escape_comparison
from loopscope.reports.quantity import rounded
from loopscope.reports.words import EXPLANATION, FOOTNOTES, counted

Draw = Callable[[Measurement], Plot]
FIGURES: tuple[tuple[Draw, tuple[str, ...]], ...] = (  # figure, variables it needs
    (accuracy_by_segment, ()),
    (survival_curve, ()),
    (exponents_by_outcome, ("ftle",)),
    (spectrum_by_fate, ("ftle", "late drift", "several exponents")),
    (drift_against_exponent, ("ftle", "late drift")),
    (drift_series, ("drift",)),
    (restart_curves, ("basin_solved",)),
    (single_orbits, ("drift",)),
)
PROVENANCE = (  # attribute, what to call it
    ("model", "model"),
    ("model_hash", "model hash"),
    ("num_parameters", "parameters"),
    ("task", "task"),
    ("data", "data"),
    ("data_hash", "data hash"),
    ("seed", "seed"),
    ("budget", "training budget, segments"),
    ("applications_per_segment", "block applications per segment"),
    ("exponent_segments", "segments covered by the exponents"),
    ("restart_segments", "segments per restart"),
    ("traj_dtype", "trajectory computed in"),
    ("tangent_dtype", "tangents computed in"),
    ("versions", "versions"),
    ("python", "python"),
    ("machine", "machine"),
    ("created", "created"),
)


def report(
    datasets: Source | Iterable[Source], out: str | Path, *, models: Sequence[Any] | None = None
) -> Path:
    """Write a report on one or several measurements as one html page.

    Args:
        datasets: an `xarray.Dataset` as `measure` returns it, a path to a .zarr folder, or several of
            either; several are compared first and then shown one after the other.
        out: the html file to write; it appears whole or not at all.
        models: the models that were measured, in the same order; each adds a strip of boards of three
            puzzles, which are run again.
    Returns:
        The path written.
    Raises:
        UserError: a path or dataset that is not a measurement, or a model that was not measured.
    """
    measurements = read_measurements(datasets)
    if models is not None and len(models) != len(measurements):
        raise UserError(f"{len(models)} models for {len(measurements)} measurements: expected one for each.")
    write_text(out, page(measurements, models))
    return Path(out)


def page(measurements: Sequence[Measurement], models: Sequence[Any] | None = None) -> str:
    """The whole page as text."""
    several = len(measurements) > 1
    title = (
        "How they solve: " + ", ".join(m.name for m in measurements) if several else _title(measurements[0])
    )
    parts = [f"<h1>{escape(title)}</h1>"]
    parts += [f'<p class="answer">{inline(answer(m))}</p>' for m in measurements]
    parts += [_explanation(measurements)]
    if several:
        parts += [_comparison(measurements)]
    for i, m in enumerate(measurements, start=1):
        parts += _run(m, i if several else None, None if models is None else models[i - 1])
    parts += [_footnotes()]
    return whole_page(title, parts)


def _title(m: Measurement) -> str:
    found = re.fullmatch(r"sudoku-(\d+)x(\d+)", str(m.attrs.get("task", "")))
    if found:  # the name of the task gives the boxes, a person thinks of the board
        side = int(found[1]) * int(found[2])
        return f"How {m.name} solves {side} x {side} Sudokus"
    return f"How {m.name} solves {m.attrs.get('task', 'puzzles')}"


def _explanation(measurements: Sequence[Measurement]) -> str:
    lines = [f"<h2>What was measured</h2>{''.join(f'<p>{inline(text)}</p>' for text in EXPLANATION)}"]
    for m in measurements:
        planned = int(m.attrs.get("n", m.n))
        count = (
            counted(m.n, "puzzle")
            if planned <= m.n
            else f"{m.n:,} of {planned:,} puzzles (the run is not complete)"
        )
        budget = (
            f"trained for {m.attrs['budget']}"
            if m.trained
            else f"no training budget, so the outcome is read at {m.budget}"
        )
        data = f" of {m.attrs['data']}" if m.attrs.get("data") else ""
        applied = f", {m.applications} block applications each" if m.applications > 1 else ""
        told = f"{m.name}: {count}{data}; {counted(m.stop, 'segment')} ({budget}){applied}."
        lines.append(f'<p class="meta">{escape(told)}</p>')
    return "\n".join(lines)


def _comparison(measurements: Sequence[Measurement]) -> str:
    table = tables.comparison_table(measurements, [tables.quantities(m) for m in measurements])
    parts = ['<h2 id="comparison">Side by side</h2>', table_html(table, title=False)]
    for a, b in combinations(measurements, 2):
        paired = mcnemar(a, b) or (
            f"{a.name} and {b.name} were measured on different puzzles, so a difference between them may be "
            "one of the puzzles; there is no paired test."
        )
        parts.append(f"<p>{escape(paired)}</p>")
        found = escape_comparison(a, b, paired=same_puzzles(a, b))
        if found is not None:
            parts.append(f"<p>{inline(_escape_words(a, b, found))}</p>")
    parts += [figure_html(draw(measurements)) for draw in (accuracy_by_work, survival_by_work)]
    links = "".join(
        f'<li><a href="#run{i}">{escape(m.name)}</a></li>' for i, m in enumerate(measurements, start=1)
    )
    return "\n".join([*parts, f"<nav><ul>{links}</ul></nav>"])


def _escape_words(a: Measurement, b: Measurement, found: EscapeComparison) -> str:
    """Who escapes faster, per segment and per application."""
    if found.reason:
        return f"Escape of {a.name} over {b.name}: no ratio, {found.reason}."

    def ratio(e: Estimate) -> str:
        if math.isnan(e.low) or math.isnan(e.high):
            return f"{rounded(e.value)} (too few escapes for an interval)"
        return f"{rounded(e.value)} [{rounded(e.low)}, {rounded(e.high)}]"

    return (
        f"{a.name} escapes {ratio(found.per_segment)} times as fast as {b.name} per segment and "
        f"{ratio(found.per_application)} times as fast per application"
        f"{'' if math.isnan(found.p_logrank) else f' (log-rank p = {found.p_logrank:.2g})'}. "
        "Published, TRM over HRM: about 5 and 1.6."
    )


def _run(m: Measurement, number: int | None, model: Any = None) -> list[str]:
    """All sections on one measurement; with a number, under a heading of its own."""
    head = "h2" if number is None else "h3"
    parts = [] if number is None else [f'<h2 id="run{number}">{escape(m.name)}</h2>']
    numbers = tables.quantities(m)
    parts += [table_html(tables.headline_table(m, numbers), head)]
    items = "".join(
        f'<li><span class="verdict">{escape(f.verdict)}.</span> {inline(sentence(f.evidence))}</li>'
        for f in findings(m, numbers)
    )
    parts += [f'<{head}>Findings</{head}><ul class="findings">{items}</ul>']
    statistics = outcome_statistics(m.data)
    judged = claims(m, {row.name: row for row in statistics})
    if judged:
        parts += [f"<p>{tally(judged)}</p>", table_html(claims_table(judged))]
    parts += [f"<{head}>Figures</{head}>", *_figures(m, number)]
    if model is not None:
        parts.append(figure_html(film_plot(films(m, model)), number))
    optional = [
        tables.fate_rows(m),
        None if m.at_end is None else tables.fate_rows(m.at_end),
        dynamics_tables.exponent_rows(m),
        dynamics_tables.sweep_rows(m),
        dynamics_tables.sure_rows(m),
        dynamics_tables.escape_rows(m),
        tables.restart_rows(m),
        dynamics_tables.basin_rows(m),
        tables.rating_rows(m),
        dynamics_tables.statistics_rows(m, statistics),
    ]
    shown = [table_html(table) for table in optional if table is not None]
    parts += [f"<{head}>Tables</{head}>", *shown, *_missing(m, ("rating",))]
    return [*parts, _boards(m, head), _provenance(m, head)]


def _figures(m: Measurement, number: int | None) -> list[str]:
    parts, missing = [], []
    for draw, needs in FIGURES:
        lacking = [need for need in needs if not _has(m, need)]
        missing += [lacking[0]] if lacking and lacking[0] not in missing else []
        if not lacking:
            parts.append(figure_html(draw(m), number))
    return parts + _missing(m, missing)


def _has(m: Measurement, need: str) -> bool:
    if need == "late drift":
        return m.late is not None
    if need == "several exponents":
        return "ftle" in m and m.exponents.shape[1] > 1
    return need in m


def _missing(m: Measurement, needs: Sequence[str]) -> list[str]:
    """One sentence for each thing that is not here, and how to get it."""
    return [
        f'<p class="meta">{inline(HOW_TO_GET[need])}</p>'
        for need in needs
        if need in HOW_TO_GET and not _has(m, need)
    ]


def _boards(m: Measurement, head: str) -> str:
    chosen = chosen_boards(m)
    if not chosen:
        return f'<{head}>Boards</{head}><p class="meta">{HOW_TO_GET["answer"]}</p>'
    figures = []
    for name, row in chosen.items():
        inputs, labels, final = (m.array(v)[row] for v in ("inputs", "labels", "answer"))
        wrong = int(((final != labels) & (labels != 0)).sum())
        words = f"{name.capitalize()}: puzzle {int(m.data['puzzle'][row])}, " + (
            "every cell right." if wrong == 0 else f"{wrong} of {int((labels != 0).sum())} cells wrong."
        )
        drawn = board_svg(inputs, labels, final, str(m.attrs.get("task", "")))
        figures.append(f"<figure>{drawn}<figcaption>{words}</figcaption></figure>")
    key = (
        f"Answers after {m.budget} segments. Bold: given. Green: filled in and right. Framed: wrong, with "
        "the right content small beside it. Both are the middle ones of their class by number of wrong "
        "cells."
    )
    return f'<{head}>Boards</{head}><div class="boards">{"".join(figures)}</div><p class="caption">{key}</p>'


def _provenance(m: Measurement, head: str) -> str:
    rows = "".join(
        f"<tr><td>{words}</td><td>{escape(_plain(m.attrs[key]))}</td></tr>"
        for key, words in PROVENANCE
        if key in m.attrs
    )
    command = m.attrs.get("command")
    repeat = (
        f"<p>To measure again:</p><pre>{escape(str(command))}</pre>"
        if command
        else '<p class="meta">The command was not recorded.</p>'
    )
    table = f'<table class="provenance"><tbody>{rows}</tbody></table>'
    return f'<{head}>Provenance</{head}><div class="scroll">{table}</div>{repeat}'


def _plain(value: object) -> str:
    """An attribute as text; versions may come as a dictionary, or as one written in json."""
    if isinstance(value, str) and value.startswith("{"):
        with suppress(ValueError):  # a name may begin so
            value = json.loads(value)
    if isinstance(value, dict):
        return ", ".join(f"{name} {version}" for name, version in value.items())
    return f"{value:,}" if isinstance(value, int) else str(value)


def _footnotes() -> str:
    items = "".join(
        f'<dt id="word-{key}">{escape(term)}</dt><dd>{inline(text)}</dd>'
        for key, (term, text) in FOOTNOTES.items()
    )
    return f'<h2>Words</h2><dl class="footnotes">{items}</dl>'
