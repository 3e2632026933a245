"""loopscope bench lyapunov: what exponents cost in plain forwards."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from loopscope.cli import options
from loopscope.cli.bench import bench, save


@bench.command()
def lyapunov(
    model: Annotated[
        str, typer.Argument(help="A model as `loopscope models info` takes it, or a recipe.")
    ] = "sudoku-trm-att",
    exponents: Annotated[str, typer.Option(help="Numbers of exponents, with commas between.")] = "4,8",
    batch_size: Annotated[int, typer.Option(help="Puzzles per batch.", min=1)] = 2,
    rounds: Annotated[int, typer.Option(help="Pairs that count.", min=1)] = 7,
    threads: Annotated[int, typer.Option(help="Threads of the processor.", min=1)] = 1,
    jvp: Annotated[bool, typer.Option(help="Also time vmap(jvp), the way of other systems.")] = True,
    out: options.Json = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    known: options.Known = None,
) -> None:
    """Time the tangents of k exponents against plain forwards, in turn, in float32.

    The ideal is 1 + k forwards. A recipe gives a model with fresh weights; boards are random.

    \b
    loopscope bench lyapunov sudoku-trm-att
    loopscope bench lyapunov sudoku9-cpu --exponents 1,8 --batch-size 8
    loopscope bench lyapunov sudoku-trm-mlp --no-jvp --json cost.json
    """
    import torch

    from loopscope.dynamics.bench import bench_lyapunov
    from loopscope.evaluation.bench import model_or_recipe
    from loopscope.training.setup import pick_device

    numbers = options.parse_numbers(exponents, int, "--exponents")
    network = model_or_recipe(
        model, dtype="float32", device=pick_device(device), **options.parse_known(known)
    )
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = bench_lyapunov(network, exponents=numbers, batch_size=batch_size, rounds=rounds, jvp=jvp)
    finally:
        torch.set_num_threads(before)
    print_cost(found)
    save(found, out)


def print_cost(found: dict[str, Any]) -> None:
    """Forwards per number of exponents, and how far above the ideal."""
    what = f"{found['model']}, {found['dtype']}, batch {found['batch_size']}, threads {found['threads']}"
    options.say(f"{what}: {1e3 * found['seconds']:.4g} ms per block application", "bold")
    rows = []
    for row in found["rows"]:
        ways = [row["stacked"], row.get("jvp", float("nan"))]
        ratios = [f"{t:.2f} ({t / row['ideal']:.2f} x ideal)" if t == t else "-" for t in ways]
        rows.append([str(row["k"]), str(row["ideal"]), *ratios, f"{100 * row['rest']:.2f} %"])
    options.table("", ["exponents", "ideal", "stacked", "vmap(jvp)", "QR share"], rows)
    options.say(f"in plain forwards; medians of {found['rounds']} pairs; QR share of a whole segment")
