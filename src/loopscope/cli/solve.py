"""loopscope solve: one puzzle, and how the model gets there."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import typer

from loopscope.cli import app, options


@app.command()
def solve(
    model: options.Model,
    puzzle: Annotated[str, typer.Argument(help="Cells row by row, '.' or 0 for a blank.")],
    segments: Annotated[int, typer.Option(help="Segments to run.", min=1)] = 16,
    restarts: Annotated[int, typer.Option(help="Orbits, the first from the plain start.", min=1)] = 1,
    noise: Annotated[float, typer.Option(help="Size of the kick of a restart.", min=0)] = 0.3,
    select: Annotated[str, typer.Option(help="halt, residual, majority or verified.")] = "halt",
    trace: Annotated[bool, typer.Option("--trace", help="Show the board after every segment.")] = False,
    seed: options.Seed = 0,
    known: options.Known = None,
) -> None:
    """Solve one Sudoku and say plainly whether the answer keeps the rules.

    \b
    loopscope solve sudoku9-cpu "..9748...7.........2.1.9.....7...24..64.1.59..98...3.....8.3.2.........6...2759.."
    loopscope solve sudoku9-cpu PUZZLE --trace
    loopscope solve sudoku9-cpu PUZZLE --segments 64 --restarts 8 --select verified
    """
    from loopscope.evaluation.solve import solve as run

    puzzles = one_puzzle(puzzle)
    network = options.load_model(model, known)
    answers = run(
        network,
        puzzles,
        segments=segments,
        restarts=restarts,
        noise=noise,
        select=select,
        seed=seed,
        trace=trace,
    )
    task, givens = puzzles.task, puzzles.inputs[0]
    if trace:
        _print_trace(task, givens, answers)
    typer.echo(task.render(answers.tokens[0], givens))
    print_verdict(task, givens, answers.tokens[0], float(answers.halt_logit[0]), float(answers.residual[0]))
    if restarts > 1:
        options.console.print(f"rollout {answers.rollout[0]} of {restarts} chosen by {select}")


def one_puzzle(text: str):  # type: ignore[no-untyped-def]
    """A Sudoku string as a puzzle set of one."""
    from loopscope.errors import UserError
    from loopscope.tasks import PuzzleSet, sudoku_for

    text = text.strip()
    task = sudoku_for(len(text))
    complaint = task.complaint(text)
    if complaint:
        raise UserError(f"the puzzle: {complaint}. Check the string.")
    return PuzzleSet(task, task.parse(text)[None], None, np.zeros(1, np.int32), {}, "the puzzle")


def print_verdict(task, givens: np.ndarray, answer: np.ndarray, halt: float, residual: float) -> None:  # type: ignore[no-untyped-def]
    """One line on the answer, one on the state of the model."""
    conflicts = int(task.conflicts(answer[None]).sum())
    kept = bool(task.givens_kept(givens[None], answer[None])[0])
    if task.verify(givens[None], answer[None])[0]:
        verdict = "solved: every row, column and box is right and the givens are kept"
    else:
        broken = f"{conflicts} cells break a rule" if conflicts else "no rule is broken"
        verdict = f"NOT solved: {broken}, the givens are {'kept' if kept else 'changed'}"
    believes = "calls it right" if halt > 0 else "does not call it right"
    options.console.print(
        f"{verdict}\nthe model {believes} (halt logit {halt:+.2f}), late residual {residual:.2g}"
    )


def _print_trace(task, givens: np.ndarray, answers) -> None:  # type: ignore[no-untyped-def]
    """The board after every segment in which it changed, with a line of numbers."""
    before = givens
    for t, tokens in enumerate(answers.trace[0]):
        changed = int((tokens != before).sum())
        conflicts = int(task.conflicts(tokens[None]).sum())
        halt, residual = answers.trace_halt_logit[0, t], answers.trace_residual[0, t]
        options.console.print(
            f"segment {t + 1}: {changed} cells changed, {conflicts} in conflict, "
            f"halt logit {halt:+.2f}, residual {residual:.2g}"
        )
        if changed:
            typer.echo(task.render(tokens, givens))
        before = tokens
