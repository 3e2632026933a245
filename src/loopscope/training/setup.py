"""From a recipe to a trainer: puzzles, held-out split, model, stream."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from loopscope.config import DataSettings, ModelSettings, Recipe
from loopscope.errors import UserError
from loopscope.models import build_model
from loopscope.tasks import PuzzleSet, Sudoku, read_puzzles
from loopscope.tasks.base import join
from loopscope.training.loop import OnEval, Trainer
from loopscope.training.stream import TrainingStream, split_validation


def training_puzzles(data: DataSettings) -> PuzzleSet:
    """The puzzles a recipe names: generated, or read from one file or several.

    Raises:
        UserError: neither `data.path` nor `data.generate` is set, or a file is wrong.
    """
    if data.generate is not None:
        from loopscope.tasks.sudoku_generate import generate

        g = data.generate
        return generate(Sudoku(g.box_rows, g.box_cols), g.count, g.givens, np.random.default_rng(g.seed))
    paths = [data.path] if isinstance(data.path, str) else data.path
    if not paths:
        raise UserError(
            "data.path is not set. Name the training puzzles: data.path=FILE.csv.gz or data.path=[A,B]."
        )
    return join([read_puzzles(p, task=data.task) for p in paths])


def split(recipe: Recipe, puzzles: PuzzleSet) -> tuple[PuzzleSet, PuzzleSet]:
    """Training and validation puzzles.

    Raises:
        UserError: fewer puzzles than the validation split needs.
    """
    if len(puzzles) <= recipe.data.validation:
        raise UserError(
            f"data.validation={recipe.data.validation} leaves nothing of {len(puzzles)} puzzles to train on. Lower it."
        )
    return split_validation(puzzles, recipe.data.validation, recipe.train.seed)


def resolve(recipe: Recipe, puzzles: PuzzleSet) -> Recipe:
    """Fill in what the data decides: sequence length, vocabulary, size of the puzzle table."""
    ids = int(puzzles.puzzle_ids.max()) + 1 if len(puzzles) else 1
    sizes = {
        "seq_len": puzzles.task.seq_len,
        "vocab_size": puzzles.task.vocab_size,
        "num_puzzle_identifiers": ids,
    }
    model = ModelSettings(**{**recipe.model.model_dump(), **sizes})
    return recipe.model_copy(update={"model": model})


def make_trainer(
    recipe: Recipe, train: PuzzleSet, folder: str | Path, on_eval: OnEval | None, device: str = "cpu"
) -> Trainer:
    """A trainer with fresh weights for a resolved recipe."""
    t = recipe.train
    model = build_model(recipe.model, seed=t.seed).to(device)
    d = recipe.data
    stream = TrainingStream(
        train,
        t.batch_size,
        seed=t.seed,
        augment=d.augmentations,
        reveal=d.reveal,
        reveal_steps=d.reveal_steps,
    )
    return Trainer(recipe, model, stream, folder, on_eval)
