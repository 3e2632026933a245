"""loopscope train: a recipe plus overrides."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from loopscope.cli import app, options
from loopscope.errors import UserError

PAPERS_PUZZLES = 1000  # of the published Sudoku and Maze runs


@app.command()
def train(
    recipe: Annotated[
        str | None, typer.Argument(help="A shipped recipe or a yaml file; not with --resume.")
    ] = None,
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value ...")] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder to make.", callback=options.folder_to_write)
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Run folder to go on with.")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="One run per seed, as 0,1,2, in OUT/seed0 ...; again to go on.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show settings, size and cost; train nothing.")
    ] = False,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="With --dry-run: time a few steps to tell how long.")
    ] = True,
) -> None:
    """Train a model. Ctrl-C leaves a checkpoint; --resume goes on exactly where it stopped.

    \b
    loopscope train sudoku6-cpu --out runs/sudoku6
    loopscope train sudoku9-cpu data.path=\\[a.csv,b.csv] train.lr=1e-3 --out runs/b
    loopscope train sudoku9-cpu train.steps=4000 --dry-run
    loopscope train --resume runs/sudoku9
    loopscope train sudoku6-cpu --seeds 0,1,2 --out runs/three
    torchrun --nproc-per-node 8 -m loopscope train sudoku-trm-mlp data.path=DIR --out RUN
    """
    with one_voice():
        words = [word for word in (recipe, *(overrides or [])) if word]
        if seeds is not None:
            _train_seeds(words, out, seeds, alone=resume is None and not dry_run)
        else:
            _train(words, out, resume, dry_run, probe)


def _train(words: list[str], out: Path | None, resume: Path | None, dry_run: bool, probe: bool) -> None:
    if resume is not None and (dry_run or out is not None):
        raise UserError(f"--resume {resume}: goes with neither --out nor --dry-run. Leave those out.")
    if resume is None and not words:
        from loopscope.config import recipe_names

        raise UserError(f"no recipe given. Choose one of {', '.join(recipe_names())}, or a yaml file.")
    if dry_run:
        print_plan(words[0], words[1:], probe)
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
    options.say(f"next: loopscope eval {quote(str(path.parent))} --data FILE")


def _train_seeds(words: list[str], out: Path | None, seeds: str, alone: bool) -> None:
    if not (alone and words and out):
        raise UserError(
            f"--seeds {seeds}: needs a recipe and --out, and goes with neither --resume nor --dry-run. "
            "Repeat the command to go on."
        )
    from loopscope.training.seeds import SUMMARY, train_seeds

    summary = train_seeds(
        words[0],
        out,
        options.parse_numbers(seeds, int, "--seeds"),
        overrides=words[1:],
        on_eval=validation_scores,
        progress=options.show_progress(),
    )
    columns = ("mean", "sd", "lowest", "highest", "n")
    rows = [[name, *(_cell(s[key]) for key in columns)] for name, s in summary["spread"].items()]
    options.table("over the seeds", ["", *columns], rows)
    options.say(f"every run in {out / SUMMARY}")


def _cell(value: float | int | None) -> str:
    return "-" if value is None else f"{value:.4g}"


@contextmanager
def one_voice() -> Iterator[None]:
    """Under torchrun every process runs the command: the first one speaks, and what any of them finds
    wrong is said once and ends all with exit code 2."""
    if "RANK" not in os.environ:
        yield
        return
    from loopscope.training import distributed

    mistake = None
    with distributed.processes():
        silence = nullcontext() if distributed.is_main() else redirect_stdout(io.StringIO())
        try:
            with silence, distributed.agreeing():
                yield
        except UserError as error:
            mistake = str(error)
            if distributed.is_main():
                typer.echo(f"error: {mistake}", err=True)
            distributed.any_of(True)  # torchrun ends them all as soon as one leaves: wait for the line above
    if mistake is not None:
        raise typer.Exit(2)


def validation_scores(puzzles: Any, settings: Any) -> Callable[[Any], Mapping[str, float]]:
    """What the training loop calls to watch itself: scores on the held-out puzzles."""
    from loopscope.evaluation.evaluate import evaluate

    def on_eval(model: Any) -> dict[str, float]:
        size = settings.micro_batch or min(settings.batch_size, 128)
        result = evaluate(model, puzzles, segments=settings.eval_segments, batch_size=size)
        return {name: score.value for name, score in result.scores[settings.eval_segments].items()}

    return on_eval


def print_plan(name: str, overrides: list[str], probe: bool) -> None:
    """The resolved settings, and what the run will cost; with `probe` a few steps tell how long it takes."""
    import yaml

    from loopscope.config import load_recipe
    from loopscope.training import bench
    from loopscope.training.run import plan

    recipe = load_recipe(name, overrides)
    puzzles, made_up = bench.boards_of(recipe, PAPERS_PUZZLES + recipe.data.validation)
    cost = plan(recipe, puzzles)
    typer.echo(yaml.safe_dump(cost.pop("settings"), sort_keys=False))
    rows = [[key, size(value) if "bytes" in key else options.number(value)] for key, value in cost.items()]
    options.table("", ["", ""], rows)
    if made_up:
        options.say(
            f"\nThe recipe names no puzzles: counted for {PAPERS_PUZZLES:,} random boards of the papers' "
            "size. data.path=DIR counts for yours."
        )
        recipe = bench.without_symmetries(recipe)
    if not probe or "RANK" in os.environ:  # under torchrun a step would need all processes
        return
    options.say("\ntiming a few steps ...")
    found = bench.probe(recipe, puzzles)
    seconds, hours = found["seconds"], found["seconds"] * cost["steps"] / 3600
    time = f"{hours:.3g} h" if hours >= 1 else f"{60 * hours:.3g} min"
    options.say(f"{seconds:.3g} s per step, measured here with {found['rows']} puzzles; {time} for the run")


def size(number: int) -> str:
    """Bytes as a person says them."""
    power = next(p for p in (9, 6, 3, 0) if number >= 10**p or p == 0)
    return f"{number / 10**power:.3g} {({9: 'GB', 6: 'MB', 3: 'kB', 0: 'B'})[power]}"
