"""Checkpoints that hold the whole state of a run, written whole or not at all.

`checkpoints/step_00001000/` holds weights, EMA, optimiser moments and carry slots as safetensors and
`state.json` with the step, the running sums of the metrics and a sha256 per file. The order of the
puzzles and all random numbers are functions of the seed and the step, so the step is all they need.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_bytes
from safetensors.torch import save_file
from torch import Tensor

from loopscope.errors import UserError
from loopscope.files import sha256, write_json, written_whole

Parts = Mapping[str, Mapping[str, Tensor]]


def save(folder: Path, step: int, parts: Parts, facts: Mapping[str, Any]) -> Path:
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
            plain = {name: t.detach().contiguous() for name, t in tensors.items()}
            save_file(plain, beside / f"{stem}.safetensors")
        digests = {f.name: sha256(f.read_bytes()) for f in sorted(beside.iterdir())}
        write_json(beside / "state.json", {"step": step, **facts, "sha256": digests})
    return path


def load(path: Path) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read one checkpoint: tensors by part and name, on the CPU, and the values of `state.json`.

    Raises:
        UserError: a file is missing or does not match its checksum.
    """
    try:
        facts = json.loads((path / "state.json").read_text())
        digests = facts.pop("sha256")
    except (OSError, ValueError, KeyError):
        raise UserError(f"{path / 'state.json'}: missing or damaged. {_go_back(path)}") from None
    parts = {}
    for name, digest in digests.items():
        file = path / name
        content = file.read_bytes() if file.is_file() else b""
        if sha256(content) != digest:
            raise UserError(f"{file}: missing or damaged (its checksum differs). {_go_back(path)}")
        parts[file.stem] = load_bytes(content)
    return parts, facts


def _go_back(path: Path) -> str:
    return f"Remove the folder {path.name} to resume from the checkpoint before it."


def latest(folder: Path) -> Path | None:
    """The newest checkpoint of a run's `checkpoints` folder, None if there is none."""
    return max(folder.glob("step_*"), default=None)


def prune(folder: Path, keep_last: int, keep_best: int = 0) -> None:
    """Remove all checkpoints but the newest and the best, and what a killed process left half-written.

    Args:
        folder: the run's `checkpoints` folder.
        keep_last: how many of the newest stay.
        keep_best: how many of those stay besides that were saved at an evaluation, by the `score` in
            their `state.json`; of equals the later.
    """
    assert keep_last > 0
    paths = sorted(folder.glob("step_*"))
    scored = [(score, path) for path in paths if keep_best and (score := _score(path)) is not None]
    kept = {*paths[-keep_last:], *(path for _, path in sorted(scored)[-keep_best:])}
    for old in [*(path for path in paths if path not in kept), *folder.glob(".step_*.part")]:
        shutil.rmtree(old)


def _score(path: Path) -> float | None:
    """Validation score at a checkpoint; None where there was no evaluation at its step."""
    try:
        score = json.loads((path / "state.json").read_text()).get("score")
    except (OSError, ValueError):  # damaged: `load` says so to whoever wants to go on from it
        return None
    return score
