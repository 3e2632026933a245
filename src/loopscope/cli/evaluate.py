"""loopscope eval: score a model on puzzles with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loopscope.cli import app, options

if TYPE_CHECKING:
    from loopscope.evaluation.evaluate import Evaluation

NAMES = {  # score -> column
    "exact_accuracy": "exact",
    "cell_accuracy": "cells",
    "halt_accuracy": "halt",
    "pass_at_k": "any right",
    "mean_at_k": "one at random",
}


@app.command("eval")
def evaluate(
    model: options.Model,
    data: options.Data,
    segments: Annotated[str, typer.Option(help="Numbers of segments to score at, with commas.")] = "16",
    restarts: Annotated[
        int, typer.Option(help="Orbits per puzzle, the first from the plain start.", min=1)
    ] = 1,
    noise: options.Noise = 0.3,
    select: options.Select = "halt",
    out: Annotated[Path | None, typer.Option("--json", help="Write the scores here.")] = None,
    split: options.Split = "test",
    limit: options.Limit = None,
    batch_size: options.BatchSize = 64,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float64; default the model's own.")
    ] = None,
    seed: options.Seed = 0,
    skip_invalid: options.SkipInvalid = False,
    known: options.Known = None,
) -> None:
    """Score a model: exact, cell and halt accuracy, with 95 % intervals, per number of segments.

    \b
    loopscope eval sudoku9-cpu --data sudoku9-demo
    loopscope eval RUN --data test.csv.gz --segments 16,64 --limit 512
    loopscope eval RUN --data test.csv.gz --restarts 8 --select residual
    loopscope eval checkpoints/step_65100 --data test.csv.gz --json scores.json
    """
    from loopscope.evaluation import evaluate as evaluation
    from loopscope.files import write_json

    wanted = options.parse_numbers(segments, int, "--segments")
    puzzles = options.read_data(data, limit, skip_invalid, split)
    network = options.load_model(model, known, dtype)
    common: dict[str, Any] = {
        "segments": wanted,
        "batch_size": batch_size,
        "progress": options.show_progress(),
    }
    if restarts > 1:
        result = evaluation.evaluate_restarts(
            network, puzzles, restarts=restarts, noise=noise, select=select, seed=seed, **common
        )
    else:
        result = evaluation.evaluate(network, puzzles, **common)
    print_scores(model, result)
    if out is not None:
        write_json(out, result.to_dict())
        options.say(f"\nwritten to {out}")


def print_scores(model: str, result: Evaluation) -> None:
    """Headline scores, those that only restarts have, and accuracy by difficulty."""
    facts = result.facts
    options.say(f"{model} on {facts['data']}, n = {facts['n']}, {facts['dtype']}; 95 % intervals", "bold")
    if "select" in facts:
        options.say(f"{facts['restarts']} rollouts, noise {facts['noise']:g}, chosen by {facts['select']}")
    found = list(next(iter(result.scores.values())))
    for names in (found[:3], found[3:]):
        rows = [[str(t), *(options.percent(row[name]) for name in names)] for t, row in result.scores.items()]
        if names:
            options.table("", ["segments", *(NAMES[name] for name in names)], rows)
    for t, bands in result.bands.items():
        rows = [[band, str(e.n), options.percent(e)] for band, e in bands.items() if e.n]
        if rows:
            options.table(f"\nexact by rating, {t} segments", ["rating", "n", "exact"], rows)
