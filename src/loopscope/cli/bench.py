"""loopscope bench: how fast this machine trains and answers, beside what it does in plain matrix products."""

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
    out: options.Json = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Time the training step, and the square matrix products of the same device between the steps.

    Without data.path the boards are random; a step takes as long on them. On a shared machine wall time
    swings: the steps took turns with other work where the processor time is well below it.

    \b
    loopscope bench train sudoku-trm-mlp
    loopscope bench train sudoku-trm-mlp train.batch_size=8 train.compile=false
    loopscope bench train sudoku-hrm train.batch_size=32 --profile --json hrm.json
    """
    from loopscope.config import load_recipe
    from loopscope.training import bench

    settings = load_recipe(recipe, overrides or [])
    found, trainer = bench.bench_train(settings, rounds=rounds, device=device)
    print_speed(found, found["recipe"], "step", [["micro batch", str(found["micro_batch"])]])
    if profile:
        found["profile"] = bench.profile_step(trainer)
        rows = [[name, f"{calls:,}", f"{100 * share:.1f} %"] for name, calls, share in found["profile"]]
        options.table("\nwhere the time of a step goes", ["operator", "calls", "share"], rows)
    save(found, out)


@bench.command()
def infer(
    model: Annotated[
        str, typer.Argument(help="A model as `loopscope models info` takes it, or a recipe.")
    ] = "sudoku-trm-mlp",
    segments: Annotated[int, typer.Option(help="Segments per puzzle; all are run.", min=1)] = 16,
    batch_size: Annotated[int, typer.Option(help="Puzzles per batch.", min=1)] = 8,
    rounds: Annotated[int, typer.Option(help="Batches that count.", min=1)] = 5,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile the recursive blocks.")] = False,
    dtype: Annotated[
        str | None, typer.Option(help="float32, bfloat16 or float64; default the model's own.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Also count the answers that bfloat16 changes on these puzzles."),
    ] = None,
    split: options.Split = "test",
    limit: options.Limit = 256,
    out: options.Json = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    known: options.Known = None,
) -> None:
    """Time full answers, and the square matrix products of the same device between them.

    A recipe gives a model with fresh weights; it takes as long as a trained one. Boards are random.

    \b
    loopscope bench infer sudoku9-cpu --batch-size 64
    loopscope bench infer sudoku-trm-mlp --compile --json infer.json
    loopscope bench infer sudoku9-cpu --data sudoku9-demo
    """
    from loopscope.evaluation.bench import bench_infer, model_or_recipe
    from loopscope.training.setup import pick_device

    network = model_or_recipe(model, dtype=dtype, device=pick_device(device), **options.parse_known(known))
    puzzles = None if data is None else options.read_data(data, limit, split=split)
    found = bench_infer(network, segments=segments, batch_size=batch_size, rounds=rounds, compiled=compiled)
    speed = [
        ["puzzles per second", f"{found['puzzles_per_second']:,.4g} ({segments} segments each)"],
        ["segment", f"{1e3 * found['seconds_per_segment']:.4g} ms"],
    ]
    print_speed(found, found["model"], "batch", speed)
    if puzzles is not None:
        found["flips"] = print_flips(network, puzzles, segments)
    save(found, out)


def print_flips(network: Any, puzzles: Any, segments: int) -> dict[str, Any]:
    """Count the answers that bfloat16 changes, and say so."""
    from loopscope.evaluation.precision import dtype_flips

    flips = dtype_flips(network, puzzles, segments=segments)
    rows = [
        ["cells answered alike", options.percent(flips.cells)],
        ["cells answered differently", f"{flips.flipped_cells:,}"],
        ["puzzles answered alike", options.percent(flips.puzzles)],
    ]
    if flips.only_small is not None:
        rows += [["puzzles solved only in bfloat16", f"{flips.only_small:,}"]]
        rows += [["puzzles solved only in float32", f"{flips.only_wide:,}"]]
    title = f"\nbfloat16 against float32 on {puzzles.name}, n = {len(puzzles)}, {segments} segments"
    options.table(title, ["", ""], rows)
    return flips.to_dict()


def print_speed(found: dict[str, Any], name: str, unit: str, more: list[list[str]]) -> None:
    """The time of a unit of work, its rate, and the fraction of the products' rate."""
    compiled = "compiled" if found["compile"] else "not compiled"
    what = f"{name}, {found['parameters']:,} parameters, {found['dtype']}, {compiled}"
    options.say(f"{what}; {found['device']}, threads {found['threads']}", "bold")
    if found.get("random_boards"):
        options.say("random boards, because the recipe names no puzzles")
    milliseconds = (1e3 * found[key] for key in ("seconds", "seconds_low", "seconds_high"))
    spent = "{:.4g} ms, median of {} (quartiles {:.4g} to {:.4g}), wall time"
    middle, low, high = milliseconds
    side, busy = found["peak_side"], found["processor_seconds"]
    rows = [
        ["batch size", str(found["batch_size"])],
        *more,
        [unit, spent.format(middle, found["rounds"], low, high)],
        ["processor time", f"{1e3 * busy:.4g} ms, median over all threads of this process"],
        ["work", f"{found['flops'] / 1e9:,.4g} GFLOP per {unit}"],
        ["rate", f"{found['rate'] / 1e9:,.4g} GFLOP/s"],
        ["matrix products", f"{found['peak'] / 1e9:,.4g} GFLOP/s ({side} x {side})"],
        ["fraction", f"{100 * found['fraction']:.1f} %"],
    ]
    options.table("", ["", ""], rows)


def save(found: dict[str, Any], out: Path | None) -> None:
    """The numbers with where they come from, where asked for."""
    from loopscope.files import write_json
    from loopscope.provenance import provenance

    if out is not None:
        write_json(out, found | provenance())
        options.say(f"\nwritten to {out}")
