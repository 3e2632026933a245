"""Options that several commands share, and the tables they print."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from loopscope.config import parse_value
from loopscope.errors import UserError

Model = Annotated[
    str, typer.Argument(help="A run or model folder, an official checkpoint, a shipped name, or a hub id.")
]
Data = Annotated[
    str, typer.Option("--data", help="Puzzle file (.csv, .csv.gz) or the name of shipped puzzles.")
]
Limit = Annotated[int | None, typer.Option(help="Take the first N puzzles only.")]
BatchSize = Annotated[int, typer.Option(help="Puzzles per batch; bounds the memory.", min=1)]
Seed = Annotated[int, typer.Option(help="Seed of everything random.")]
Known = Annotated[
    list[str] | None, typer.Option("--set", help="A setting the checkpoint does not tell: --set L_cycles=6.")
]
SkipInvalid = Annotated[bool, typer.Option("--skip-invalid", help="Leave faulty rows out and say how many.")]

console = Console(highlight=False)


def read_data(name: str, limit: int | None, skip_invalid: bool = False) -> Any:
    """The puzzles a `--data` names."""
    from loopscope.tasks import read_puzzles
    from loopscope.tasks.shipped import puzzle_file

    return read_puzzles(puzzle_file(name), limit=limit, skip_invalid=skip_invalid)


def load_model(source: str, known: list[str] | None = None, dtype: str | None = None) -> Any:
    """The model a MODEL argument names, on the GPU where there is one."""
    import torch

    from loopscope.models.load import load

    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load(source, dtype=dtype, device=device, **parse_known(known))


def parse_known(known: list[str] | None) -> dict[str, Any]:
    """`KEY=VALUE` options as a dictionary."""
    pairs = [item.partition("=") for item in known or []]
    for key, equals, _ in pairs:
        if not equals:
            raise UserError(f"--set {key}: expected KEY=VALUE, for example --set L_cycles=6.")
    return {key: parse_value(value) for key, _, value in pairs}


def parse_numbers(text: str, kind: type, option: str) -> list[Any]:
    """A comma-separated list of numbers."""
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        raise UserError(
            f"{option} {text}: expected numbers with commas between, for example {option} 16,64."
        ) from None


def table(title: str, columns: list[str], rows: list[list[str]]) -> None:
    """Print a table that fits 80 columns; numbers to the right."""
    console.print(f"[bold]{escape(title)}[/bold]")
    grid = Table(box=None, pad_edge=False)
    for i, column in enumerate(columns):
        grid.add_column(column, justify="left" if i == 0 else "right", overflow="fold")
    for row in rows:
        grid.add_row(*(escape(cell) for cell in row))
    console.print(grid)


def percent(estimate: Any) -> str:
    """`87.4 % [85.0, 89.5]` of an Estimate."""
    if estimate.n == 0:
        return "- (n=0)"
    return f"{100 * estimate.value:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def show_progress() -> bool:
    """Progress bars only for a person who is watching."""
    return sys.stderr.isatty()


def fresh(path: Path, what: str) -> Path:
    """A path that must not exist yet."""
    if path.exists():
        raise UserError(f"{path}: exists already. Choose another {what} or remove it.")
    return path
