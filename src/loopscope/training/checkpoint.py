"""Checkpoints that hold the whole state of a run, written whole or not at all.

`checkpoints/step_00001000/` holds weights, EMA, optimiser moments and carry slots as safetensors and
`state.json` with the step and a sha256 per file. Sampler and random numbers are functions of the seed
and the step, so the step is all they need.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from loopscope.errors import UserError
from loopscope.files import sha256, write_json, written_whole


def save(folder: Path, step: int, parts: Mapping[str, Mapping[str, Tensor]], facts: Mapping[str, Any]) -> Path:
    """Write one checkpoint.

    Args:
        folder: the run's `checkpoints` folder.
        step: optimiser steps done.
        parts: file stem -> tensors by name.
        facts: further json values for `state.json`.
    Returns:
        The checkpoint's folder.
    """
    path = folder / f"step_{step:08d}"
    with written_whole(path) as beside:
        beside.mkdir()
        for stem, tensors in parts.items():
            save_file({k: v.detach().contiguous() for k, v in tensors.items()}, beside / f"{stem}.safetensors")
        digests = {f.name: sha256(f.read_bytes()) for f in sorted(beside.iterdir())}
        write_json(beside / "state.json", {"step": step, **facts, "sha256": digests})
    return path


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read one checkpoint: tensors by part, and the values of `state.json`.

    Raises:
        UserError: a file is missing or does not match its checksum.
    """
    state = path / "state.json"
    if not state.is_file():
        raise UserError(f"{path}: not a checkpoint (no state.json). Expected a folder step_<N> of a run.")
    facts = json.loads(state.read_text())
    parts = {}
    for name, digest in facts.pop("sha256").items():
        file = path / name
        if not file.is_file() or sha256(file.read_bytes()) != digest:
            raise UserError(f"{file}: missing or damaged (checksum differs). Resume from an older checkpoint.")
        parts[file.stem] = load_file(file)
    return parts, facts


def latest(folder: Path) -> Path | None:
    """The newest complete checkpoint of a run's `checkpoints` folder, None if there is none."""
    found = sorted(p for p in folder.glob("step_*") if (p / "state.json").is_file())
    return found[-1] if found else None


def prune(folder: Path, keep: int) -> None:
    """Remove all but the `keep` newest checkpoints."""
    for old in sorted(folder.glob("step_*"))[:-keep]:
        shutil.rmtree(old)
