"""loopscope bench: how fast this machine trains, beside what it does in plain matrix products."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from loopscope.cli import app, options

bench = typer.Typer(help="Measure speed on this machine.", rich_markup_mode="rich")
app.add_typer(bench, name="bench")


@bench.callback()
def together() -> None:
    """Measure speed on this machine."""


@bench.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A shipped recipe or a yaml file.")] = "sudoku-trm-mlp",
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value ...")] = None,
    rounds: Annotated[int, typer.Option(help="Steps that count.", min=1)] = 10,
    profile: Annotated[bool, typer.Option("--profile", help="Show where the time of a step goes.")] = False,
    out: Annotated[Path | None, typer.Option("--json", help="Write the numbers here.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Time the training step, and the square matrix products of the same device between the steps.

    Without data.path the boards are random; a step takes as long on them.

    \b
    loopscope bench train sudoku-trm-mlp
    loopscope bench train sudoku-trm-mlp train.batch_size=8 train.compile=false
    loopscope bench train sudoku-hrm train.batch_size=32 --profile --json hrm.json
    """
    from loopscope.config import load_recipe
    from loopscope.files import write_json
    from loopscope.provenance import provenance
    from loopscope.training import bench

    settings = load_recipe(recipe, overrides or [])
    found, trainer = bench.bench_train(settings, rounds=rounds, device=device)
    print_speed(found)
    if profile:
        found["profile"] = bench.profile_step(trainer)
        rows = [[name, f"{calls:,}", f"{100 * share:.1f} %"] for name, calls, share in found["profile"]]
        options.table("\nwhere the time of a step goes", ["operator", "calls", "share"], rows)
    if out is not None:
        write_json(out, found | provenance())
        options.say(f"\nwritten to {out}")


def print_speed(found: dict[str, Any]) -> None:
    """Step time, rate, and the fraction of the products' rate."""
    compiled = "compiled" if found["compile"] else "not compiled"
    what = f"{found['recipe']}, {found['parameters']:,} parameters, {found['dtype']}, {compiled}"
    options.say(f"{what}; {found['device']}, threads {found['threads']}", "bold")
    if found["random_boards"]:
        options.say("random boards, because the recipe names no puzzles")
    milliseconds = (1e3 * found[key] for key in ("seconds", "seconds_low", "seconds_high"))
    step = "{:.4g} ms (quartiles {:.4g} to {:.4g}, {} steps)".format(*milliseconds, found["rounds"])
    side = found["peak_side"]
    rows = [
        ["batch size, micro batch", f"{found['batch_size']}, {found['micro_batch']}"],
        ["step", step],
        ["work", f"{found['flops'] / 1e9:,.4g} GFLOP per step"],
        ["rate", f"{found['rate'] / 1e9:,.4g} GFLOP/s"],
        ["matrix products", f"{found['peak'] / 1e9:,.4g} GFLOP/s ({side} x {side})"],
        ["fraction", f"{100 * found['fraction']:.1f} %"],
    ]
    options.table("", ["", ""], rows)
