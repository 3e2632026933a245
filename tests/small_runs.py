"""Runs of tiny models in a second, for the tests of training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loopscope.config import Recipe, validated
from loopscope.tasks.base import PuzzleSet
from loopscope.tasks.sudoku import Sudoku
from loopscope.tasks.sudoku.generate import generate
from loopscope.training import checkpoint
from loopscope.training.loop import Trainer
from loopscope.training.setup import make_trainer, resolve, split

MODEL = {
    "hidden_size": 16,
    "num_heads": 2,
    "H_cycles": 1,
    "L_cycles": 2,
    "L_layers": 1,
    "mlp_t": True,
    "pos_encodings": "none",
    "halt_max_steps": 3,
    "forward_dtype": "float32",
}
TRAIN = {
    "steps": 10,
    "batch_size": 8,
    "lr": 1e-2,
    "lr_warmup_steps": 2,
    "lr_min_ratio": 0.1,
    "ema_rate": 0.9,
    "log_every": 3,
    "checkpoint_every": 100,
}
GENERATED = {"count": 60, "givens": 7, "box_rows": 2, "box_cols": 2}

VARIANTS: dict[str, dict[str, Any]] = {
    "float32": {},
    "bfloat16": {"model": {"forward_dtype": "bfloat16"}},
    "micro_batch": {"train": {"micro_batch": 4}},
    "random_init": {"model": {"random_init": True}},
    "puzzle_emb": {"model": {"puzzle_emb_ndim": 12}, "train": {"micro_batch": 2, "puzzle_emb_lr": 1e-2}},
    "exploration": {"model": {"halt_exploration_prob": 0.5}},
    "no_ema": {"train": {"ema": False}},
    "muon": {"train": {"optimizer": "muon", "muon_lr": 1e-2}},
    "adamw": {"train": {"optimizer": "adamw", "grad_clip": 0.5}},
    "frozen": {"model": {"puzzle_emb_ndim": 12}, "train": {"freeze_weights": True}},
    "noisy": {
        "model": {"update_noise": 0.02, "damping": 0.9},
        "train": {
            "start_noise": 0.1,
            "start_noise_share": 0.7,
            "start_noise_schedule": "fall",
            "start_noise_steps": 8,
            "carry_noise": 0.1,
            "carry_noise_prob": 0.5,
            "activation_checkpointing": True,
        },
    },
    "flossing": {
        "train": {"flossing_weight": 0.1, "flossing_every": 2, "flossing_exponents": 2, "flossing_slots": 4}
    },
    "reveal": {"data": {"reveal": 0.5, "reveal_steps": 8}},
    "singlez": {"model": {"arch": "trm-singlez"}},
    "everything": {
        "model": {
            "arch": "hrm",
            "H_layers": 1,
            "forward_dtype": "bfloat16",
            "random_init": True,
            "no_ACT_continue": False,
            "puzzle_emb_ndim": 20,
            "halt_exploration_prob": 0.3,
        },
        "train": {"micro_batch": 2, "loss": "softmax"},
        "data": {"reveal": 0.5, "reveal_steps": 8},
    },
}


def recipe(variant: str = "float32", **changes: Mapping[str, Any]) -> Recipe:
    more = VARIANTS[variant]
    values = {
        "name": "tiny",
        "model": {**MODEL, **more.get("model", {}), **changes.get("model", {})},
        "train": {**TRAIN, **more.get("train", {}), **changes.get("train", {})},
        "data": {"generate": GENERATED, "validation": 12, **more.get("data", {}), **changes.get("data", {})},
    }
    return validated(Recipe, values)


def small_puzzles() -> PuzzleSet:
    """60 puzzles on 4x4 boards, with seven identifiers among them."""
    made = generate(Sudoku(2, 2), 60, 7, np.random.default_rng(0))
    return PuzzleSet(
        made.task, made.inputs, made.labels, np.arange(60, dtype=np.int32) % 7, made.facts, "tiny"
    )


def trainer(settings: Recipe, puzzles: PuzzleSet, folder: Path, on_eval: Any = None) -> Trainer:
    """A trainer whose fresh model sometimes halts by itself."""
    learn, _ = split(settings, puzzles)
    made = make_trainer(resolve(settings, puzzles), learn, folder, on_eval)
    with torch.no_grad():
        made.model.q_head.bias.copy_(torch.tensor([0.3, 0.2]))
        made.model.q_head.weight.normal_(generator=torch.Generator().manual_seed(5))
        if made.ema is not None:
            made.ema.shadow = {k: p.detach().clone() for k, p in made.model.named_parameters()}
    return made


def at_step(made: Trainer, step: int, act: Callable[[], object]) -> None:
    """Do something while step `step` (0-based) is under way."""
    draw = made.batches.batch

    def batch(number: int) -> Any:
        if number == step:
            act()
        return draw(number)

    made.batches.batch = batch  # type: ignore[method-assign]


def score(model: Any) -> dict[str, float]:
    """A validation score that depends on the weights and rises and falls."""
    return {"exact_accuracy": 0.5 + 0.5 * math.sin(1e3 * float(model.lm_head.weight.sum())), "n": 1.0}


def contents(folder: Path) -> dict[str, Any]:
    """Every tensor file of a run as bytes, and its metrics without times."""
    files = {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*.safetensors"))}
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    state = json.loads((checkpoint.latest(folder / "checkpoints") / "state.json").read_text())  # type: ignore[operator]
    for values in (*lines, state):
        del values["minutes"]
    return {**files, "lines": lines, "state": state}


def assert_same(a: Path, b: Path) -> None:
    first, second = contents(a), contents(b)
    assert sorted(first) == sorted(second)
    for name in first:
        assert first[name] == second[name], name
