"""The one door to the material outside the project that some tests compare with."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(os.environ.get("LOOPSCOPE_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def shared_path(name: str) -> Path:
    """Path of a file or folder in the reference material; skips the test where it is absent."""
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"reference material {name} is not here (looked in {ROOT}; set LOOPSCOPE_SHARED)")
    return path
