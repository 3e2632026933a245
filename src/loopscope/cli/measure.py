"""loopscope measure: orbits, exponents, drift, restarts, into one labelled file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from loopscope.cli import app, options
from loopscope.errors import UserError


@app.command()
def measure(
    model: options.Model,
    data: options.Data,
    out: Annotated[Path, typer.Option(help="Result, a .zarr folder; an interrupted run goes on.")],
    segments: Annotated[
        int | None, typer.Option(help="Length of the orbits; default the training budget.")
    ] = None,
    exponents: Annotated[int, typer.Option(help="Leading Lyapunov exponents per puzzle.", min=0)] = 0,
    exponent_segments: Annotated[
        int | None, typer.Option(help="Segments they cover; default the training budget.")
    ] = None,
    sigmas: Annotated[str, typer.Option(help="Sizes of the kicks of restarts, with commas.")] = "",
    restarts: Annotated[int, typer.Option(help="Restarts per size.", min=1)] = 8,
    restart_segments: Annotated[
        int | None, typer.Option(help="Their length; default the training budget.")
    ] = None,
    reorth: Annotated[str, typer.Option(help="Re-orthonormalise every segment or update.")] = "segment",
    split: options.Split = "test",
    limit: options.Limit = None,
    batch_size: options.BatchSize = 32,
    seed: options.Seed = 0,
    skip_invalid: options.SkipInvalid = False,
    known: options.Known = None,
) -> None:
    """Measure how a model thinks: drift, exponents, escape far beyond the budget, restarts.

    \b
    loopscope measure sudoku9-cpu --data sudoku9-demo --exponents 2 --out RUN.zarr
    loopscope measure RUN --data test.csv.gz --segments 128 --out RUN.zarr
    loopscope measure RUN --data test.csv.gz --sigmas 0.1,0.3,1 --out RUN.zarr
    torchrun --nproc-per-node 4 -m loopscope measure RUN --data test.csv.gz --exponents 8 --out RUN.zarr
    loopscope report RUN.zarr --out report.html
    """
    from loopscope.dynamics.measure import measure as run
    from loopscope.training.distributed import is_main, processes

    if out.suffix != ".zarr":
        raise UserError(f"--out {out}: expected a name that ends in .zarr.")
    kicks = options.parse_numbers(sigmas, float, "--sigmas")
    puzzles = options.read_data(data, limit, skip_invalid, split)
    use_own_gpu()
    network = options.load_model(model, known)
    try:
        with processes():
            first = is_main()
            runs = run(
                network,
                puzzles,
                segments=segments,
                exponents=exponents,
                exponent_segments=exponent_segments,
                sigmas=kicks,
                restarts=restarts,
                restart_segments=restart_segments,
                reorth=reorth,
                batch_size=batch_size,
                seed=seed,
                out=out,
                progress=options.show_progress(),
            )
    except KeyboardInterrupt:
        raise options.interrupted(out, len(puzzles)) from None
    if not first:
        return
    budget = min(int(runs.attrs["budget"]), runs.sizes["segment"])
    solved = int(runs["solved"].sel(segment=budget).sum())
    options.say(
        f"{solved} of {runs.sizes['puzzle']} puzzles solved after {budget} segments; written to {out}"
    )
    options.say(f"next: loopscope report {out} --out report.html")


def use_own_gpu() -> None:
    """Of the processes of torchrun each takes the GPU of its number on this machine."""
    import torch

    if "LOCAL_RANK" in os.environ and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % torch.cuda.device_count())
