"""Command lines run as a user would, in a folder with a tiny model; the fixtures are in `conftest`."""

from __future__ import annotations

from pathlib import Path

import pytest

from loopscope.cli import main
from loopscope.models.folder import save_model
from loopscope.tasks import write_puzzles
from tiny import tiny_model, tiny_puzzles


def furnish(folder: Path) -> Path:
    """A tiny random model and puzzles for it."""
    save_model(tiny_model(), folder / "model")
    write_puzzles(tiny_puzzles(6), folder / "puzzles.csv.gz")
    return folder


def exit_code(line: str, *more: str) -> int:
    """Of one command line; `more` are arguments that hold spaces."""
    with pytest.raises(SystemExit) as stopped:
        main([*line.split(), *more])
    return int(stopped.value.code)


def is_plain(text: str, width: int = 80) -> bool:
    return "\033" not in text and all(len(line) <= width for line in text.splitlines())
