"""loopscope models: what there is, what it is, other formats, the Hub."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from loopscope.cli import app, options
from loopscope.errors import UserError

models = typer.Typer(help="List, describe, convert and publish models.", rich_markup_mode="rich")
app.add_typer(models, name="models")
SHORT = 16  # characters of a hash that are shown


@models.command("list")
def list_models() -> None:
    """The models that come with the package.

    \b
    loopscope models list
    loopscope models info sudoku9-equivariant
    loopscope eval sudoku9-equivariant --data sudoku9-hard
    """
    from loopscope.models.card import describe
    from loopscope.models.load import list_shipped

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
    loopscope models info sudoku9-equivariant
    loopscope models info runs/sudoku6
    loopscope models info step_65100 --set L_cycles=6 --set num_heads=8
    """
    from loopscope.models.card import describe

    facts = describe(options.load_model(model, known))
    rows = [
        [key.replace("_", " "), in_words(key, value)] for key, value in facts.items() if value is not None
    ]
    options.table(model, ["", ""], rows, left=2)


@models.command()
def convert(
    model: options.Model,
    out: Annotated[
        Path, typer.Argument(help="Folder to write; must not exist.", callback=options.folder_to_write)
    ],
    to: Annotated[
        str, typer.Option(help="Format: loopscope (safetensors + config.json) or official.")
    ] = "loopscope",
    prefix: Annotated[
        str | None,
        typer.Option(
            help="Official format: what stands before each name. Default: as in the checkpoint the model "
            "came from, else _orig_mod.model.inner."
        ),
    ] = None,
    known: options.Known = None,
) -> None:
    """Rewrite a model in our format or in the official one.

    \b
    loopscope models convert checkpoints/step_65100 my-model
    loopscope models convert runs/sudoku9 official-folder --to official
    loopscope models convert RUN uncompiled --to official --prefix model.inner.
    """
    from loopscope.models.card import without_local_paths
    from loopscope.models.folder import save_model
    from loopscope.models.official import save_official

    if to not in ("loopscope", "official"):
        raise UserError(f"--to {to}: unknown format. Choose loopscope or official.")
    if prefix is not None and to != "official":
        raise UserError("--prefix: only the official format has one. Add --to official.")
    options.fresh(out, "folder")
    network = options.load_model(model, known)
    if to == "official":
        save_official(network, out, prefix)
    else:
        save_model(network, out, without_local_paths(network.facts))
    options.say(f"written to {out}")


@models.command()
def export(
    model: options.Model,
    out: Annotated[
        Path, typer.Argument(help="Folder to write; must not exist.", callback=options.folder_to_write)
    ],
    known: options.Known = None,
) -> None:
    """Write safetensors, config.json and a model card, ready to be published.

    The card tells settings, training and limits, and the scores that
    `loopscope eval --json` left in the run folder.

    \b
    loopscope eval runs/sudoku9 --data sudoku9-demo --json runs/sudoku9/demo.json
    loopscope models export runs/sudoku9 my-model
    loopscope models export sudoku9-equivariant a-copy
    """
    options.fresh(out, "folder")
    write_export(model, out, known)
    options.say(f"written to {out}; look at README.md before you publish it")


@models.command()
def push(
    model: options.Model,
    repo: Annotated[str, typer.Argument(help="owner/name on the Hugging Face Hub; made when missing.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    known: options.Known = None,
) -> None:
    """Export a model and upload it to the Hugging Face Hub.

    Needs the package huggingface_hub and a login (hf auth login).

    \b
    loopscope models push runs/sudoku9 me/sudoku9
    loopscope models push runs/sudoku9 me/sudoku9 --private
    loopscope models info me/sudoku9
    """
    from tempfile import TemporaryDirectory

    from loopscope.models import hub

    with TemporaryDirectory() as folder:
        write_export(model, Path(folder) / "model", known)
        options.say(f"uploaded to {hub.push(Path(folder) / 'model', repo, private=private)}")


def write_export(model: str, out: Path, known: list[str] | None) -> None:
    """The folder that is published."""
    from loopscope.models.card import found_scores, without_local_paths
    from loopscope.models.folder import save_model
    from loopscope.models.load import locate

    network = options.load_model(model, known)
    save_model(network, out, without_local_paths(network.facts), found_scores(locate(model)))


def in_words(key: str, value: Any) -> str:
    """A fact of a model for a table."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {options.number(part)}" for name, part in value.items())
    if isinstance(value, list):
        return " x ".join(map(options.number, value))
    return value[:SHORT] if key.endswith("hash") else options.number(value)
