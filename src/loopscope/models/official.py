"""Checkpoints and settings in the format of the official TRM and HRM training code.

A checkpoint is a pickled state dict `step_<N>` (or `weights.pt`) beside `all_config.yaml`. Pickles are
opened weights-only, so that no code in them can run. What the yaml leaves out (sequence length,
vocabulary, table size) is read off the tensor shapes; what is in neither must be given.
"""

from __future__ import annotations

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from loopscope.config import ModelSettings, validated
from loopscope.errors import UserError
from loopscope.registry import did_you_mean

PREFIXES = ("_orig_mod.model.inner.", "model.inner.", "_orig_mod.inner.", "inner.", "_orig_mod.model.", "model.", "_orig_mod.")
ARCH_NAMES = {  # class named in the yaml -> our architecture
    "TinyRecursiveReasoningModel_ACTV1": "trm",
    "TinyRecursiveReasoningModel_ACTV1_singlez": "trm-singlez",
    "trm_singlez": "trm-singlez",
    "HierarchicalReasoningModel_ACTV1": "hrm",
    "Model_ACTV2": "transformer",
    "Transformer": "transformer",
}
NOT_OURS = {"name", "loss", "batch_size", "causal", "puzzle_emb_len_is_set"}  # keys without a meaning here
CELLS = {11: 81, 6: 900, 12: 900}  # vocabulary -> cells of Sudoku, Maze-Hard, ARC
OFFICIAL_DEFAULTS: dict[str, dict[str, Any]] = {  # class defaults that a yaml may leave out
    "trm": {"puzzle_emb_len": 16},
    "trm-singlez": {"puzzle_emb_len": 16},
    "hrm": {"no_ACT_continue": False},
    "transformer": {"no_ACT_continue": False},
}


def find_files(path: Path) -> tuple[Path, Path | None]:
    """The weights file and the `all_config.yaml` of a checkpoint given as a folder or file.

    Of several `step_<N>` the latest is taken.

    Raises:
        UserError: the folder holds no weights.
    """
    if path.is_file():
        config = path.parent / "all_config.yaml"
        return path, config if config.is_file() else None
    steps = [f for f in path.iterdir() if re.fullmatch(r"step_\d+(?:_.*)?", f.name) and f.is_file()]
    steps.sort(key=lambda f: int(f.name.split("_")[1]))
    for candidate in (*reversed(steps), path / "weights.pt", path / "checkpoint"):
        if candidate.is_file():
            return find_files(candidate)
    raise UserError(f"{path}: no checkpoint here. Expected model.safetensors, step_<N>, weights.pt or checkpoint.")


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint file, on the CPU, prefix removed; never runs code from the file.

    Raises:
        UserError: truncated, not a checkpoint, or holding objects other than tensors.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: refused, because the file holds something besides tensors and opening it could run code. "
            "Get the weights from a source you trust, saved as a plain state dict or safetensors."
        ) from None
    except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, ValueError, KeyError):
        raise UserError(f"{path}: not a readable checkpoint; the file is damaged or cut off. Fetch it again.") from None
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise UserError(f"{path}: expected a state dict of tensors, found {type(state).__name__}.")
    return strip_prefix(state)


def strip_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Keys without the wrappers that compiling, the loss head and the halting wrapper add."""
    for prefix in PREFIXES:
        if state and all(key.startswith(prefix) for key in state):
            return {key.removeprefix(prefix): value for key, value in state.items()}
    return dict(state)


def read_config(path: Path) -> dict[str, Any]:
    """The `arch` section of an `all_config.yaml`.

    Raises:
        UserError: not yaml or no `arch`.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid yaml: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict) or not isinstance(values.get("arch"), dict):
        raise UserError(f"{path}: no `arch` section. Expected the all_config.yaml of a training run.")
    return values["arch"]


def settings_from_arch(arch: Mapping[str, Any], sizes: Mapping[str, int], source: str = "") -> ModelSettings:
    """Official `arch` settings (yaml section or class arguments) to ours.

    Args:
        arch: official keys; unknown ones are an error.
        sizes: seq_len, vocab_size, num_puzzle_identifiers, where `arch` lacks them.
        source: file name for messages.
    """
    name = str(arch.get("name", "")).rpartition("@")[2]
    known = set(ModelSettings.model_fields) | NOT_OURS
    unknown = sorted(set(arch) - known)
    if unknown:
        raise UserError(f"{source}: arch.{unknown[0]}: unknown key. {did_you_mean(unknown[0], known)}")
    family = arch.get("arch") or ARCH_NAMES.get(name)
    if family is None:
        raise UserError(f"{source}: arch.name is {name!r}. {did_you_mean(name, ARCH_NAMES)}")
    missing = [key for key in ("H_cycles", "L_cycles", "hidden_size", "num_heads") if key not in arch]
    if missing and family != "transformer":
        raise UserError(f"{source}: arch.{missing[0]} is missing, and the weights do not tell it. Add it to the file.")
    values = {**OFFICIAL_DEFAULTS.get(family, {}), "forward_dtype": "bfloat16", **sizes}
    values |= {k: v for k, v in arch.items() if k in ModelSettings.model_fields}
    if not values.get("puzzle_emb_ndim"):
        values["puzzle_emb_len"] = 0
    return validated(ModelSettings, {**values, "arch": family}, source)


def infer_arch(state: Mapping[str, Tensor]) -> dict[str, Any]:
    """What the tensors alone tell of the architecture, as official `arch` keys."""
    facts: dict[str, Any] = {"hidden_size": _shape(state, "embed_tokens.embedding_weight")[1]}
    families = {"H_level": any(k.startswith("H_level.") for k in state), "L_level": any(k.startswith("L_level.") for k in state)}
    if all(families.values()):
        facts["arch"] = "hrm"
    elif families["H_level"]:
        facts["arch"] = "transformer"
    else:
        facts["arch"] = "trm" if "H_init" in state else "trm-singlez"
    for level in ("H", "L"):
        layers = {k.split(".")[2] for k in state if k.startswith(f"{level}_level.layers.")}
        facts[f"{level}_layers"] = len(layers)
    facts["mlp_t"] = any(".mlp_t." in k for k in state)
    facts["puzzle_emb_ndim"] = state["puzzle_emb.weights"].shape[1] if "puzzle_emb.weights" in state else 0
    if "embed_pos.embedding_weight" in state:
        facts["pos_encodings"] = "learned"
    return facts


def infer_sizes(state: Mapping[str, Tensor], arch: Mapping[str, Any]) -> dict[str, int]:
    """seq_len, vocab_size and num_puzzle_identifiers from the shapes (and the vocabulary's usual board)."""
    vocab, width = _shape(state, "embed_tokens.embedding_weight")
    table = state.get("puzzle_emb.weights")
    sizes = {"vocab_size": vocab, "num_puzzle_identifiers": 1 if table is None else table.shape[0]}
    ndim = 0 if table is None else table.shape[1]
    default = 16 if str(arch.get("arch")).startswith("trm") or "Tiny" in str(arch.get("name")) else 0
    prefix = (arch.get("puzzle_emb_len", default) or -(-ndim // width)) if ndim else 0
    mixer = [v.shape[1] for k, v in state.items() if k.endswith("mlp_t.gate_up_proj.weight")]
    tokens = mixer[0] if mixer else len(state.get("embed_pos.embedding_weight", ()))
    if tokens:
        sizes["seq_len"] = tokens - prefix
    elif vocab in CELLS:
        sizes["seq_len"] = CELLS[vocab]
    return sizes


def _shape(state: Mapping[str, Tensor], key: str) -> tuple[int, int]:
    if key not in state:
        raise UserError(f"no tensor {key} in the checkpoint: it is not a TRM or HRM. Found {', '.join(list(state)[:3])} ...")
    rows, columns = state[key].shape
    return rows, columns
