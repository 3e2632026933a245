"""The puzzle files that come with the package, by name."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from loopscope.errors import UserError
from loopscope.registry import did_you_mean

SUFFIX = ".csv.gz"


def shipped_puzzles() -> dict[str, Path]:
    """Name -> file."""
    folder = Path(str(resources.files("loopscope") / "assets" / "puzzles"))
    return {f.name.removesuffix(SUFFIX): f for f in sorted(folder.glob(f"*{SUFFIX}"))}


def puzzle_file(name: str | Path) -> Path:
    """A puzzle file by path, or by the name of a shipped one.

    Raises:
        UserError: neither.
    """
    path, shipped = Path(name), shipped_puzzles()
    if path.exists():
        return path
    if str(name) in shipped:
        return shipped[str(name)]
    raise UserError(f"{name}: no such puzzle file or shipped puzzles. {did_you_mean(str(name), shipped)}")
