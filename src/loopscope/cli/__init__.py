"""The command line: one thin file per command.

Exit codes: 0 done; 2 the user's mistake, in one line that names the next move; 1 ours, with a
traceback (or a check that failed); 130 interrupted.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated, Any

import typer

from loopscope.errors import UserError

# typer names this class nowhere: the base of its BadParameter, click's or its own copy of it
UsageError: Any = typer.BadParameter.__mro__[1]
COMMANDS = (
    "demo",
    "data",
    "train",
    "evaluate",
    "compare",
    "solve",
    "measure",
    "report",
    "verify",
    "toy",
    "play",
    "models",
    "bench",
    "bench_lyapunov",
)
PATH_ERRORS = (PermissionError, NotADirectoryError, IsADirectoryError, FileExistsError)

app = typer.Typer(
    name="loopscope",
    help="A laboratory for recursive reasoning models: train, load, solve with, and measure them.",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def show_version(asked: bool) -> bool:
    if asked:
        from loopscope import __version__

        typer.echo(f"loopscope {__version__}")
        raise typer.Exit
    return asked


@app.callback()
def start(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version and exit.", callback=show_version, is_eager=True),
    ] = False,
) -> None:
    pass


def main(args: Sequence[str] | None = None) -> None:
    """Entry point of `loopscope` and `python -m loopscope`; `args` default to those of the process."""
    # Threads that wait must sleep: spinning ones take the cores of those that work, up to 100 times slower
    # on a busy machine. OpenMP reads this when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for command in COMMANDS:
        import_module(f"loopscope.cli.{command}")
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("loopscope").setLevel(logging.INFO)
    raise SystemExit(_run(list(sys.argv[1:] if args is None else args) or ["--help"]))


def _run(args: list[str]) -> int:
    """Run one command and turn what it raises into an exit code."""
    try:
        code = app(args=args, prog_name="loopscope", standalone_mode=False) or 0
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except UserError as error:
        return _mistake(str(error))
    except UsageError as error:
        command = error.ctx.command_path if error.ctx is not None else "loopscope"
        message = error.format_message()
        stop = "" if message.endswith((".", "?", "!")) else "."
        return _mistake(f"{message}{stop} Try {command} --help.")
    except PATH_ERRORS as error:
        return _mistake(f"{error.filename}: {error.strerror}. Choose another path.")
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":  # torch's, which must not be imported for it
            raise
        return _mistake("out of GPU memory. Lower --batch-size.")
    if code == 130:
        print("interrupted", file=sys.stderr)
    return int(code)


def _mistake(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2
