"""loopscope toy: transient chaos with exact values, in seconds."""

from __future__ import annotations

from typing import Annotated

import typer

from loopscope.cli import app, options

STORY = """\
x' = 4x(1 - x) until it comes within 0.04 of the solution s; then x closes in
on s by half a step. A puzzle is solved when it is captured; until then its
orbit is chaotic and keeps no memory.
"""


@app.command()
def toy(
    n: Annotated[int, typer.Option("--puzzles", help="Toy puzzles.", min=10)] = 20_000,
    segments: Annotated[int, typer.Option(help="Segments.", min=1)] = 16,
    seed: options.Seed = 0,
) -> None:
    """A search that wanders chaotically until it is captured: what escape looks like, with exact values.

    \b
    loopscope toy
    loopscope toy --segments 64
    loopscope toy --puzzles 100000 --seed 1
    """
    import numpy as np

    from loopscope.dynamics.toys import run_toy, toy_checks

    run = run_toy(n, segments, seed)
    options.say(STORY)
    checks = toy_checks(run)
    rows = [
        [c.name, f"{c.expected:.5g}", f"{c.obtained:.5g}", f"{c.tolerance:.1g}", "ok" if c.passed else "FAIL"]
        for c in checks
    ]
    options.table(
        f"{n} puzzles, {segments} segments, seed {seed}", ["", "exact", "measured", "tolerance", ""], rows
    )
    ftle, solved = run.ftle.values[:, 0], run.solved.values[:, -1]
    groups = {"solved": ftle[solved], "not solved": ftle[~solved]}
    rows = [
        [name, str(len(group)), f"{np.median(group):+.3f}" if len(group) else "-"]
        for name, group in groups.items()
    ]
    options.table("\nfinite-time Lyapunov exponent, nats per segment", ["", "n", "median"], rows)
    if not all(c.passed for c in checks):
        raise typer.Exit(1)
