"""loopscope eval: score a model on puzzles with known answers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from loopscope.cli import app, options


@app.command("eval")
def evaluate(
    model: options.Model,
    data: options.Data,
    segments: Annotated[str, typer.Option(help="Numbers of segments to score at, with commas.")] = "16",
    out: Annotated[Path | None, typer.Option("--json", help="Write the scores here.")] = None,
    limit: options.Limit = None,
    batch_size: options.BatchSize = 64,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float64; default the model's own.")
    ] = None,
    skip_invalid: options.SkipInvalid = False,
    known: options.Known = None,
) -> None:
    """Score a model: exact, cell and halt accuracy, with 95 % intervals, per number of segments.

    \b
    loopscope eval sudoku9-cpu --data sudoku9-demo
    loopscope eval RUN --data test.csv.gz --segments 16,64 --limit 512
    loopscope eval checkpoints/step_65100 --data test.csv.gz --json scores.json
    """
    from loopscope.evaluation.evaluate import evaluate as run
    from loopscope.files import write_json

    puzzles = options.read_data(data, limit, skip_invalid)
    network = options.load_model(model, known, dtype)
    wanted = options.parse_numbers(segments, int, "--segments")
    result = run(network, puzzles, segments=wanted, batch_size=batch_size, progress=options.show_progress())
    rows = [
        [str(t), *(options.percent(row[k]) for k in ("exact_accuracy", "cell_accuracy", "halt_accuracy"))]
        for t, row in result.scores.items()
    ]
    title = f"{model} on {puzzles.name}, n = {len(puzzles)}, {result.facts['dtype']}"
    options.table(title, ["segments", "exact", "cells", "halt"], rows)
    for t, bands in result.bands.items():
        rows = [[band, str(e.n), options.percent(e)] for band, e in bands.items()]
        options.table(f"\nexact by rating, {t} segments", ["rating", "n", "exact"], rows)
    if out is not None:
        write_json(out, {"model": model, "model_hash": network.content_hash, **result.to_dict()})
        options.console.print(f"\nwritten to {out}")
