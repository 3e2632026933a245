"""loopscope demo: the shipped model on the shipped puzzles, measured and explained in minutes."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

import typer

from loopscope.cli import app, options

MODEL, PUZZLES = "sudoku9-cpu", "sudoku9-demo"


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the result and the page.")] = Path("demo"),
    limit: options.Limit = None,
    seed: options.Seed = 0,
) -> None:
    """Measure the shipped model on the shipped puzzles and write demo/report.html.

    \b
    loopscope demo
    loopscope demo --out somewhere
    loopscope demo --limit 16
    """
    from loopscope.dynamics.measure import measure
    from loopscope.reports.html import report
    from loopscope.reports.tables import headline

    started = time.monotonic()
    puzzles = options.read_data(PUZZLES, limit)
    network = options.load_model(MODEL)
    options.console.print(f"measuring {MODEL} on {len(puzzles)} puzzles: orbits, exponents, restarts ...")
    runs = measure(
        network,
        puzzles,
        segments=64,
        exponents=2,
        sigmas=[0.3, 1.0],
        restarts=3,
        batch_size=16,
        seed=seed,
        out=out / "demo.zarr",
        progress=True,
    )
    page = report(runs, out / "report.html")
    options.table("what the demo found", ["", "value"], [list(row) for row in headline(runs)])
    options.console.print(f"\n{time.monotonic() - started:.0f} s; the page: {page}")
