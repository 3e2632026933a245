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
    loopscope train sudoku9-cpu "data.path=[a.csv.gz,b.csv.gz]" train.lr=1e-3 --out runs/sudoku9
    loopscope train --resume runs/sudoku9
    """
    from loopscope.training import run as training

    words = [w for w in (recipe, *(overrides or [])) if w]
    if resume is not None:
        path = training.train(
            None, resume, overrides=words, resume=True, on_eval=validation_scores, progress=True
        )
    else:
        if not words:
            from loopscope.config import recipe_names

            raise UserError(f"no recipe given. Choose one of {', '.join(recipe_names())}, or a yaml file.")
        if dry_run:
            print_plan(words[0], words[1:])
            return
        if out is None:
            raise UserError("--out is missing: name the run folder, for example --out runs/first.")
        path = training.train(words[0], out, overrides=words[1:], on_eval=validation_scores, progress=True)
    options.console.print(f"weights in {path}\nnext: loopscope eval {path.parent} --data FILE")


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
    from loopscope.training import run as training

    plan = training.plan(load_recipe(name, overrides))
    options.console.print(yaml.safe_dump(plan.pop("settings"), sort_keys=False))
    options.table("cost", ["", ""], [[k, v if isinstance(v, str) else f"{v:,.4g}"] for k, v in plan.items()])
