"""Typed settings: recipe file < `key.path=value`, one validator for file, command line and checkpoint.

Names are the official ones of the TRM and HRM code where one exists, so that known settings can be
pasted. Everything is frozen and an unknown key is an error that suggests the nearest known one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from loopscope.errors import UserError
from loopscope.registry import did_you_mean

Dtype = Literal["float32", "bfloat16", "float64"]
S = TypeVar("S", bound="Settings")


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelSettings(Settings):
    """What a model is. Two models with equal settings have equal shapes."""

    arch: str = "trm"
    """Registered architecture: trm, trm-singlez, hrm, transformer."""
    seq_len: int = 0
    """Cells per puzzle; 0 takes it from the data."""
    vocab_size: int = 0
    """Tokens; 0 takes it from the data."""
    num_puzzle_identifiers: int = 1
    """Rows of the puzzle embedding table."""
    hidden_size: int = 512
    num_heads: int = 8
    expansion: float = 4.0
    """Width factor of the SwiGLU blocks, before the official rounding up to a multiple of 256."""
    H_cycles: int = 3
    L_cycles: int = 6
    H_layers: int = 0
    """Layers of the H block (HRM, transformer); TRM shares one block and ignores it, as officially."""
    L_layers: int = 2
    mlp_t: bool = False
    """Mix tokens with a SwiGLU over the token axis instead of attention."""
    pos_encodings: Literal["rope", "learned", "none"] = "rope"
    puzzle_emb_ndim: int = 0
    """Numbers per puzzle identifier; 0 means no puzzle embedding."""
    puzzle_emb_len: int = 0
    """Prefix slots for the puzzle embedding; 0 derives ceil(puzzle_emb_ndim / hidden_size)."""
    halt_max_steps: int = 16
    """Training budget: segments after which a slot takes a new puzzle."""
    halt_exploration_prob: float = 0.1
    no_ACT_continue: bool = True
    """True halts on q_halt > 0; False compares with q_continue and trains its bootstrapped target."""
    forward_dtype: Dtype = "bfloat16"
    """Dtype of states and products; weights stay float32 masters."""
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    random_init: bool = False
    """Every reset draws the start per token and dimension (EqR); off starts from H_init, L_init."""

    @model_validator(mode="after")
    def _check(self) -> ModelSettings:
        head_dim = self.hidden_size // self.num_heads
        if self.pos_encodings == "rope" and not self.mlp_t and (head_dim == 0 or head_dim % 2):
            raise ValueError(
                f"num_heads={self.num_heads} gives heads of {head_dim} at hidden_size={self.hidden_size}; "
                "rope needs an even, non-zero number. Change model.num_heads"
            )
        if self.puzzle_emb_ndim > self.prefix_len * self.hidden_size:
            raise ValueError(
                f"puzzle_emb_ndim={self.puzzle_emb_ndim} does not fit into puzzle_emb_len={self.puzzle_emb_len} "
                f"slots of {self.hidden_size}. Raise model.puzzle_emb_len or set it to 0"
            )
        if self.puzzle_emb_ndim == 0 and self.puzzle_emb_len > 0:
            raise ValueError(
                f"puzzle_emb_len={self.puzzle_emb_len} needs a puzzle embedding. "
                "Set model.puzzle_emb_len=0 or model.puzzle_emb_ndim"
            )
        return self

    @property
    def prefix_len(self) -> int:
        """Prefix slots in front of the cells, P."""
        return self.puzzle_emb_len or -(-self.puzzle_emb_ndim // self.hidden_size)

    @property
    def num_tokens(self) -> int:
        """Prefix and cells, M = P + L."""
        return self.prefix_len + self.seq_len


class TrainSettings(Settings):
    """How a model is trained."""

    steps: int | None = None
    """Optimiser steps, one segment each. Give this or `epochs`."""
    epochs: int | None = None
    """Passes over the training puzzles, counted as the official code counts them."""
    batch_size: int = 768
    """Puzzles in flight over all processes (official global_batch_size)."""
    micro_batch: int = 0
    """Rows per forward and backward within a step; 0 takes the whole batch. Small ones stay in a CPU's cache."""
    lr: float = 1e-4
    lr_min_ratio: float = 1.0
    """Learning rate at the last step relative to `lr`; 1.0 keeps it constant."""
    lr_warmup_steps: int = 2000
    beta1: float = 0.9
    beta2: float = 0.95
    weight_decay: float = 0.1
    puzzle_emb_lr: float = 1e-2
    puzzle_emb_weight_decay: float = 0.1
    loss: Literal["stablemax", "softmax"] = "stablemax"
    ema: bool = True
    ema_rate: float = 0.999
    seed: int = 0
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    eval_every: int = 1000
    """Steps between evaluations on the validation puzzles."""
    eval_segments: int = 16
    """Segments per puzzle in those evaluations."""
    checkpoint_every: int = 1000
    """Steps between checkpoints."""
    keep_last: int = 2
    """Checkpoints kept, newest first."""
    max_minutes: float | None = None
    """Stop cleanly after this many minutes of this sitting, with a checkpoint; None never."""
    compile: bool = False
    """torch.compile the block; pays from a few minutes of training on."""

    @model_validator(mode="after")
    def _check(self) -> TrainSettings:
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(
                f"micro_batch={self.micro_batch} must divide batch_size={self.batch_size}. "
                "Change train.micro_batch"
            )
        if self.steps is not None and self.epochs is not None:
            raise ValueError(f"steps={self.steps} and epochs={self.epochs} are both set. Remove one")
        return self


class GenerateSettings(Settings):
    """Puzzles made on the spot instead of read from a file."""

    count: int
    """Puzzles, validation included."""
    givens: int
    box_rows: int = 3
    box_cols: int = 3
    seed: int = 0


class DataSettings(Settings):
    """Which puzzles a model is trained on."""

    task: str = "sudoku"
    path: str | list[str] | None = None
    """Puzzle file or files."""
    generate: GenerateSettings | None = None
    """Make the puzzles instead of reading `path`."""
    augmentations: bool = True
    """Draw a fresh random symmetry for every puzzle, every time."""
    validation: int = 512
    """Training puzzles held out to watch the run and choose `best`; never test puzzles."""
    reveal: float = 0.0
    """Share of rows that get extra givens, a uniform random share of their blanks: a curriculum."""
    reveal_steps: int = 0
    """Steps over which that share falls linearly to zero; 0 keeps it."""


class Recipe(Settings):
    """Everything a training run needs; saved resolved as `config.yaml` in the run folder."""

    name: str = ""
    """Name of the recipe, for the model card."""
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    data: DataSettings = DataSettings()


def validated(kind: type[S], values: Mapping[str, Any], source: str = "") -> S:
    """Build settings from plain values; a mistake becomes one line naming the key.

    Raises:
        UserError: unknown key (with a suggestion), wrong type, or values that contradict each other.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        where = f"{source}: " if source else ""
        if first["type"] == "extra_forbidden":
            raise UserError(f"{where}{key}: unknown key. {_suggest(kind, key)}") from None
        message = str(first["msg"]).removeprefix("Value error, ")
        shown = f", got {first['input']!r}" if key and first["type"] != "value_error" else ""
        raise UserError(f"{where}{key + ': ' if key else ''}{message}{shown}.") from None


def _suggest(kind: type[BaseModel], key: str) -> str:
    *parents, last = key.split(".")
    for parent in parents:
        annotation: Any = kind.model_fields[parent].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        kind = next(a for a in options if isinstance(a, type) and issubclass(a, BaseModel))
    prefix = "".join(f"{p}." for p in parents)
    return did_you_mean(prefix + last, [prefix + name for name in kind.model_fields])


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    folder = resources.files("loopscope") / "recipes"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name or yaml file, with dotted overrides applied.

    Args:
        name: a shipped recipe (`sudoku6-cpu`) or the path of a yaml file.
        overrides: `key.path=value` strings, the value read as yaml: `train.lr=3e-4`.
    Raises:
        UserError: no such recipe, not yaml, or a bad key or value.
    """
    values, source = _read_recipe(name)
    for override in overrides:
        _apply_override(values, override)
    values.setdefault("name", Path(name).stem)
    return validated(Recipe, values, "" if overrides else source)


def _read_recipe(name: str) -> tuple[dict[str, Any], str]:
    if name in recipe_names():
        text = (resources.files("loopscope") / "recipes" / f"{name}.yaml").read_text()
    elif Path(name).is_file():
        text = Path(name).read_text()
    else:
        raise UserError(f"{name}: no such recipe or file. {did_you_mean(name, recipe_names())}")
    try:
        values = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise UserError(f"{name}: not valid yaml: {' '.join(str(error).split())}") from None
    if not isinstance(values, dict):
        raise UserError(f"{name}: expected a mapping with the keys {', '.join(Recipe.model_fields)}.")
    return values, name


def _apply_override(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"{override}: not a setting. Write key.path=value, for example train.lr=3e-4.")
    *parents, last = path.split(".")
    for parent in parents:
        child = values.setdefault(parent, {})
        if not isinstance(child, dict):
            raise UserError(f"{path}: {parent} is a single value and has no keys.")
        values = child
    values[last] = parse_value(text)


def parse_value(text: str) -> Any:
    """A yaml scalar or list; unlike plain yaml, `3e-4` is a number."""
    try:
        return float(text) if "e" in text.lower() and text[:1] in "+-.0123456789" else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return text
