"""Model folders: `model.safetensors`, `config.json` and `README.md`, the card.

`config.json` keeps the sha256 of the weights file, because safetensors has no checksum of its own. A
large puzzle table is left out of it, and stays on the disk until its rows are used: a folder with a
million rows opens in a moment.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from loopscope.config import ModelSettings, validated
from loopscope.errors import UserError
from loopscope.files import write_json, write_text, written_whole
from loopscope.models.card import card
from loopscope.models.recursion import RecursiveModel, build_model
from loopscope.models.shapes import TABLE, check_agreement

FORMAT_VERSION = 1
LARGE = 2**26  # bytes of a puzzle table from which it stays on the disk
BLOCK = 2**20  # bytes read at a time
WEIGHTS, CONFIG, CHECKSUM = "model.safetensors", "config.json", "weights_sha256"
OF_THE_PLACE = ("format", "source", "set", "model_hash")  # facts that `load` finds out anew each time


def save_model(
    model: RecursiveModel,
    path: str | Path,
    facts: Mapping[str, Any] | None = None,
    scores: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write a model folder, whole or not at all.

    Args:
        model: the model; its weights are saved as they are now.
        path: the folder; a model folder that is there already is replaced.
        facts: what the card tells beside the settings: recipe, step, minutes, validation scores.
            None takes what the model itself knows (`model.facts`).
        scores: evaluations for the card, as `Evaluation.to_dict` writes them.
    Raises:
        UserError: `path` is a folder with something else in it, or the folder one is in.
    """
    path = Path(path)
    if Path.cwd().is_relative_to(path.resolve()):
        raise UserError(f"{path}: is the folder you are in. Name a new one.")
    if path.exists() and not (path / CONFIG).is_file() and (path.is_file() or any(path.iterdir())):
        raise UserError(f"{path}: exists and is not a model folder. Choose a new name.")
    facts = {k: v for k, v in (model.facts if facts is None else facts).items() if k not in OF_THE_PLACE}
    with written_whole(path) as beside:
        beside.mkdir()
        tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        save_file(tensors, beside / WEIGHTS, metadata={"format": "pt"})
        own = {"format_version": FORMAT_VERSION, "model": model.settings.model_dump()}
        own[CHECKSUM] = _sha256(beside / WEIGHTS)
        write_json(beside / CONFIG, {**facts, **own}, default=str)
        write_text(beside / "README.md", card(model, facts, scores))


def load_folder(path: Path, known: Mapping[str, Any] | None = None) -> RecursiveModel:
    """Read a model folder.

    Args:
        path: the folder.
        known: settings that replace those of `config.json`, for example another number of cycles.
    Raises:
        UserError: a file is missing or damaged, or weights and settings disagree.
    """
    config, weights, known = read_config(path), path / WEIGHTS, known or {}
    settings = validated(ModelSettings, {**config["model"], **known}, str(path / CONFIG))
    state = _read_tensors(weights, config.get(CHECKSUM))
    check_agreement(state, settings, weights, {"": f"{CONFIG} says"} | dict.fromkeys(known, "you passed"))
    model = filled(settings, state, str(weights))
    model.facts = {k: v for k, v in config.items() if k not in ("model", "format_version", CHECKSUM)}
    model.facts |= {"format": "loopscope", "source": str(path)}
    return model


def read_config(path: Path) -> dict[str, Any]:
    """The `config.json` of a model folder; its `model` section is there.

    Raises:
        UserError: missing, not json, or of a later version.
    """
    file = path / CONFIG
    if (path / "state.json").is_file() and not file.is_file():
        raise UserError(
            f"{path}: a checkpoint to resume training from. Load the run folder {path.parent.parent}."
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        raise UserError(f"{file}: missing or not json. Copy or fetch the folder again.") from None
    if not isinstance(config, dict) or not isinstance(config.get("model"), dict):
        raise UserError(f"{file}: no `model` section. Expected a folder written by loopscope.")
    if config.get("format_version") != FORMAT_VERSION:
        raise UserError(
            f"{file}: format_version is {config.get('format_version')!r}, expected {FORMAT_VERSION}. "
            "Upgrade loopscope."
        )
    return config


def filled(settings: ModelSettings, state: Mapping[str, Tensor], source: str) -> RecursiveModel:
    """A model with these weights, copied into memory but for a large puzzle table.

    Raises:
        UserError: as `check_state` says it.
    """
    with torch.device("meta"):  # no fresh weights are drawn, no table of zeros is made
        model = build_model(settings)
    check_state(model, state, source)
    large = has_large_table(settings)
    kept = {k: v.float() if large and k == TABLE else v.float().clone() for k, v in state.items()}
    model.load_state_dict(kept, strict=True, assign=True)
    return model.compute_in(model.dtype)  # makes the rotation tables, which no file holds


def has_large_table(settings: ModelSettings) -> bool:
    """Whether the puzzle table stays on the disk."""
    return 4 * settings.num_puzzle_identifiers * settings.puzzle_emb_ndim > LARGE


def load_state(model: RecursiveModel, state: Mapping[str, Tensor], source: str) -> None:
    """Fill a model in place, strictly.

    Raises:
        UserError: as `check_state` says it.
    """
    check_state(model, state, source)
    model.load_state_dict({k: v.float() for k, v in state.items()}, strict=True)


def check_state(model: RecursiveModel, state: Mapping[str, Tensor], source: str) -> None:
    """Insist that every tensor is present, none unknown, every shape right.

    Raises:
        UserError: naming the first tensor that does not fit.
    """
    own = model.state_dict()
    for key, expected in own.items():
        if key not in state:
            raise UserError(f"{source}: tensor {key} is missing. The file is incomplete; fetch it again.")
        if expected.shape != state[key].shape:
            raise UserError(
                f"{source}: {key} is {tuple(state[key].shape)}, the settings say {tuple(expected.shape)}. "
                "Load weights and settings of the same run, or fetch the file again."
            )
    unknown = sorted(set(state) - set(own))
    if unknown:
        raise UserError(
            f"{source}: unknown tensor {unknown[0]}, no part of a {model.settings.arch}. "
            "A changed architecture needs its own model class; take the tensor out only if it is unused."
        )


def _read_tensors(file: Path, checksum: str | None) -> dict[str, Tensor]:
    if not file.is_file():
        raise UserError(f"{file}: missing. Copy or fetch the folder again.")
    if checksum is not None and checksum != _sha256(file):
        raise UserError(f"{file}: damaged or changed, its sha256 is not the one in {CONFIG}. Fetch it again.")
    try:
        return load_file(file)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError):
        raise UserError(f"{file}: not a readable safetensors file. Copy or fetch the folder again.") from None


def _sha256(path: Path) -> str:
    """Of the whole file, or of what comes before and after a large puzzle table."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        start, stop = _table_bytes(path)
        while block := file.read(min(BLOCK, start - file.tell()) if file.tell() < start else BLOCK):
            digest.update(block)
            if file.tell() == start:
                file.seek(stop)
    return digest.hexdigest()


def _table_bytes(path: Path) -> tuple[int, int]:
    """Where a large puzzle table begins and ends in a safetensors file; (0, 0) where there is none."""
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        if size + 8 > path.stat().st_size:
            return 0, 0  # damaged, as the checksum will tell
        try:
            first, last = json.loads(file.read(size))[TABLE]["data_offsets"]
        except (ValueError, KeyError, TypeError, RecursionError):
            return 0, 0
    large = isinstance(first, int) and isinstance(last, int) and last - first > LARGE
    return (8 + size + first, 8 + size + last) if large else (0, 0)
