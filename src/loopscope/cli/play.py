"""loopscope play: the browser playground."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated

import typer

from loopscope.cli import app
from loopscope.errors import UserError


@app.command()
def play(
    model: Annotated[
        str, typer.Argument(help="A model for Sudoku, named as in solve; the shipped ones can be chosen too.")
    ] = "sudoku9-equivariant",
    port: Annotated[int, typer.Option(help="Where it listens on this machine.", min=1, max=65535)] = 7860,
    share: Annotated[
        bool, typer.Option("--share/--no-share", help="Also a public address, by gradio.")
    ] = False,
) -> None:
    """Solve Sudokus in the browser, segment by segment, and disturb the runs.

    \b
    loopscope play
    loopscope play sudoku6-cpu --port 8000
    loopscope play runs/sudoku6 --share
    """
    if find_spec("gradio") is None:
        raise UserError("play: needs gradio. Run pip install 'loopscope[play]'.")
    from loopscope.reports.playground import launch

    launch(model, port, share)
