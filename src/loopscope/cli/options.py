"""Options that several commands share, and the tables they print."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loopscope.errors import UserError

MAX_SEED = 2**63 - 1  # what torch takes
LEFT_WIDTH = 12  # that the words of a table need at least


def file_to_write(path: Path | None) -> Path | None:
    """The path as it is; one that no file can be written to is refused here, before the long work."""
    if path is not None and path.is_dir():
        raise UserError(f"{path}: is a folder. Give the name of a file in it.")
    if path is not None and (str(path) == "-" or (path.exists() and not path.is_file())):
        raise UserError(f"{path}: is not a regular file. Give a file name.")
    return _place_to_write(path)


def folder_to_write(path: Path | None) -> Path | None:
    """The same for a folder, which may be there already."""
    if path is not None and path.is_file():
        raise UserError(f"{path}: is a file. Give the name of a folder.")
    return _place_to_write(path)


def _place_to_write(path: Path | None) -> Path | None:
    if path is not None:
        there = next(p for p in path.absolute().parents if p.exists())
        if not there.is_dir() or not os.access(there, os.W_OK):
            raise UserError(f"{path}: nothing can be written in {there}. Choose another path.")
    return path


Model = Annotated[
    str, typer.Argument(help="A run or model folder, an official checkpoint, a shipped name, or a hub id.")
]
Data = Annotated[
    str,
    typer.Option("--data", help="A built folder, a puzzle file (.csv, .csv.gz) or a shipped name."),
]
Split = Annotated[str, typer.Option(help="Which split of a built folder: test or train.")]
Limit = Annotated[int | None, typer.Option(help="Take the first N puzzles only.", min=1)]
BatchSize = Annotated[int, typer.Option(help="Puzzles per batch; bounds the memory.", min=1)]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", min=0, max=MAX_SEED)]
Known = Annotated[
    list[str] | None, typer.Option("--set", help="A setting the checkpoint does not tell: --set L_cycles=6.")
]
SkipInvalid = Annotated[bool, typer.Option("--skip-invalid", help="Leave faulty rows out and say how many.")]
Noise = Annotated[
    float, typer.Option(help="Size of the kick of a restart, in deviations of the start.", min=0)
]
Select = Annotated[
    str, typer.Option(help="Which rollout answers: halt, residual, logit_change, majority or verified.")
]
Budget = Annotated[
    str | None, typer.Option(help="Instead of --segments: 10s, 2min, or a number of block applications.")
]
Policy = Annotated[
    str, typer.Option(help="Who gets the budget: deepen (one orbit), restart or luby (new orbits).")
]
Json = Annotated[Path | None, typer.Option("--json", help="Write the numbers here.", callback=file_to_write)]
Cutoff = Annotated[
    int, typer.Option(help="Segments of an orbit before a new one, luby: of the shortest.", min=1)
]

console = Console(highlight=False)


def read_data(name: str, limit: int | None, skip_invalid: bool = False, split: str = "test") -> Any:
    """The puzzles a `--data` names."""
    from loopscope.tasks import read_puzzles

    if split != "test" and not Path(name).is_dir():
        raise UserError(f"--split {split}: {name} is a puzzle file, which has no splits. Leave it out.")
    return read_puzzles(name, limit=limit, skip_invalid=skip_invalid, split=split)


def load_model(source: str, known: list[str] | None = None, dtype: str | None = None) -> Any:
    """The model a MODEL argument names, on the GPU where there is one."""
    import torch

    from loopscope.models.load import load

    settings = parse_known(known)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return load(source, dtype=dtype, device=device, **settings)


def parse_known(known: list[str] | None) -> dict[str, Any]:
    """`KEY=VALUE` options as a dictionary of model settings."""
    from loopscope.config import ModelSettings, parse_value
    from loopscope.registry import did_you_mean

    settings = {}
    for item in known or []:
        key, equals, value = item.partition("=")
        if not equals:
            raise UserError(f"--set {item}: expected KEY=VALUE, for example --set L_cycles=6.")
        if key not in ModelSettings.model_fields:
            raise UserError(f"--set {item}: unknown setting. {did_you_mean(key, ModelSettings.model_fields)}")
        settings[key] = parse_value(value)
    return settings


def parse_numbers(text: str, kind: type, option: str) -> list[Any]:
    """A comma-separated list of numbers."""
    try:
        return [kind(part) for part in text.split(",") if part.strip()]
    except ValueError:
        example = "16,64" if kind is int else "0.3,1"
        raise UserError(
            f"{option} {text}: expected numbers with commas between, as in {option} {example}."
        ) from None


def say(text: str, style: str = "") -> None:
    """A line as it is: never wrapped, no markup, in `style` on a terminal."""
    console.print(Text(text, style), soft_wrap=True)


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> None:
    """Print a table that fits the width; the first `left` columns to the left, the others to the right."""
    if title:
        say(title, "bold")
    grid = Table(box=None, pad_edge=False, show_header=any(columns))
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)][left:]
    room = sum(widths) + 2 * len(widths) + LEFT_WIDTH <= console.width  # then words fold, but no number
    for i, column in enumerate(columns):
        grid.add_column(
            column, justify="left" if i < left else "right", overflow="fold", no_wrap=room and i >= left
        )
    for row in rows:
        grid.add_row(*(Text(cell) for cell in row))
    console.print(grid)


def percent(estimate: Any) -> str:
    """`87.4 % [85.0, 89.5]` of an Estimate."""
    if estimate.n == 0:
        return "- (n=0)"
    return f"{100 * estimate.value:.1f} % [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def number(value: Any) -> str:
    """A count with thousands marks, a large or broken number with three digits, anything else as it is."""
    if isinstance(value, float) or (isinstance(value, int) and value >= 1e9):
        return f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def interrupted(out: Path, n: int) -> typer.Exit:
    """Say what a measurement cut off by Ctrl-C has kept; the exit to raise."""
    from loopscope.dynamics.measure import open_measurement

    if out.exists():
        done = open_measurement(out).sizes["puzzle"]
        kept = f"{done} of {n} puzzles are kept in {out}; the same command goes on from there"
    else:
        kept = "nothing was kept: no block was complete. A smaller --batch-size completes blocks sooner"
    typer.echo(kept, err=True)
    return typer.Exit(130)


def show_progress() -> bool:
    """Progress bars only for a person who is watching."""
    return sys.stderr.isatty()


def fresh(path: Path, what: str) -> Path:
    """A path that must not exist yet."""
    if path.exists():
        raise UserError(f"{path}: exists already. Choose another {what} or remove it.")
    return path
