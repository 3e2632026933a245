"""loopscope models: what there is, what it is, other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from loopscope.cli import app, options
from loopscope.errors import UserError

models = typer.Typer(help="List, describe and convert models.", rich_markup_mode="rich")
app.add_typer(models, name="models")
SHORT = 16  # characters of a hash that are shown


@models.command("list")
def list_models() -> None:
    """The models that come with the package.

    \b
    loopscope models list
    """
    from loopscope.models.load import describe, list_shipped

    shown = {name: describe(options.load_model(name)) for name in list_shipped()}
    keys = ["arch", "parameters", "cells", "schedule", "budget"]
    rows = [[name, *(options.number(facts[key]) for key in keys)] for name, facts in shown.items()]
    if rows:
        options.table("", ["name", *keys], rows)
    else:
        options.say("no models come with this copy of the package")


@models.command()
def info(model: options.Model, known: options.Known = None) -> None:
    """Size, schedule, cost and origin of a model.

    \b
    loopscope models info sudoku9-cpu
    loopscope models info step_65100 --set L_cycles=6 --set num_heads=8
    """
    from loopscope.models.load import describe

    facts = describe(options.load_model(model, known))
    rows = [
        [key.replace("_", " "), in_words(key, value)] for key, value in facts.items() if value is not None
    ]
    options.table(model, ["", ""], rows, left=2)


@models.command()
def convert(
    model: options.Model,
    out: Annotated[Path, typer.Argument(help="Folder to write; must not exist.")],
    to: Annotated[
        str, typer.Option(help="Format: loopscope (safetensors + config.json) or official.")
    ] = "loopscope",
    known: options.Known = None,
) -> None:
    """Rewrite a model in our format or in the official one.

    \b
    loopscope models convert checkpoints/step_65100 my-model
    loopscope models convert runs/sudoku9 official-folder --to official
    """
    from loopscope.models.folder import save_model
    from loopscope.models.official import save_official

    if to not in ("loopscope", "official"):
        raise UserError(f"--to {to}: unknown format. Choose loopscope or official.")
    options.fresh(out, "folder")
    network = options.load_model(model, known)
    if to == "official":
        save_official(network, out)
    else:
        save_model(network, out)
    options.say(f"written to {out}")


def in_words(key: str, value: Any) -> str:
    """A fact of a model for a table."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {options.number(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " x ".join(map(options.number, value))
    return value[:SHORT] if key.endswith("hash") else options.number(value)
