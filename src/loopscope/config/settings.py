"""The settings, one docstring per field. All are frozen, and unknown keys are forbidden.

Names are the official ones of the TRM and HRM code where one exists, so that known settings can be pasted.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


def _not_bool(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError(f"expected a number, got {value}")
    return value


Int = Annotated[int, BeforeValidator(_not_bool)]
Number = Annotated[float, BeforeValidator(_not_bool), Field(allow_inf_nan=False)]
Count = Annotated[Int, Field(ge=1)]  # at least one
Whole = Annotated[Int, Field(ge=0)]  # zero has a meaning, often "derive it" or "off"
Share = Annotated[Number, Field(ge=0, le=1)]
Decay = Annotated[Number, Field(ge=0, lt=1)]
Amount = Annotated[Number, Field(ge=0)]
Dtype = Literal["float32", "bfloat16", "float64"]


class Settings(BaseModel):
    """Base of all settings: frozen, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _read_none(cls, values: Any) -> Any:
        """`none` means no value where a setting may have none; yaml itself only knows `null`."""
        if not isinstance(values, dict):
            return values
        optional = {k for k, field in cls.model_fields.items() if type(None) in get_args(field.annotation)}
        return {k: None if k in optional and v in ("none", "None") else v for k, v in values.items()}


class ModelSettings(Settings):
    """What a model is. Two models with equal settings have equal shapes."""

    arch: str = "trm"
    """Registered architecture: trm, trm-singlez, trm-equivariant (Sudoku only), hrm, transformer."""
    seq_len: Whole = 0
    """Cells per puzzle; 0 takes it from the data."""
    vocab_size: Whole = 0
    """Tokens; 0 takes it from the data."""
    num_puzzle_identifiers: Count = 1
    """Rows of the puzzle embedding table."""
    hidden_size: Count = 512
    """Width, D."""
    num_heads: Count = 8
    """Attention heads."""
    expansion: Annotated[Number, Field(gt=0)] = 4.0
    """Width factor of the SwiGLU blocks, before the official rounding up to a multiple of 256."""
    H_cycles: Count = 3
    """Updates of z_H in a segment."""
    L_cycles: Count = 6
    """Updates of z_L before each of z_H."""
    H_layers: Whole = 0
    """Layers of the H block (HRM, transformer); TRM shares one block and ignores it, as officially."""
    L_layers: Whole = 2
    """Layers of the L block, and of the one block of TRM."""
    mlp_t: bool = False
    """Mix tokens with a SwiGLU over the token axis instead of attention."""
    pos_encodings: Literal["rope", "learned", "none"] = "rope"
    """How a token knows its place; `mlp_t` needs none."""
    puzzle_emb_ndim: Whole = 0
    """Numbers per puzzle identifier; 0 means no puzzle embedding."""
    puzzle_emb_len: Whole = 0
    """Prefix slots for the puzzle embedding; 0 derives ceil(puzzle_emb_ndim / hidden_size)."""
    halt_max_steps: Count = 16
    """Training budget: segments after which a slot takes a new puzzle."""
    halt_exploration_prob: Share = 0.1
    """Chance per slot and step that halting must wait for a random number of segments."""
    no_ACT_continue: bool = True
    """True halts on q_halt > 0; False compares with q_continue and trains its bootstrapped target."""
    forward_dtype: Dtype = "bfloat16"
    """Dtype of states and products; weights stay float32 masters."""
    rms_norm_eps: Amount = 1e-5
    """Added to the mean square before the root."""
    rope_theta: Annotated[Number, Field(gt=0)] = 10000.0
    """Base of the rotation frequencies."""
    random_init: bool = False
    """Every reset draws the start per token and dimension (EqR); off starts from H_init, L_init."""
    damping: Annotated[Number, Field(gt=0, le=1)] = 1.0
    """Share a of an update that is taken, z <- (1 - a) z + a f(z), at inference too; 1.0 takes all of it."""
    update_noise: Amount = 0.0
    """Standard deviation of Gaussian noise added to a state by every update of it, in training only."""

    @model_validator(mode="after")
    def _check(self) -> ModelSettings:
        head_dim = self.hidden_size // self.num_heads
        if self.pos_encodings == "rope" and not self.mlp_t and (head_dim == 0 or head_dim % 2):
            raise ValueError(
                f"num_heads={self.num_heads} gives heads of {head_dim} at hidden_size={self.hidden_size}; "
                "rope needs an even, non-zero number. Change model.num_heads"
            )
        if self.arch in ("hrm", "transformer") and not self.H_layers:
            raise ValueError(f"arch={self.arch} needs H_layers, got 0. Set model.H_layers, officially 4 or 8")
        if self.puzzle_emb_ndim > self.prefix_len * self.hidden_size:
            raise ValueError(
                f"puzzle_emb_ndim={self.puzzle_emb_ndim} does not fit into "
                f"puzzle_emb_len={self.puzzle_emb_len} slots of {self.hidden_size}. "
                "Raise model.puzzle_emb_len or set it to 0"
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

    steps: Count | None = None
    """Optimiser steps, one segment each. Give this or `epochs`."""
    epochs: Count | None = None
    """Passes over the training puzzles, counted as the official code counts them."""
    batch_size: Count = 768
    """Puzzles in flight over all processes (official global_batch_size)."""
    micro_batch: Whole = 0
    """Rows per forward and backward within a step; 0 takes the whole batch. Few stay in a CPU's cache."""
    optimizer: Literal["adam_atan2", "adamw", "muon"] = "adam_atan2"
    """Of the weights; muon takes the matrices inside the blocks and leaves the rest to AdamATan2."""
    muon_lr: Amount = 1e-3
    """Learning rate of the matrices under muon, after warm-up; follows the schedule of `lr`."""
    lr: Amount = 1e-4
    """Learning rate after warm-up, of everything but the puzzle table."""
    lr_min_ratio: Share = 1.0
    """Learning rate at the last step relative to `lr`; 1.0 keeps it constant."""
    lr_warmup_steps: Whole = 2000
    """Steps over which the learning rates rise linearly from zero."""
    beta1: Decay = 0.9
    """Decay of the mean of the gradients."""
    beta2: Decay = 0.95
    """Decay of the mean of their squares."""
    weight_decay: Amount = 0.1
    """Decoupled; times the learning rate."""
    grad_clip: Amount = 0.0
    """Largest norm of the gradient of all weights together, else scaled down to it; 0 lets it be."""
    freeze_weights: bool = False
    """Learn the puzzle table alone and leave every weight as it is."""
    init_from: str | None = None
    """Model to start from, anything `load` takes: the weights, and the puzzle table where it has as many
    rows; otherwise every row of the table starts at the mean of the old ones."""
    init_hash: str = ""
    """Hash of that model; a run fills it in, and a recipe that names another one is refused."""
    puzzle_emb_lr: Amount = 1e-2
    """Learning rate of the puzzle table (SignSGD)."""
    puzzle_emb_weight_decay: Amount = 0.1
    """Decay of the table rows that a batch touches."""
    loss: Literal["stablemax", "softmax"] = "stablemax"
    """How logits become probabilities."""
    ema: bool = True
    """Evaluate and save averaged weights."""
    ema_rate: Share = 0.999
    """Share of the average that a step keeps."""
    start_noise: Amount = 0.0
    """Standard deviation of Gaussian noise on a slot's start."""
    start_noise_least: Share = 0.0
    """Above 0 every start draws its own standard deviation, log-uniform from this share of `start_noise` to
    all of it: 0.01 spreads it over two decades."""
    start_noise_share: Share = 1.0
    """Chance that a start gets that noise; the others are clean."""
    start_noise_schedule: Literal["constant", "fall", "rise"] = "constant"
    """Whether the noise on the starts falls linearly to zero, or rises from there, and then stays."""
    start_noise_steps: Whole = 0
    """Steps over which it falls or rises."""
    carry_noise: Amount = 0.0
    """Standard deviation of a Gaussian kick to the latent that a slot carries on from segment to segment."""
    carry_noise_prob: Share = 0.1
    """Chance of that kick, per slot and segment."""
    carry_noise_from: Count = 1
    """Segments a slot must have spent on its puzzle before it is kicked; 8 kicks late orbits alone."""
    noise_on: Literal["both", "H", "L"] = "both"
    """Which parts of the latent start_noise and carry_noise move."""
    flossing_weight: Amount = 0.0
    """Weight of the gradient flossing loss, which holds the Lyapunov exponents of a segment near zero."""
    flossing_every: Count = 100
    """Steps from one that adds it to the next."""
    flossing_exponents: Count = 4
    """Leading exponents that it looks at, k; each costs about as much as a segment of those slots."""
    flossing_slots: Count = 16
    """Slots that it looks at, out of the batch."""
    flossing_bound: Number | None = None
    """In nats per segment: push down only exponents above it, and only of slots that are right; None
    pushes all towards zero from both sides."""
    seed: Whole = 0
    """Of the weights, the order of the puzzles, their symmetries, the held-out split, and exploration."""
    log_every: Count = 20
    """Steps between lines of metrics.jsonl; a line averages over them."""
    log_to: list[Literal["wandb", "trackio", "tensorboard"]] = []
    """Trackers that get the same lines, each a package of its own."""
    eval_every: Count = 1000
    """Steps between evaluations on the validation puzzles."""
    eval_segments: Count = 16
    """Segments per puzzle in those evaluations."""
    checkpoint_every: Count = 1000
    """Steps between checkpoints."""
    keep_last: Count = 2
    """Checkpoints kept, newest first."""
    keep_best: Whole = 0
    """Checkpoints kept besides because their validation was best; above 0 saves one at every evaluation."""
    max_minutes: Annotated[Number, Field(gt=0)] | None = None
    """Stop cleanly after this many minutes of this sitting, with a checkpoint; None never."""
    compile: bool = False
    """torch.compile the block; pays from a few minutes of training on."""
    compile_mode: Literal["default", "max-autotune-no-cudagraphs"] = "default"
    """How thoroughly: the second tries several kernels for every product, minutes more, for GPUs."""
    activation_checkpointing: bool = False
    """Save memory: compute the inside of the updates with gradient a second time, in the backward pass."""

    @model_validator(mode="after")
    def _check(self) -> TrainSettings:
        if self.micro_batch and self.batch_size % self.micro_batch:
            raise ValueError(
                f"micro_batch={self.micro_batch} must divide batch_size={self.batch_size}. "
                "Change train.micro_batch"
            )
        if self.steps is not None and self.epochs is not None:
            raise ValueError(
                f"steps={self.steps} and epochs={self.epochs} are both set. "
                "Remove one, for example train.steps=none"
            )
        if (self.start_noise_schedule == "constant") != (self.start_noise_steps == 0):
            raise ValueError(
                f"start_noise_schedule={self.start_noise_schedule} and start_noise_steps="
                f"{self.start_noise_steps} contradict each other. Set train.start_noise_steps to "
                "0 for constant, above 0 otherwise"
            )
        if self.flossing_weight and self.flossing_slots > self.batch_size:
            raise ValueError(
                f"flossing_slots={self.flossing_slots} is more than batch_size={self.batch_size}. "
                "Lower train.flossing_slots"
            )
        if self.freeze_weights and (self.flossing_weight or self.grad_clip):
            raise ValueError(
                "freeze_weights=true leaves nothing to flossing_weight and grad_clip. Set both to 0"
            )
        return self


class GenerateSettings(Settings):
    """Puzzles made on the spot instead of read from a file."""

    count: Count
    """Puzzles, validation included."""
    givens: Count
    """Clues of each puzzle."""
    box_rows: Count = 3
    """Rows of a box; rows times columns is the side of the board."""
    box_cols: Count = 3
    """Columns of a box."""
    seed: Whole = 0
    """Same seed, same puzzles."""


class DataSettings(Settings):
    """Which puzzles a model is trained on."""

    task: str = "sudoku"
    """Registered task of the puzzles."""
    path: str | list[str] | None = None
    """Puzzle file or files."""
    generate: GenerateSettings | None = None
    """Make the puzzles instead of reading `path`."""
    augmentations: bool = True
    """Draw a fresh random symmetry for every puzzle, every time."""
    order: Literal["passes", "official"] = "passes"
    """Of the examples: seeded passes that lose none, or that of the official loader, which drops some."""
    epochs_per_iter: Count = 1
    """Passes that the official order runs into one another; officially the evaluation interval."""
    validation: Whole = 512
    """Training puzzles held out to watch the run and choose `best`; never test puzzles."""
    max_difficulty: Whole | None = None
    """Train on puzzles with at most this rating only; None takes all."""
    reveal: Share = 0.0
    """Share of rows that get extra givens, a uniform random share of their blanks: a curriculum."""
    reveal_steps: Whole = 0
    """Steps over which that share falls linearly to zero; 0 keeps it."""

    @model_validator(mode="after")
    def _check(self) -> DataSettings:
        if self.path and self.generate:
            raise ValueError("path and generate are both set. Remove one, for example data.generate=none")
        if self.generate and self.task != "sudoku":
            raise ValueError(
                f"generate makes Sudoku puzzles, but task={self.task}. "
                "Set data.generate=none and data.path=FILE"
            )
        return self


class Recipe(Settings):
    """Everything a training run needs; saved resolved as `config.yaml` in the run folder."""

    name: str = ""
    """Name of the recipe, for the model card."""
    model: ModelSettings = ModelSettings()
    train: TrainSettings = TrainSettings()
    data: DataSettings = DataSettings()

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        if self.train.freeze_weights and not self.model.puzzle_emb_ndim:
            raise ValueError(
                "train.freeze_weights=true, but model.puzzle_emb_ndim=0: nothing is left to learn. "
                "Set train.freeze_weights=false"
            )
        if self.train.keep_best and not self.data.validation:
            raise ValueError(
                f"train.keep_best={self.train.keep_best}, but data.validation=0: nothing tells "
                "which is best. Set data.validation above 0"
            )
        if self.train.start_noise and self.model.random_init:
            raise ValueError(
                f"train.start_noise={self.train.start_noise:g} and model.random_init=true: every start is "
                "noise already. Set train.start_noise=0"
            )
        return self
