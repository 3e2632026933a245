"""Whole runs: from a recipe to trained weights, or to what the run would cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from loopscope.config import Recipe, TrainSettings, load_recipe
from loopscope.errors import UserError
from loopscope.models import RecursiveModel, build_model
from loopscope.tasks import PuzzleSet
from loopscope.training import distributed
from loopscope.training.finetune import load_source
from loopscope.training.loop import OnEval, Trainer, num_steps
from loopscope.training.memory import activation_bytes, state_bytes
from loopscope.training.order import groups_of
from loopscope.training.setup import make_trainer, pick_device, resolve, split, training_puzzles

# Makes the function that scores a model from the held-out puzzles and the settings of the run.
EvalFactory = Callable[[PuzzleSet, TrainSettings], OnEval]


def train(
    recipe: str | Path | Recipe | None,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    puzzles: PuzzleSet | None = None,
    resume: bool = False,
    on_eval: EvalFactory | None = None,
    progress: bool = True,
    device: str = "auto",
) -> Path:
    """Train a model; under torchrun with all its processes together, each with its share of every batch.

    Args:
        recipe: a shipped recipe, a yaml file or ready settings. With `resume` it may be None: the
            settings the run began with.
        out: run folder: a new one, or with `resume` the one to go on with.
        overrides: `key.path=value` changes to the recipe.
        puzzles: train on these, of any task, instead of those the recipe names.
        resume: go on from the newest checkpoint of `out`.
        on_eval: gets the held-out puzzles and the train settings, returns the function that scores a
            model; its `exact_accuracy` chooses `best/`. None evaluates nothing.
        progress: show a progress bar.
        device: "auto", "cpu" or "cuda".
    Returns:
        The folder with the weights: `best/` where validation chose one, else `last/`.
    Raises:
        UserError: a bad setting, unreadable puzzles, `out` already holds a run, or nothing to resume.
    """
    out = Path(out)
    with distributed.processes():
        with distributed.agreeing():
            trainer = _trainer(recipe, out, overrides, puzzles, resume, on_eval, device)
        trainer.run(progress)
    return out / ("best" if (out / "best").is_dir() else "last")


def _trainer(
    recipe: str | Path | Recipe | None,
    out: Path,
    overrides: Sequence[str],
    puzzles: PuzzleSet | None,
    resume: bool,
    on_eval: EvalFactory | None,
    device: str,
) -> Trainer:
    target = pick_device(device)
    settings = _settings(recipe, out, overrides, resume)
    puzzles = training_puzzles(settings.data) if puzzles is None else puzzles
    learn, held_out = split(settings, puzzles)
    settings = resolve(settings, puzzles)
    settings, source = (settings, None) if resume else load_source(settings)
    score = on_eval(held_out, settings.train) if on_eval is not None and len(held_out) else None
    trainer = make_trainer(settings, learn, out, score, target, source)
    if resume:
        trainer.resume()
    return trainer


def _settings(
    recipe: str | Path | Recipe | None, out: Path, overrides: Sequence[str], resume: bool
) -> Recipe:
    config = out / "config.yaml"
    if resume and not config.is_file():
        raise UserError(f"{out}: not a run folder (no config.yaml). Name the folder that --out made.")
    if not resume and (config.exists() or (out / "checkpoints").exists()):
        raise UserError(f"{out}: already holds a run. Go on with --resume {out}, or choose another --out.")
    if recipe is None:
        if not resume:
            raise UserError("no recipe given. Name one, for example sudoku6-cpu.")
        recipe = config
    if isinstance(recipe, Recipe):
        assert not overrides, "overrides change a recipe file; ready settings are changed before the call"
        return recipe
    return load_recipe(recipe, overrides)


def plan(recipe: Recipe, puzzles: PuzzleSet | None = None) -> dict[str, Any]:
    """What a run would be: its resolved settings, size and cost. Trains nothing, writes nothing.

    Args:
        recipe: the settings.
        puzzles: the puzzles it names, where they are at hand; None reads or makes them.
    Returns:
        `settings` (nested plain values) and numbers: parameters, training and validation puzzles,
        slots (puzzles in flight), applications per segment, steps, FLOPs of a step and of the run
        (matrix products, 2 per multiply-add; backward counted twice forward), and bytes of what stays
        in memory from step to step: weights, gradients, moments, averages, puzzle table, slots. On top
        come the activations of a micro batch, uncompiled; compiled blocks keep less.
    """
    puzzles = training_puzzles(recipe.data) if puzzles is None else puzzles
    learn, held_out = split(recipe, puzzles)
    recipe = resolve(recipe, puzzles)
    with torch.device("meta"):  # shapes without memory
        model = build_model(recipe.model)
    t = recipe.train
    steps, slots = num_steps(recipe, learn.examples_per_pass), t.batch_size
    share = slots // distributed.num_processes()
    rows = min(t.micro_batch or share, share)
    return {
        "settings": recipe.model_dump(),
        "parameters": model.num_parameters,
        "training puzzles": len(groups_of(learn)),
        "validation puzzles": len(held_out),
        "slots": slots,
        "applications per segment": model.applications_per_segment,
        "steps": steps,
        "FLOPs per step": (flops := slots * training_flops(model)),
        "FLOPs": steps * flops,
        "state bytes": state_bytes(model, t),
        "activation bytes": activation_bytes(recipe.model, rows, t.activation_checkpointing),
    }


def training_flops(model: RecursiveModel) -> float:
    """FLOPs of one training segment on one puzzle: all updates forward, the tail backward at twice that."""
    applications = len(model.schedule) + 2 * model.grad_tail
    if model.trains_continue:  # the target comes from a second segment
        applications += len(model.schedule)
    return applications * model.application_flops
