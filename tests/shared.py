"""The one door to the material outside the project that some tests compare with, and where they compare."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

ROOT = Path(os.environ.get("LOOPSCOPE_SHARED", Path(__file__).resolve().parents[2] / "shared"))
DEVICES = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)  # where recorded numbers are compared


def shared_path(name: str) -> Path:
    """Path of a file or folder in the reference material; skips the test where it is absent."""
    path = ROOT / name
    if not path.exists():
        pytest.skip(f"reference material {name} is not here (looked in {ROOT}; set LOOPSCOPE_SHARED)")
    return path
