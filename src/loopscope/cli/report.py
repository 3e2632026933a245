"""loopscope report: one html page from measurements, or from training runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loopscope.cli import app, options
from loopscope.errors import UserError


@app.command()
def report(
    runs: Annotated[
        list[Path], typer.Argument(help="Results of loopscope measure (.zarr), or run folders of train.")
    ],
    out: Annotated[Path, typer.Option(help="The page to write.", callback=options.file_to_write)] = Path(
        "report.html"
    ),
    model: Annotated[
        list[str] | None,
        typer.Option(help="Model that was measured, one for each result: adds boards segment by segment."),
    ] = None,
    known: options.Known = None,
) -> None:
    """Write one self-contained html page: figures, tables, what each number means, provenance.

    \b
    loopscope report RUN.zarr
    loopscope report RUN.zarr --model sudoku9-cpu --out report.html
    loopscope report first.zarr second.zarr --out compare.html
    loopscope report runs/sudoku9 --out training.html
    """
    from loopscope.reports.training_page import is_run, training_report

    trained = [run for run in runs if is_run(run)]
    if not trained:
        from loopscope.reports.html import report as write

        models = [options.load_model(name, known, "float32") for name in model] if model else None
        path = write(list(runs), out, models=models)
    elif model:
        raise UserError("--model: expected results of loopscope measure, got a training run.")
    elif len(trained) == len(runs):
        path = training_report(runs, out)
    else:
        raise UserError(f"{trained[0]} is a training run, not all others are. Make a page of each kind.")
    options.say(f"written to {path}")
