"""The command line: one thin file per command.

Exit codes: 0 done; 2 the user's mistake, in one line that names the next move; 1 ours, with a
traceback; 130 interrupted.
"""

from __future__ import annotations

import logging
import sys

import typer

from loopscope.errors import UserError

app = typer.Typer(
    name="loopscope",
    help="A laboratory for recursive reasoning models: train, load, solve with, and measure them.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def main() -> None:
    """Entry point of `loopscope` and `python -m loopscope`."""
    from loopscope.cli import demo, evaluate, measure, models, report, solve, toy, train, verify  # noqa: F401

    logging.basicConfig(format="%(message)s", level=logging.INFO)
    try:
        app()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        raise SystemExit(130) from None
