"""Write one page of docs/results: the scores and the dynamics of one model, with its figures beside it.

python scripts/results_page.py RUN.zarr SCORES.json [MORE_SCORES.json ...] docs/results/NAME.md

RUN.zarr comes from `loopscope measure`, the scores from `loopscope eval --json`; nothing on the page is
written by hand.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from loopscope.dynamics.outcomes import outcome_statistics
from loopscope.files import write_text
from loopscope.reports import Measurement, dynamics_tables, read_measurements, tables
from loopscope.reports.claims import claims, claims_table, tally
from loopscope.reports.drawing import Plot, save_png
from loopscope.reports.findings import answer, findings
from loopscope.reports.html import FIGURES
from loopscope.reports.markup import sentence
from loopscope.reports.quantity import Cell, Noted, Quantity, Table, percent

SHOWN = (
    "accuracy_by_segment",
    "survival_curve",
    "exponents_by_outcome",
    "drift_against_exponent",
    "restart_curves",
)


def page(
    m: Measurement, scores: Sequence[dict[str, Any]], plots: dict[str, Plot], folder: str
) -> Iterator[str]:
    """The lines of the page; the pictures of the plots are expected in `folder`."""
    statistics = outcome_statistics(m.data)
    judged = claims(m, {row.name: row for row in statistics})
    yield from (f"# {m.name}", "", answer(m), "", "## Accuracy")
    for found in scores:
        yield from ("", *accuracy(found))
    yield from ("", "## How it fails", "", measured(m), "")
    yield from (f"- **{f.verdict}.** {sentence(f.evidence)}" for f in findings(m, tables.quantities(m)))
    yield from ("", tally(judged), "", *markdown(claims_table(judged)), "", "## Figures")
    for name, plot in plots.items():
        yield from ("", f"![{plot.title}]({folder}/{name}.png)", "", f"*{plot.title}.* {plot.caption}")
    optional = [
        tables.fate_rows(m),
        None if m.at_end is None else tables.fate_rows(m.at_end),
        dynamics_tables.sweep_rows(m),
        dynamics_tables.escape_rows(m),
        dynamics_tables.basin_rows(m),
        dynamics_tables.statistics_rows(m, statistics),
    ]
    for table in optional:
        if table is not None:
            yield from ("", f"## {table.title}", "", *markdown(table))
    yield from ("", "## Repeat it", "", "```", *(s["command"] for s in scores), m.attrs["command"], "```", "")
    yield f"{m.attrs['versions']}, Python {m.attrs['python']}, {m.attrs['machine']}, seed {m.attrs['seed']}."
    yield f"Weights {str(m.attrs['model_hash'])[:12]}, data {str(m.attrs['data_hash'])[:12]}."


def accuracy(scores: dict[str, Any]) -> Iterator[str]:
    """Exact accuracy by difficulty at every number of segments, and how it was computed."""
    numbers = list(scores["segments"])
    yield f"Share of {scores['n']:,} puzzles of {scores['data']} solved exactly, {scores['dtype']}, one"
    yield "rollout; 95 % Wilson intervals."
    yield ""
    yield from row(["rating", "puzzles", *(f"{s} segment{'s' * (s != '1')}" for s in numbers)])
    yield from row(["---"] * (2 + len(numbers)))
    whole = [scores["segments"][s]["exact_accuracy"] for s in numbers]
    yield from row(["**all**", f"{scores['n']:,}", *map(interval, whole)])
    by_rating = scores["exact_accuracy_by_rating"]
    for band in by_rating[numbers[0]]:
        found = [by_rating[s][band] for s in numbers]
        if found[0]["n"]:
            yield from row([band, f"{found[0]['n']:,}", *map(interval, found)])
    cost = [f"{scores['flops_per_puzzle'][s] / 1e9:.3g}" for s in numbers]
    yield from row(["GFLOP per puzzle", "", *cost])
    halt = [scores["segments"][s]["halt_accuracy"] for s in numbers]
    yield from row(["halt logit right", f"{scores['n']:,}", *map(interval, halt)])


def interval(found: dict[str, float]) -> str:
    return f"{percent(found['value'])} % [{percent(found['low'])}, {percent(found['high'])}]"


def measured(m: Measurement) -> str:
    """What was measured, in one sentence."""
    parts = [f"{m.n:,} puzzles of {m.attrs['data']}, {m.stop} segments (trained for {m.budget})"]
    if "ftle" in m:
        covered = m.attrs["exponent_segments"]
        parts.append(f"{m.exponents.shape[1]} exponents over segments 1 to {covered}")
    if "basin_solved" in m:
        sizes, length = m.data.basin_solved.sizes, m.attrs["restart_segments"]
        parts.append(f"{sizes['restart']} restarts of {length} segments at each of {sizes['sigma']} sizes")
    return f"{', '.join(parts)}; trajectory in {m.attrs['traj_dtype']}."


def markdown(table: Table) -> Iterator[str]:
    """A table of a report as Markdown."""
    yield from row(table.header)
    yield from row(["---"] * len(table.header))
    for cells in table.rows:
        yield from row([text(cell) for cell in cells])
    if table.caption:
        yield from ("", table.caption)


def text(cell: Cell) -> str:
    if isinstance(cell, Noted):
        return f"{cell.name} *({cell.note})*" if cell.note else cell.name
    if isinstance(cell, Quantity) and math.isnan(cell.value):
        return f"NaN: {cell.note}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def row(cells: Iterable[str]) -> Iterator[str]:
    yield "| " + " | ".join(cell.replace("|", r"\|") for cell in cells) + " |"


if __name__ == "__main__":
    run, *files, out = sys.argv[1:]
    scores, target = [json.loads(Path(file).read_text()) for file in files], Path(out)
    (m,) = read_measurements(run)
    pictures = target.with_suffix("")
    pictures.mkdir(parents=True, exist_ok=True)
    plots = {draw.__name__: draw(m) for draw, _ in FIGURES if draw.__name__ in SHOWN}
    for name, plot in plots.items():
        save_png(plot.figure, pictures / f"{name}.png")
    write_text(target, "\n".join(page(m, scores, plots, pictures.name)) + "\n")
