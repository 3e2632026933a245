"""Checkpoints and settings in the format of the official TRM and HRM training code.

A checkpoint is a pickled state dict `step_<N>` (or `weights.pt`, `checkpoint`) beside `all_config.yaml`.
Pickles are opened weights-only, so that no code in them can run, and checked against the checksums of
their zip container, which torch itself ignores. The yaml leaves out the sizes; they are read off the
tensors, and what is in neither must be given.
"""

from __future__ import annotations

import json
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor

from loopscope.config import ModelSettings, TrainSettings, validated
from loopscope.errors import UserError
from loopscope.files import write_text, written_whole
from loopscope.models.folder import LARGE, filled
from loopscope.models.recursion import DTYPES, RecursiveModel
from loopscope.models.shapes import check_agreement, demand, infer_arch, infer_sizes, num_tokens
from loopscope.registry import did_you_mean

CONFIG = "all_config.yaml"
FILES = ("weights.pt", "checkpoint", "model.safetensors")
PREFIX = "_orig_mod.model.inner."  # compile, loss head and halting wrapper around the network
HEAD = "lm_head.weight"  # a tensor that every model has
WRAPPERS = re.compile(r"^(?:(?:module|model|inner)\.)+")
NAMES = {  # our architecture -> the class as a yaml names it, module@class
    "trm": "recursive_reasoning.trm@TinyRecursiveReasoningModel_ACTV1",
    "trm-singlez": "recursive_reasoning.trm_singlez@TinyRecursiveReasoningModel_ACTV1",
    "hrm": "recursive_reasoning.hrm@HierarchicalReasoningModel_ACTV1",
    "transformer": "recursive_reasoning.transformers_baseline@Model_ACTV2",
}
MODULES = {"hrm_act_v1": "hrm"} | {
    name.split("@")[0].rpartition(".")[2]: arch for arch, name in NAMES.items()
}
NOT_OURS = {"name", "loss", "batch_size", "causal", "act_enabled", "act_inference"}  # no part of the map
OFFICIAL_DEFAULTS: dict[str, dict[str, Any]] = {  # what the official class implies
    "hrm": {"no_ACT_continue": False},
    "transformer": {"no_ACT_continue": False, "L_layers": 0},
}
PLAIN = {"random_init": False, "damping": 1.0}  # parts of the map that the official code lacks
TRAINING = (  # settings that official yaml files and our recipes name alike
    *("lr", "lr_min_ratio", "lr_warmup_steps", "beta1", "beta2", "weight_decay"),
    *("puzzle_emb_lr", "puzzle_emb_weight_decay", "ema", "ema_rate", "seed"),
)


def load_official(path: Path, known: Mapping[str, Any]) -> RecursiveModel:
    """The model of an official checkpoint, a folder or a bare weights file.

    Args:
        path: folder with `step_<N>` (the latest is taken), `weights.pt` or `checkpoint`; or such a file.
        known: settings from the user; they win over the yaml, and the tensors must agree with them.
    Raises:
        UserError: no, damaged or unsafe weights; settings missing, misspelt or contradicting.
    """
    weights, config_file = find_files(path)
    raw = _read(weights)
    state = strip_prefix(raw, str(weights))
    config = read_config(config_file) if config_file else {}
    told = infer_arch(state, weights) | _sizes_beside(weights)
    told = OFFICIAL_DEFAULTS.get(told["arch"], {}) | told
    if config_file:
        told |= arch_values(config["arch"], str(config_file), known.get("arch")) | _own_section(config)
    told |= known
    sizes = infer_sizes(state, told, weights)
    demand(told | sizes, weights, config_file)
    settings = validated(ModelSettings, told | sizes, str(config_file or weights))
    check_agreement(state, settings, weights, {"": "the settings say"} | dict.fromkeys(known, "you passed"))
    model = filled(settings, state, str(weights))
    model.facts = _facts(weights, config) | {"assumed": _assumed(state, told, settings)}
    model.facts["prefix"] = next(key.removesuffix(HEAD) for key in raw if key.endswith(HEAD))
    return model


# -- reading


def find_files(path: Path) -> tuple[Path, Path | None]:
    """The weights file and the `all_config.yaml` of a checkpoint given as a folder or file.

    Of several `step_<N>` the latest is taken.

    Raises:
        UserError: the folder holds no weights.
    """
    if path.is_file():
        config = path.parent / CONFIG
        return path, config if config.is_file() else None
    steps = [f for f in path.iterdir() if step_of(f) is not None]
    for candidate in (*sorted(steps, key=step_of, reverse=True), *(path / name for name in FILES)):  # type: ignore[arg-type]
        if candidate.is_file():
            return find_files(candidate)
    raise UserError(f"{path}: no model here. Expected {', '.join(FILES)} or step_<N>.{_below(path)}")


def step_of(file: PurePath) -> int | None:
    """The N of `step_<N>` or `step_<N>_<anything>`, None for other names."""
    match = re.fullmatch(r"step_(\d+)(?:_.*)?", file.name)
    return int(match[1]) if match else None


def _below(path: Path) -> str:
    inside = sorted({f.parent.name for pattern in ("step_*", *FILES) for f in path.glob(f"*/{pattern}")})
    return f" There are models below: name one of {', '.join(inside)}." if inside else ""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict of a weights file, on the CPU, wrappers removed; never runs code from the file.

    The tensors are maps of the file, read where they are used.

    Raises:
        UserError: damaged, not a checkpoint, or holding objects other than tensors.
    """
    return strip_prefix(_read(path), str(path))


def _read(path: Path) -> Mapping[str, Tensor]:
    try:
        if zipfile.is_zipfile(path):
            _check_sums(path)
        state = load_file(path) if path.suffix == ".safetensors" else _unpickle(path)
    except UserError:
        raise
    except Exception:  # a damaged pickle fails anywhere inside the reader, with any type of error
        raise UserError(
            f"{path}: not a readable checkpoint; the file is damaged or cut off. Fetch it again."
        ) from None
    if not isinstance(state, Mapping):
        raise UserError(
            f"{path}: expected a dictionary of tensors, found {type(state).__name__}. Save the state dict."
        )
    other = next((key for key, value in state.items() if not isinstance(value, Tensor)), None)
    if other is not None:
        raise UserError(
            f"{path}: entry {str(other)[:60]!r} is not a tensor, and a state dict holds nothing else. "
            "Save the part with the weights on its own."
        )
    return state


def _unpickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        if "GLOBAL" not in str(error):
            raise
        raise UserError(
            f"{path}: refused, because it holds objects besides tensors and opening them could run code. "
            "Get the weights from a source you trust, as a plain state dict or as safetensors."
        ) from None


def _check_sums(path: Path) -> None:
    """Raise when an entry of the zip container does not match its checksum (all zero: none were kept).

    A large puzzle table is not read for it.
    """
    with zipfile.ZipFile(path) as container:
        entries = container.infolist()
        if not any(entry.CRC for entry in entries):
            return
        for entry in entries:
            if entry.file_size <= LARGE:
                container.read(entry)  # raises where the sum is wrong


def strip_prefix(state: Mapping[str, Tensor], source: str = "weights") -> dict[str, Tensor]:
    """Keys without the wrappers that compiling, data parallelism, loss head and halting add.

    Raises:
        UserError: two keys become one.
    """
    bare: dict[str, Tensor] = {}
    for key, value in state.items():
        name = WRAPPERS.sub("", str(key).replace("_orig_mod.", ""))
        if name in bare:
            raise UserError(f"{source}: tensor {name} is there twice, under two prefixes. Keep one of them.")
        bare[name] = value
    return bare


def read_config(path: Path) -> dict[str, Any]:
    """An `all_config.yaml`; its `arch` section is there.

    Raises:
        UserError: unreadable, not yaml or no `arch`.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise UserError(
            f"{path}: not readable as yaml ({' '.join(str(error).split())}). Mend it or fetch it again."
        ) from None
    if not isinstance(values, dict) or not isinstance(values.get("arch"), dict):
        raise UserError(f"{path}: no `arch` section. Expected the {CONFIG} of a training run.")
    return values


def settings_from_arch(
    arch: Mapping[str, Any], sizes: Mapping[str, int], source: str = "arch"
) -> ModelSettings:
    """Official `arch` settings (yaml section or class arguments) to ours, without any tensors.

    Args:
        arch: official keys; unknown ones are an error. `arch["arch"]` may name the architecture.
        sizes: seq_len, vocab_size, num_puzzle_identifiers, where `arch` lacks them.
        source: file name for messages.
    """
    values = {"mlp_t": False, "puzzle_emb_ndim": 0, **sizes, **arch_values(arch, source)}
    demand(values, source, None)
    return validated(ModelSettings, values, source)


def arch_values(arch: Mapping[str, Any], source: str, family: str | None = None) -> dict[str, Any]:
    """The part of an `arch` section that we know, with the defaults of the official class.

    Raises:
        UserError: unknown key or unknown class (unless `family` says which of ours it is).
    """
    known = {*ModelSettings.model_fields, *NOT_OURS}
    unknown = sorted(str(key) for key in arch if key not in known)
    if unknown:
        raise UserError(f"{source}: arch.{unknown[0]}: unknown key. {did_you_mean(unknown[0], known)}")
    module = str(arch.get("name", "")).partition("@")[0].rpartition(".")[2]
    family = str(family or arch.get("arch") or MODULES.get(module, arch.get("name")))
    if family not in NAMES:
        raise UserError(
            f"{source}: arch.name {family!r} is not one of ours ({', '.join(sorted(MODULES))}). "
            f"If the model behaves like one of {', '.join(NAMES)}, say which: "
            "load(..., arch='trm'), --set arch=trm."
        )
    tiny = family.startswith("trm")
    values = {"forward_dtype": "bfloat16", **OFFICIAL_DEFAULTS.get(family, {})}
    values |= {"puzzle_emb_len": 16} if tiny else {}
    values |= {key: value for key, value in arch.items() if key in ModelSettings.model_fields}
    if tiny:
        values.pop("H_layers", None)  # officially ignored: one block serves both states
    if not arch.get("puzzle_emb_ndim"):
        values["puzzle_emb_len"] = 0
    return {**values, "arch": family}


def _sizes_beside(weights: Path) -> dict[str, int]:
    """Sizes from `data/<task>_meta.json` beside the model's folder, the layout of some Hub repositories."""
    folder = weights.absolute().parent  # not resolved: the Hub cache links files to a store elsewhere
    for file in sorted((folder.parent / "data").glob("*_meta.json")):
        if file.name.removesuffix("_meta.json") in folder.name:
            try:
                meta = json.loads(file.read_text(encoding="utf-8"))
                return {key: int(meta[key]) for key in ("seq_len", "vocab_size", "num_puzzle_identifiers")}
            except (OSError, ValueError, KeyError, TypeError, RecursionError):
                raise UserError(
                    f"{file}: expected json with seq_len, vocab_size and num_puzzle_identifiers."
                ) from None
    return {}


def _own_section(config: Mapping[str, Any]) -> dict[str, Any]:
    """What `save_official` notes beside the official keys; the official code gets it from the data."""
    section = config.get("loopscope")
    return {"seq_len": section["seq_len"]} if isinstance(section, dict) and "seq_len" in section else {}


def _assumed(state: Mapping[str, Tensor], told: Mapping[str, Any], settings: ModelSettings) -> dict[str, Any]:
    """Settings that nobody told, with the values taken."""
    from_vocabulary = ["seq_len"] if "seq_len" not in told and num_tokens(state) is None else []
    by_default = [] if "halt_max_steps" in told else ["halt_max_steps"]
    return {key: getattr(settings, key) for key in from_vocabulary + by_default}


def _facts(weights: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    facts: dict[str, Any] = {"format": "official", "source": str(weights)}
    step = step_of(weights)
    facts |= {} if step is None else {"step": step}
    if config:  # the TRM code saves the averaged weights in place of the raw ones
        facts |= {"weights": "ema" if config.get("ema") else "raw", "official": dict(config)}
    return facts


# -- writing


def save_official(model: RecursiveModel, path: str | Path, prefix: str | None = None) -> Path:
    """Write `step_<N>` and `all_config.yaml` as the official code leaves them.

    N is the step the model was saved at, as far as known. Start states have the forward dtype, all
    other tensors float32.

    Args:
        model: any architecture with an official counterpart.
        path: the folder; made when missing, other files in it stay.
        prefix: what stands before the names of the tensors. None takes that of the checkpoint the model
            came from, else `PREFIX`, as the official code saves with compilation.
    Returns:
        The weights file.
    Raises:
        UserError: the model has an architecture or setting that the official code lacks, or no such
            prefix exists.
    """
    if (arch := model.settings.arch) not in NAMES:
        raise UserError(
            f"arch={arch}: the official code has no such architecture. Keep the model in our own format."
        )
    prefix = model.facts.get("prefix") or PREFIX if prefix is None else prefix
    if strip_prefix({f"{prefix}{HEAD}": model.lm_head.weight}).keys() != {HEAD}:
        raise UserError(f"prefix {prefix}: no wrapper of the official code. Use {PREFIX} or model.inner.")
    for key, plain in PLAIN.items():
        if (value := getattr(model.settings, key)) != plain:
            raise UserError(
                f"{key}={value}: the official format has no such setting. Keep the model in our own format."
            )
    dtype = DTYPES[model.settings.forward_dtype]
    state = {
        prefix + key: value.detach().to("cpu", dtype if key in ("H_init", "L_init") else torch.float32)
        for key, value in model.state_dict().items()
    }
    weights = Path(path) / f"step_{model.facts.get('step', 0)}"
    write_text(weights.parent / CONFIG, yaml.safe_dump(_official_config(model)))
    with written_whole(weights) as beside:
        torch.save(OrderedDict(state), beside)
    return weights


def _official_config(model: RecursiveModel) -> dict[str, Any]:
    """The yaml: what an earlier official yaml or our recipe tells, else our defaults."""
    before = model.facts.get("official", {})
    train = {**TrainSettings().model_dump(), **model.facts.get("recipe", {}).get("train", {})}
    mine = {"seq_len", "vocab_size", "num_puzzle_identifiers", "arch", "update_noise", *PLAIN}
    arch = {key: value for key, value in model.settings.model_dump().items() if key not in mine}
    arch["name"] = before.get("arch", {}).get("name", NAMES[model.settings.arch])
    arch["loss"] = before.get("arch", {}).get(
        "loss", {"name": "losses@ACTLossHead", "loss_type": f"{train['loss']}_cross_entropy"}
    )
    values = {key: train[key] for key in TRAINING}
    values |= {"global_batch_size": train["batch_size"], "epochs": train["epochs"] or 1, "data_paths": []}
    return {**values, **before, "arch": arch, "loopscope": {"seq_len": model.settings.seq_len}}
