"""loopscope report: one html page from measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loopscope.cli import app, options


@app.command()
def report(
    runs: Annotated[list[Path], typer.Argument(help="Results of loopscope measure (.zarr).")],
    out: Annotated[Path, typer.Option(help="The page to write.")] = Path("report.html"),
) -> None:
    """Write one self-contained html page: figures, tables, what each number means, provenance.

    \b
    loopscope report RUN.zarr
    loopscope report RUN.zarr --out report.html
    loopscope report first.zarr second.zarr --out compare.html
    """
    from loopscope.reports.html import report as write

    options.say(f"written to {write(list(runs), out)}")
