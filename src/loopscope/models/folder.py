"""Model folders: `model.safetensors`, `config.json` and `README.md`, the card."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from loopscope.config import ModelSettings, validated
from loopscope.errors import UserError
from loopscope.files import write_json, write_text, written_whole
from loopscope.models.recursion import RecursiveModel, build_model

FORMAT_VERSION = 1


def save_model(model: RecursiveModel, path: str | Path, facts: Mapping[str, Any] | None = None) -> None:
    """Write a model folder, whole or not at all.

    Args:
        model: the model; its weights are saved as they are now.
        path: the folder; replaced when it exists.
        facts: what the card tells beside the settings: recipe, step, minutes, validation scores.
    """
    facts = dict(facts or {})
    with written_whole(path) as beside:
        beside.mkdir()
        tensors = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
        save_file(tensors, beside / "model.safetensors", metadata={"format": "pt"})
        config = {"format_version": FORMAT_VERSION, "model": model.settings.model_dump(), **facts}
        write_json(beside / "config.json", config)
        write_text(beside / "README.md", card(model, facts))


def load_folder(path: Path) -> RecursiveModel:
    """Read a model folder.

    Raises:
        UserError: a file is missing or damaged, or weights and settings disagree.
    """
    config = read_config(path)
    settings = validated(ModelSettings, config["model"], f"{path / 'config.json'}")
    try:
        state = load_file(path / "model.safetensors")
    except (SafetensorError, OSError):
        raise UserError(f"{path / 'model.safetensors'}: missing or damaged. Copy or fetch the folder again.") from None
    model = build_model(settings)
    load_state(model, state, str(path))
    model.facts = {k: v for k, v in config.items() if k != "model"}
    return model


def read_config(path: Path) -> dict[str, Any]:
    """The `config.json` of a model folder."""
    try:
        config = json.loads((path / "config.json").read_text())
    except (OSError, json.JSONDecodeError):
        raise UserError(f"{path / 'config.json'}: missing or not json. Copy or fetch the folder again.") from None
    if "model" not in config:
        raise UserError(f"{path / 'config.json'}: no `model` section. Expected a folder written by loopscope.")
    return config


def load_state(model: RecursiveModel, state: Mapping[str, Any], source: str) -> None:
    """Fill a model strictly: every tensor present, none unknown, every shape right.

    Raises:
        UserError: naming the first key that does not fit.
    """
    own = model.state_dict()
    for key in own:
        if key not in state:
            raise UserError(f"{source}: tensor {key} is missing. The file is incomplete; fetch it again.")
        if own[key].shape != state[key].shape:
            raise UserError(
                f"{source}: {key} is {tuple(state[key].shape)}, the settings say {tuple(own[key].shape)}. "
                "Use the settings file that belongs to these weights."
            )
    unknown = sorted(set(state) - set(own))
    if unknown:
        raise UserError(f"{source}: unknown tensor {unknown[0]}. Is this checkpoint of another architecture?")
    model.load_state_dict({k: v.float() for k, v in state.items()}, strict=True)


def card(model: RecursiveModel, facts: Mapping[str, Any]) -> str:
    """The model card: what it is, how it was made, how to open it."""
    s = model.settings
    recipe = facts.get("recipe", {})
    lines = [
        f"# {recipe.get('name') or s.arch}",
        "",
        f"A {s.arch} model with {model.num_parameters:,} trained parameters, "
        f"{s.seq_len} cells, {s.vocab_size} tokens, width {s.hidden_size}, "
        f"{model.applications_per_segment} block applications per segment, trained with up to {s.halt_max_steps} segments.",
        "",
        "```python",
        "import loopscope as ls",
        'model = ls.load("path/of/this/folder")',
        "```",
        "",
    ]
    if "step" in facts:
        lines += [f"- weights: {facts['weights']}, after {facts['step']} steps ({facts['minutes']:.0f} minutes)"]
    lines += [f"- validation {k}: {v:.4f}" for k, v in facts.get("validation", {}).items()]
    if recipe:
        lines += ["", "Settings and seed are in `config.json`; repeat the training with", "", "```"]
        lines += [f"loopscope train {recipe.get('name')} train.seed={recipe['train']['seed']} --out RUN", "```"]
    return "\n".join(lines) + "\n"
