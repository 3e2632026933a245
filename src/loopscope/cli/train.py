"""loopscope train: a recipe plus overrides."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from loopscope.cli import app, options
from loopscope.errors import UserError


@app.command()
def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A shipped recipe or a yaml file; not with --resume.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value ...")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder to make.")] = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to go on with.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show settings, size and cost; train nothing.")
    ] = False,
) -> None:
    """Train a model. Ctrl-C leaves a checkpoint; --resume goes on exactly where it stopped.

    \b
    loopscope train sudoku6-cpu --out runs/sudoku6
    loopscope train sudoku9-cpu data.path=\\[a.csv,b.csv] train.lr=1e-3 --out runs/b
    loopscope train sudoku9-cpu train.steps=4000 --dry-run
    loopscope train --resume runs/sudoku9
    """
    words = [word for word in (recipe, *(overrides or [])) if word]
    if resume is not None and (dry_run or out is not None):
        raise UserError(f"--resume {resume}: goes with neither --out nor --dry-run. Leave those out.")
    if resume is None and not words:
        from loopscope.config import recipe_names

        raise UserError(f"no recipe given. Choose one of {', '.join(recipe_names())}, or a yaml file.")
    if dry_run:
        print_plan(words[0], words[1:])
        return
    from loopscope.training.run import train as run

    progress = options.show_progress()
    if resume is not None:
        path = run(None, resume, overrides=words, resume=True, on_eval=validation_scores, progress=progress)
    elif out is not None:
        path = run(words[0], out, overrides=words[1:], on_eval=validation_scores, progress=progress)
    else:
        raise UserError("--out is missing. Name the run folder, for example --out runs/first.")
    options.say(f"weights in {path}")
    options.say(f"next: loopscope eval {path.parent} --data FILE")


def validation_scores(puzzles: Any, settings: Any) -> Callable[[Any], Mapping[str, float]]:
    """What the training loop calls to watch itself: scores on the held-out puzzles."""
    from loopscope.evaluation.evaluate import evaluate

    def on_eval(model: Any) -> dict[str, float]:
        size = settings.micro_batch or min(settings.batch_size, 128)
        result = evaluate(model, puzzles, segments=settings.eval_segments, batch_size=size)
        return {name: score.value for name, score in result.scores[settings.eval_segments].items()}

    return on_eval


def print_plan(name: str, overrides: list[str]) -> None:
    """The resolved settings and what the run will cost."""
    import yaml

    from loopscope.config import load_recipe
    from loopscope.training.run import plan

    cost = plan(load_recipe(name, overrides))
    typer.echo(yaml.safe_dump(cost.pop("settings"), sort_keys=False))
    options.table("", ["", ""], [[key, options.number(value)] for key, value in cost.items()])
