"""Recipe files and `key.path=value` overrides."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from loopscope.config.mistakes import validated
from loopscope.config.settings import Recipe
from loopscope.errors import UserError
from loopscope.registry import did_you_mean

DECIDED = (  # by the puzzles, the model to start from, or the machine
    *("model.seq_len", "model.vocab_size", "model.num_puzzle_identifiers"),
    *("train.init_hash", "train.log_to", "train.max_minutes", "data.path"),
)


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    folder = resources.files("loopscope") / "recipes"
    return sorted(f.name.removesuffix(".yaml") for f in folder.iterdir() if f.name.endswith(".yaml"))


def load_recipe(name: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """A recipe by name or yaml file, with dotted overrides applied.

    Args:
        name: a shipped recipe (`sudoku6-cpu`) or the path of a yaml file.
        overrides: `key.path=value` strings, the value read as yaml: `train.lr=3e-4`.
    Raises:
        UserError: no such recipe, not yaml, or a bad key or value.
    """
    name = str(name)
    values = _read_recipe(name)
    for override in overrides:
        _apply_override(values, override)
    values.setdefault("name", Path(name).stem)
    return validated(Recipe, values, "" if overrides else name)


def overrides_of(recipe: Mapping[str, Any]) -> list[str]:
    """The overrides that turn the shipped recipe of that name into this one, as they are typed.

    What the puzzles decide is left out, and so is their place.

    Args:
        recipe: the values of a `Recipe` whose name is one of `recipe_names()`; sections may be missing.
    """
    shipped = load_recipe(recipe["name"]).model_dump()
    return [
        f"{section}.{key}={_typed(value)}"
        for section in ("model", "train", "data")
        for key, value in recipe.get(section, {}).items()
        if f"{section}.{key}" not in DECIDED and value != shipped[section].get(key)
    ]


def _typed(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _read_recipe(name: str) -> dict[str, Any]:
    if name in recipe_names():
        text = (resources.files("loopscope") / "recipes" / f"{name}.yaml").read_text(encoding="utf-8")
    elif Path(name).is_file():
        text = Path(name).read_text(encoding="utf-8", errors="replace")
    else:
        raise UserError(f"{name}: no such recipe or file. {did_you_mean(name, recipe_names())}")
    values = _read_yaml(text, name)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise UserError(f"{name}: expected a mapping with the keys {', '.join(Recipe.model_fields)}.")
    return values


def _apply_override(values: dict[str, Any], override: str) -> None:
    path, equals, text = override.partition("=")
    if not equals or not path:
        raise UserError(f"{override}: not a setting. Write key.path=value, for example train.lr=3e-4.")
    *parents, last = path.split(".")
    for depth, parent in enumerate(parents, start=1):
        if values.get(parent) is None:
            values[parent] = {}
        values = values[parent]
        if not isinstance(values, dict):
            raise UserError(f"{path}: {'.'.join(parents[:depth])} is a single value and has no keys.")
    values[last] = _read_yaml(text, override)


class _Loader(yaml.SafeLoader):
    """Safe yaml that reads `3e-4` as a number, as yaml 1.2 does; plain PyYAML sees a word."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def _read_yaml(text: str, source: str) -> Any:
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = " ".join(str(problem or error).split())
        raise UserError(
            f"{source}: not valid yaml{place}: {what}. Mend it or put quotes around it."
        ) from None


def parse_value(text: str) -> Any:
    """A yaml scalar or list: `3e-4`, `true`, `[a, b]`, `null`, a word.

    Raises:
        UserError: not valid yaml, such as a bracket that is never closed.
    """
    return _read_yaml(text, text)
