"""From a recipe to a trainer: puzzles, held-out split, model, stream."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
import sys
import sysconfig
from pathlib import Path

import numpy as np
import torch

from loopscope.config import DataSettings, ModelSettings, Recipe, validated
from loopscope.errors import UserError
from loopscope.models import RecursiveModel, build_model
from loopscope.tasks import PuzzleSet, Sudoku, read_puzzles
from loopscope.tasks.base import join
from loopscope.training import distributed
from loopscope.training.finetune import start_from
from loopscope.training.loop import OnEval, Trainer
from loopscope.training.loss import segment_loss
from loopscope.training.order import OfficialOrder, groups_of
from loopscope.training.stream import TrainingStream, split_validation

log = logging.getLogger("loopscope")


def training_puzzles(data: DataSettings) -> PuzzleSet:
    """The puzzles a recipe names: generated, or read from one file or several.

    Raises:
        UserError: neither `data.path` nor `data.generate` is set, or a file is wrong.
    """
    if data.generate is not None:
        from loopscope.tasks.sudoku.generate import generate  # loads numba

        g = data.generate
        return generate(Sudoku(g.box_rows, g.box_cols), g.count, g.givens, np.random.default_rng(g.seed))
    paths = [data.path] if isinstance(data.path, str) else data.path
    if not paths:
        raise UserError(
            "data.path is not set. Name the training puzzles: data.path=FILE.csv.gz or data.path=[A,B]."
        )
    puzzles = join([read_puzzles(p, task=data.task, split="train") for p in paths])
    return puzzles if data.max_difficulty is None else _easy_enough(puzzles, data.max_difficulty)


def _easy_enough(puzzles: PuzzleSet, most: int) -> PuzzleSet:
    if "rating" not in puzzles.facts:
        raise UserError(f"{puzzles.name}: no ratings to select by. Leave out data.max_difficulty.")
    groups = groups_of(puzzles)
    first_rows = groups.first[groups.starts[:-1]]  # versions of a puzzle have its rating
    kept = np.flatnonzero(puzzles.facts["rating"][first_rows] <= most)
    if not len(kept):
        raise UserError(f"data.max_difficulty={most}: no puzzle of {puzzles.name} is that easy. Raise it.")
    return puzzles.only_groups(kept)


def split(recipe: Recipe, puzzles: PuzzleSet) -> tuple[PuzzleSet, PuzzleSet]:
    """Training and validation puzzles, which share no puzzle.

    Raises:
        UserError: puzzles without answers, or fewer than the validation split needs.
    """
    if puzzles.labels is None:
        raise UserError(f"{puzzles.name}: no answers to learn from. Add a column `answer`.")
    train, held_out = split_validation(puzzles, recipe.data.validation, recipe.train.seed)
    if not len(groups_of(train)):
        raise UserError(
            f"data.validation={recipe.data.validation} leaves nothing of {len(groups_of(puzzles))} puzzles "
            "to train on. Lower it or add puzzles."
        )
    return train, held_out


def resolve(recipe: Recipe, puzzles: PuzzleSet) -> Recipe:
    """Fill in what the data decides: sequence length, vocabulary, size of the puzzle table.

    Raises:
        UserError: the recipe names another size than the puzzles have, or extra givens that they cannot get.
    """
    task = puzzles.task
    sizes = {"seq_len": task.seq_len, "vocab_size": task.vocab_size}
    for key, size in sizes.items():
        if (named := getattr(recipe.model, key)) not in (0, size):
            raise UserError(f"model.{key}={named}, but {puzzles.name} has {size}. Set model.{key}=0.")
    if recipe.data.reveal and not isinstance(task, Sudoku):
        raise UserError(
            f"data.reveal={recipe.data.reveal:g}: extra givens are for Sudoku, not for {task.name}. "
            "Set data.reveal=0."
        )
    ids = int(groups_of(puzzles).ids.max(initial=0)) + 1
    sizes["num_puzzle_identifiers"] = max(ids, recipe.model.num_puzzle_identifiers)
    model = validated(ModelSettings, {**recipe.model.model_dump(), **sizes})
    return recipe.model_copy(update={"model": model})


def make_trainer(
    recipe: Recipe,
    train: PuzzleSet,
    folder: str | Path,
    on_eval: OnEval | None = None,
    device: torch.device | str = "cpu",
    source: RecursiveModel | None = None,
) -> Trainer:
    """A trainer with fresh weights, or with those of a trained model.

    Args:
        recipe: resolved settings.
        train: training puzzles, the held-out ones already taken away.
        folder: the run folder.
        on_eval: as in `Trainer`.
        device: where to compute.
        source: the model to start from.
    Raises:
        UserError: the batch cannot be shared out equally among the processes, or the model has the rules of
            other puzzles built in.
    """
    t, d = recipe.train, recipe.data
    if t.batch_size % (n := distributed.num_processes()):
        raise UserError(
            f"train.batch_size={t.batch_size} is not a multiple of {n} processes. "
            f"Set train.batch_size={-(-t.batch_size // n) * n}."
        )
    model = build_model(recipe.model, seed=t.seed).to(device)
    model.check_task(train.task)
    if source is not None:
        start_from(model, source)
    missing = missing_for_compile(torch.device(device)) if t.compile else ""
    if missing:
        log.warning("train.compile=true needs %s, which is not here: training uncompiled, slower", missing)
    order = None
    if d.order == "official":
        order = OfficialOrder(groups_of(train), t.batch_size, t.seed, d.epochs_per_iter)
    stream = TrainingStream(
        train,
        t.batch_size,
        seed=t.seed,
        order=order,
        augment=d.augmentations,
        reveal=d.reveal,
        reveal_steps=d.reveal_steps,
        share=(distributed.rank(), distributed.num_processes()),
    )
    trainer = Trainer(recipe, model, stream, folder, on_eval)
    if t.compile and not missing:
        model.compile_blocks(t.compile_mode)
        trainer.segment_loss = torch.compile(segment_loss, dynamic=False)
    return trainer


def missing_for_compile(device: torch.device) -> str:
    """What torch.compile would look for on this machine and not find; empty when nothing is missing."""
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python's headers (Python.h; Debian: python3-dev)"
    if device.type == "cuda":
        if not importlib.util.find_spec("triton"):
            return "the package triton"
        named = os.environ.get("CC")  # as triton chooses it
        found = any(shutil.which(name) for name in ([named] if named else ["gcc", "clang", "cl"]))
        return "" if found else f"a C compiler ({named or 'gcc or clang'})"
    usual = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX", usual)  # as torch._inductor chooses it
    return "" if shutil.which(compiler) else f"a C++ compiler ({compiler})"


def pick_device(name: str) -> torch.device:
    """The device to train on; "auto" is the GPU where there is one.

    Raises:
        UserError: no such device on this machine, or one that cannot train.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    kind = name.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise UserError(f"device={name}: expected auto, cpu or cuda; the loss needs float64. Use device=cpu.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={name}: torch sees no GPU here. Use device=cpu or install a CUDA build.")
    if name == "cuda" and distributed.num_processes() > 1:
        return _own_gpu()
    return torch.device(name)


def _own_gpu() -> torch.device:
    """Of several processes on a machine each takes the GPU of its number there."""
    number, there = int(os.environ.get("LOCAL_RANK", 0)), torch.cuda.device_count()
    if number >= there:
        raise UserError(
            f"process {number + 1} of this machine finds only {there} GPUs. Start torchrun with "
            f"--nproc-per-node {there}, or train with device=cpu."
        )
    torch.cuda.set_device(number)  # where NCCL looks
    return torch.device("cuda", number)
