"""loopscope measure: orbits, exponents, drift, restarts, into one labelled file."""

from __future__ import annotations

import os
from pathlib import Path
from shlex import quote
from typing import Annotated, Any

import typer

from loopscope.cli import app, options
from loopscope.errors import UserError


@app.command()
def measure(
    model: options.Model,
    data: options.Data,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Result, a .zarr folder; an interrupted run goes on.", callback=options.folder_to_write
        ),
    ] = None,
    segments: Annotated[
        int | None, typer.Option(help="Length of the orbits; default the training budget.")
    ] = None,
    exponents: Annotated[int, typer.Option(help="Leading Lyapunov exponents per puzzle.", min=0)] = 0,
    exponent_segments: Annotated[
        int | None, typer.Option(help="Segments they cover; default the training budget.")
    ] = None,
    tangent_seeds: Annotated[
        int, typer.Option(help="Independent sets of tangents: how much their start matters.", min=1)
    ] = 1,
    sigmas: Annotated[str, typer.Option(help="Sizes of the kicks of restarts, with commas.")] = "",
    restarts: Annotated[int, typer.Option(help="Restarts per size.", min=1)] = 8,
    restart_segments: Annotated[
        int | None, typer.Option(help="Their length; default the training budget.")
    ] = None,
    reorth: Annotated[
        str, typer.Option(help="Re-orthonormalise every segment or update; update: growth by kind, too.")
    ] = "segment",
    dtype: Annotated[str, typer.Option(help="Of the orbit: float32, bfloat16 or float64.")] = "float32",
    tangent_dtype: Annotated[
        str | None, typer.Option(help="Of the tangents: float32 or float64; default that of the orbit.")
    ] = None,
    split: options.Split = "test",
    limit: options.Limit = None,
    batch_size: options.BatchSize = 32,
    seed: options.Seed = 0,
    skip_invalid: options.SkipInvalid = False,
    known: options.Known = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show size and cost, and time a few segments; write nothing.")
    ] = False,
) -> None:
    """Measure how a model thinks: drift, exponents, escape far beyond the budget, restarts.

    \b
    loopscope measure sudoku9-cpu --data sudoku9-demo --exponents 2 --out RUN.zarr
    loopscope measure RUN --data test.csv.gz --segments 128 --out RUN.zarr
    loopscope measure RUN --data test.csv.gz --sigmas 0.1,0.3,1 --out RUN.zarr
    torchrun --nproc-per-node 4 -m loopscope measure RUN --data test.csv.gz --exponents 8 --out RUN.zarr
    loopscope measure RUN --data test.csv.gz --segments 128 --exponents 8 --dry-run
    loopscope report RUN.zarr --out report.html
    """
    from loopscope.dynamics.measure import measure as run
    from loopscope.training.distributed import is_main, processes

    if out is None and not dry_run:
        raise UserError("--out is missing. Name the result, for example --out runs/first.zarr.")
    if out is not None and out.suffix != ".zarr":
        raise UserError(f"--out {out}: expected a name that ends in .zarr.")
    kicks = options.parse_numbers(sigmas, float, "--sigmas")
    puzzles = options.read_data(data, limit, skip_invalid, split)
    use_own_gpu()
    network = options.load_model(model, known)
    settings: dict[str, Any] = {
        "segments": segments,
        "exponents": exponents,
        "exponent_segments": exponent_segments,
        "tangent_seeds": tangent_seeds,
        "sigmas": kicks,
        "restarts": restarts,
        "restart_segments": restart_segments,
        "reorth": reorth,
        "dtype": dtype,
        "tangent_dtype": tangent_dtype,
        "batch_size": batch_size,
        "seed": seed,
    }
    try:
        with processes():
            first = is_main()
            if out is None or dry_run:
                print_cost(network, puzzles, settings, first)
                return
            runs = run(network, puzzles, out=out, progress=options.show_progress(), **settings)
    except KeyboardInterrupt:
        raise typer.Exit(130) if out is None or dry_run else options.interrupted(out, len(puzzles)) from None
    if not first:
        return
    budget = min(int(runs.attrs["budget"]), runs.sizes["segment"])
    solved = int(runs["solved"].sel(segment=budget).sum())
    options.say(
        f"{solved} of {runs.sizes['puzzle']} puzzles solved after {budget} segments; written to {out}"
    )
    options.say(f"next: loopscope report {quote(str(out))} --out report.html")


def print_cost(network: Any, puzzles: Any, settings: dict[str, Any], speak: bool) -> None:
    """What the measurement will be and cost; the probe tells how long it takes here."""
    from loopscope.cli.train import size
    from loopscope.dynamics.cost import measure_cost

    cost = measure_cost(network, puzzles, **settings)
    if not speak:
        return
    rows = [[key.replace("_", " "), _plain(value)] for key, value in cost.pop("plan").items() if value != ()]
    seconds = {key: cost.pop(key) for key in ("seconds per block", "seconds")}
    rows += [[key, size(n) if "bytes" in key else options.number(n)] for key, n in cost.items()]
    options.table(f"{puzzles.name}: nothing is written", ["", ""], rows)
    each, whole = (duration(s) for s in seconds.values())
    options.say(
        f"{each} per block of {min(settings['batch_size'], len(puzzles))}, probed here; {whole} in all"
    )


def duration(seconds: float) -> str:
    """A time in the unit that a person would choose."""
    unit, length = next((u, n) for u, n in (("h", 3600), ("min", 60), ("s", 1)) if seconds >= n or n == 1)
    return f"{seconds / length:.3g} {unit}"


def _plain(value: Any) -> str:
    return ", ".join(f"{v:g}" for v in value) if isinstance(value, tuple) else options.number(value)


def use_own_gpu() -> None:
    """Of the processes of torchrun each takes the GPU of its number on this machine."""
    import torch

    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
