"""loopscope verify: the estimators against exact values, a model's tangents against differences."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from loopscope.cli import app, options


@app.command()
def verify(
    model: Annotated[str | None, typer.Argument(help="Also check this model's tangents.")] = None,
    data: Annotated[str | None, typer.Option(help="Puzzles to check it on; default random tokens.")] = None,
    slow: Annotated[bool, typer.Option("--all", help="Also the slow rows, a minute or two more.")] = False,
    known: options.Known = None,
) -> None:
    """Check that the instrument measures what it says. Exits with 1 when a check fails.

    \b
    loopscope verify
    loopscope verify --all
    loopscope verify sudoku9-cpu
    loopscope verify RUN --data test.csv.gz
    """
    from loopscope.dynamics.verify import verify_estimators, verify_model

    checks = []
    if model is not None:
        network = options.load_model(model, known, dtype="float32")
        checks += verify_model(network, sample_batch(network, data))
    checks += verify_estimators(slow=True) if slow else verify_estimators()
    rows = [
        ["ok" if c.passed else "FAIL", c.name, f"{c.expected:.6g}", f"{c.obtained:.6g}", f"{c.tolerance:.1g}"]
        for c in checks
    ]
    options.table("", ["", "what", "exact", "obtained", "tolerance"], rows, left=2)
    failed = [c for c in checks if not c.passed]
    for check in failed:
        options.say(f"FAIL {check.hint or f'{check.name}: outside its tolerance'}", "red")
    options.say(f"{len(checks) - len(failed)} of {len(checks)} checks passed")
    if failed:
        raise typer.Exit(1)


def sample_batch(network: Any, data: str | None) -> Any:
    """Four puzzles to check a model on."""
    import torch

    from loopscope.evaluation.subject import check_fits
    from loopscope.tasks.base import Batch

    if data is not None:
        puzzles = options.read_data(data, 4)
        check_fits(network, puzzles)
        return puzzles.batch(network.device)
    s = network.settings
    tokens = torch.randint(1, s.vocab_size, (4, s.seq_len), generator=torch.Generator().manual_seed(0))
    return Batch(tokens, torch.zeros(4, dtype=torch.long)).to(network.device)
