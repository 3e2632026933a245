"""Typed settings: recipe file < `key.path=value`, one validator for file, command line and checkpoint."""

from loopscope.config.mistakes import validated
from loopscope.config.recipes import load_recipe, overrides_of, parse_value, recipe_names
from loopscope.config.settings import (
    DataSettings,
    GenerateSettings,
    ModelSettings,
    Recipe,
    Settings,
    TrainSettings,
)

__all__ = [
    "DataSettings",
    "GenerateSettings",
    "ModelSettings",
    "Recipe",
    "Settings",
    "TrainSettings",
    "load_recipe",
    "overrides_of",
    "parse_value",
    "recipe_names",
    "validated",
]
