"""loopscope demo: the shipped model on the shipped puzzles, measured and explained in minutes."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from loopscope.cli import app, options

MODEL, PUZZLES = "sudoku9-equivariant", "sudoku9-hard"
PLAN: dict[str, Any] = {"segments": 64, "exponents": 2, "sigmas": [0.3, 1.0], "restarts": 3, "batch_size": 16}


@app.command()
def demo(
    out: Annotated[
        Path, typer.Option(help="Folder for the result and the page.", callback=options.folder_to_write)
    ] = Path("demo"),
    limit: options.Limit = None,
    seed: options.Seed = 0,
) -> None:
    """Measure the shipped model on the shipped puzzles and write demo/report.html.

    An interrupted demo goes on where it stopped; one with other settings replaces the earlier one.

    \b
    loopscope demo
    loopscope demo --out somewhere
    loopscope demo --limit 16
    """
    from loopscope.reports.html import report
    from loopscope.reports.tables import headline

    started, path = time.monotonic(), out / "demo.zarr"
    puzzles = options.read_data(PUZZLES, limit)
    network = options.load_model(MODEL, dtype="float32")
    options.say(f"measuring {MODEL} on {len(puzzles)} puzzles: orbits, exponents, restarts ...")
    try:
        runs = measured(network, puzzles, path, seed)
    except KeyboardInterrupt:
        raise options.interrupted(path, len(puzzles)) from None
    page = report(runs, out / "report.html", models=[network])
    options.table("", ["what the demo found", "value and 95 % interval"], headline(runs), left=2)
    options.say(f"\n{time.monotonic() - started:.0f} s; the page: {page}")


def measured(network: Any, puzzles: Any, path: Path, seed: int) -> Any:
    """The measurement of the demo; an earlier one of other settings at its place is removed."""
    from loopscope.dynamics.measure import OtherMeasurement, measure

    def run() -> Any:
        return measure(network, puzzles, **PLAN, seed=seed, out=path, progress=options.show_progress())

    try:
        return run()
    except OtherMeasurement:
        shutil.rmtree(path)
        return run()
