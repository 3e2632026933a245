"""loopscope models: what there is, what it is, other formats."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loopscope.cli import app, options

models = typer.Typer(help="List, describe and convert models.", no_args_is_help=True, rich_markup_mode="rich")
app.add_typer(models, name="models")


@models.command("list")
def list_models() -> None:
    """The models that come with the package.

    \b
    loopscope models list
    """
    from loopscope.models.load import list_shipped

    for name, summary in list_shipped():
        options.console.print(f"[bold]{name}[/bold]  {summary}")


@models.command()
def info(model: options.Model, known: options.Known = None) -> None:
    """Size, schedule, cost and origin of a model.

    \b
    loopscope models info sudoku9-cpu
    loopscope models info checkpoints/step_65100 --set L_cycles=6 --set H_cycles=3 --set num_heads=8
    """
    from loopscope.models.load import describe

    rows = [[key, str(value)] for key, value in describe(options.load_model(model, known)).items()]
    options.table(model, ["", ""], rows)


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
    from loopscope.errors import UserError
    from loopscope.models.folder import save_model
    from loopscope.models.official import save_official

    if to not in ("loopscope", "official"):
        raise UserError(f"--to {to}: unknown format. Choose loopscope or official.")
    network = options.load_model(model, known)
    options.fresh(out, "folder")
    if to == "official":
        save_official(network, out)
    else:
        save_model(network, out, network.facts)
    options.console.print(f"written to {out}")
