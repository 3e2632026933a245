"""`load`: any model, from wherever it lies, as a `RecursiveModel` ready to run."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch

from loopscope.config import ModelSettings
from loopscope.errors import UserError
from loopscope.models import hub
from loopscope.models.folder import CONFIG, WEIGHTS, has_large_table, load_folder
from loopscope.models.official import CONFIG as OFFICIAL_CONFIG
from loopscope.models.official import load_official
from loopscope.models.recursion import DTYPES, RecursiveModel
from loopscope.registry import did_you_mean


def load(
    source: str | Path,
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device = "cpu",
    **known: Any,
) -> RecursiveModel:
    """Load a model, strictly: every tensor must fit, and nothing in the files is executed.

    Args:
        source: a run folder (its `best/`, else `last/`), a model folder, the name of a shipped model, a
            folder or file in the official checkpoint format, or a hub id `owner/name[/subfolder]`.
        dtype: dtype of states and products; None takes the one the model was trained in.
        device: where it goes.
        known: settings that the files do not tell, or that shall differ: `load(file, L_cycles=6)`.
    Returns:
        The model in evaluation mode. `model.facts` tells its name, format, source, hash and training.
        A puzzle table above 64 MiB stays on the disk, and rows are read when they are used; on another
        device it is read whole.
    Raises:
        UserError: nothing there, damaged, unsafe, incomplete or contradicting, in one line.
    """
    for key in known:
        if key not in ModelSettings.model_fields:
            raise UserError(f"{key}: unknown setting. {did_you_mean(key, ModelSettings.model_fields)}")
    path = locate(source)
    model = _read(path, known)
    model.facts |= {"name": _name(source, model.facts), "set": known}
    if not has_large_table(model.settings):  # hashing would read all of it
        model.facts["model_hash"] = model.content_hash
    _move(model, device)
    if dtype is not None:
        model.compute_in(_dtype(dtype))
    return model.eval()


def list_shipped() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(_shipped())


def locate(source: str | Path) -> Path:
    """The local file or folder that `source` names, fetched when it is a hub id.

    Raises:
        UserError: no such path, shipped model or hub repository.
    """
    path, name = Path(source).expanduser(), str(source)
    if path.exists():
        return path
    shipped = _shipped()
    if name in shipped:
        return shipped[name]
    if isinstance(source, str) and hub.is_hub_id(source):
        return hub.fetch(source)
    names = ", ".join(sorted(shipped)) or "none"
    raise UserError(
        f"{name}: no such model. Give one of the shipped ones ({names}), or a path, or a hub id owner/name."
    )


def _shipped() -> dict[str, Path]:
    folder = Path(str(resources.files("loopscope") / "assets" / "models"))
    return {config.parent.name: config.parent for config in folder.glob(f"*/{CONFIG}")}


def _read(path: Path, known: Mapping[str, Any]) -> RecursiveModel:
    if path.is_dir():
        for folder in (path, path / "best", path / "last"):
            if (folder / WEIGHTS).is_file() and not (folder / OFFICIAL_CONFIG).is_file():
                return load_folder(folder, known)
        if (path / "config.yaml").is_file() and (path / "metrics.jsonl").is_file():
            raise UserError(f"{path}: this run has not saved a model yet. Wait for its first checkpoint.")
    elif path.name == WEIGHTS and (path.parent / CONFIG).is_file():
        return load_folder(path.parent, known)
    return load_official(path, known)


def _name(source: str | Path, facts: Mapping[str, Any]) -> str:
    """What to call the model in a table: its recipe, else the last part of its path, else the hub id."""
    path = Path(source).expanduser()
    place = path.absolute().name if path.exists() else str(source).removeprefix(hub.MARK)
    return facts.get("recipe", {}).get("name") or facts.get("name") or place


def _dtype(dtype: str | torch.dtype) -> str | torch.dtype:
    if dtype not in DTYPES and dtype not in DTYPES.values():
        raise UserError(f"dtype={dtype}: expected one of {', '.join(DTYPES)}.")
    return dtype


def _move(model: RecursiveModel, device: str | torch.device) -> None:
    try:
        model.to(device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = str(error).split("\n")[0][:120]
        raise UserError(f"device={device}: not usable here ({first}). Use device=cpu.") from None
