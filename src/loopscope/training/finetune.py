"""Starting from a trained model, with a puzzle table of another length where the puzzles have changed."""

from __future__ import annotations

import torch
from torch import Tensor

from loopscope.config import Recipe
from loopscope.errors import UserError
from loopscope.models import RecursiveModel
from loopscope.models.load import load

TABLE = "puzzle_emb.weights"


def load_source(recipe: Recipe) -> tuple[Recipe, RecursiveModel | None]:
    """The model that a recipe starts from, and the recipe with its hash; None where it names none.

    Raises:
        UserError: no such model, or another than the recipe's `train.init_hash`.
    """
    t = recipe.train
    if t.init_from is None:
        return recipe, None
    source = load(t.init_from)
    found = source.content_hash
    if t.init_hash not in ("", found):
        raise UserError(
            f"train.init_from={t.init_from}: its hash is {found[:12]}, in the recipe {t.init_hash[:12]}. "
            "Name the model this recipe was made with, or clear train.init_hash."
        )
    return recipe.model_copy(update={"train": t.model_copy(update={"init_hash": found})}), source


@torch.no_grad()
def start_from(model: RecursiveModel, source: RecursiveModel) -> None:
    """Copy weights, start states and puzzle table of `source` into `model`.

    A table with another number of rows than the model's is replaced by the mean of its rows, in every
    row of the model's: the identifiers are taken to mean other puzzles (as officially).

    Raises:
        UserError: a tensor that only one of the two has, or of another shape.
    """
    own, theirs = model.state_dict(), source.state_dict()
    if odd := sorted(set(own) ^ set(theirs)):
        which = "has no" if odd[0] in own else "has the"
        raise UserError(
            f"train.init_from={_name(source)}: {which} tensor {odd[0]}, unlike the model of the recipe. "
            "Give the recipe the model section of that model."
        )
    for name, value in own.items():
        value.copy_(_fitted(name, theirs[name], value, source))


def _fitted(name: str, old: Tensor, new: Tensor, source: RecursiveModel) -> Tensor:
    if name == TABLE and len(old) != len(new) and old.shape[1:] == new.shape[1:]:
        return old.mean(0).expand_as(new)
    if old.shape != new.shape:
        raise UserError(
            f"train.init_from={_name(source)}: {name} is {tuple(old.shape)}, the recipe says "
            f"{tuple(new.shape)}. Give the recipe the model section of that model, and puzzles of its size."
        )
    return old


def _name(source: RecursiveModel) -> str:
    return str(source.facts.get("source") or source.facts.get("name") or source.settings.arch)
