"""What a result must tell of its making: versions, machine, command, time."""

from __future__ import annotations

import platform
import shlex
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("loopscope", "torch", "numpy", "xarray", "zarr", "scipy")


def provenance() -> dict[str, str]:
    """Plain strings, ready for json or dataset attributes."""
    return {
        "versions": ", ".join(f"{name} {package_version(name)}" for name in PACKAGES),
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "command": shlex.join([*_program(), *sys.argv[1:]]),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _program() -> list[str]:
    """The program as one would type it."""
    name = Path(sys.argv[0]).name
    return ["python", "-m", "loopscope"] if name == "__main__.py" else [name or "python"]


def package_version(name: str) -> str:
    """The installed version of a package, "?" where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return "?"
