"""loopscope verify: the estimators against exact values, a model's tangents against differences."""

from __future__ import annotations

from typing import Annotated

import typer

from loopscope.cli import app, options


@app.command()
def verify(
    model: Annotated[str | None, typer.Argument(help="Also check this model's tangents.")] = None,
    data: Annotated[str | None, typer.Option(help="Puzzles to check it on; default random tokens.")] = None,
    known: options.Known = None,
) -> None:
    """Check that the instrument measures what it says. Exits with 1 when a check fails.

    \b
    loopscope verify
    loopscope verify sudoku9-cpu
    loopscope verify RUN --data test.csv.gz
    """
    from loopscope.dynamics.verify import verify_estimators, verify_model

    checks = verify_estimators()
    if model is not None:
        network = options.load_model(model, known, dtype="float32")
        checks += verify_model(network, sample_batch(network, data))
    rows = [
        ["ok" if c.passed else "FAIL", c.name, f"{c.expected:.6g}", f"{c.obtained:.6g}", f"{c.tolerance:.1g}"]
        for c in checks
    ]
    options.table("verification", ["", "what", "exact", "obtained", "tolerance"], rows)
    failed = [c for c in checks if not c.passed]
    for check in failed:
        options.console.print(f"{check.name}: {check.hint or 'outside its tolerance'}")
    options.console.print(f"{len(checks) - len(failed)} of {len(checks)} checks passed")
    if failed:
        raise typer.Exit(1)


def sample_batch(network, data: str | None):  # type: ignore[no-untyped-def]
    """Four puzzles to check a model on."""
    import torch

    from loopscope.tasks.base import Batch

    if data is not None:
        return options.read_data(data, 4).batch(network.device)
    s = network.settings
    tokens = torch.randint(1, s.vocab_size, (4, s.seq_len), generator=torch.Generator().manual_seed(0))
    ids = torch.zeros(4, dtype=torch.long)
    return Batch(tokens, ids).to(network.device)
