"""loopscope solve: one puzzle, and how the model gets there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from loopscope.cli import app, options

if TYPE_CHECKING:
    import numpy as np

    from loopscope.evaluation.solve import Answers
    from loopscope.tasks import PuzzleSet, Sudoku


@app.command()
def solve(
    model: options.Model,
    puzzle: Annotated[
        list[str], typer.Argument(help="Cells row by row, '.' or 0 for a blank; spaces do not count.")
    ],
    segments: Annotated[int, typer.Option(help="Segments to run.", min=1)] = 16,
    restarts: Annotated[int, typer.Option(help="Orbits, the first from the plain start.", min=1)] = 1,
    noise: options.Noise = 0.3,
    select: options.Select = "halt",
    trace: Annotated[bool, typer.Option("--trace", help="Show the board after every segment.")] = False,
    seed: options.Seed = 0,
    known: options.Known = None,
) -> None:
    """Solve one Sudoku and say plainly whether the answer keeps the rules.

    \b
    loopscope solve sudoku9-cpu .89..2... .418..... ....65... ....1.3.6 \\
      ..8..34.. ..6....75 ..24..93. 364.2.... .1573..4.
    loopscope solve sudoku9-cpu PUZZLE --trace
    loopscope solve sudoku9-cpu PUZZLE --restarts 8 --select verified
    """
    from loopscope.cli import boards
    from loopscope.evaluation.solve import solve as run

    task, puzzles = one_puzzle("".join("".join(puzzle).split()))
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
    givens, answer = puzzles.inputs[0], answers.tokens[0]
    if trace:
        options.console.print(boards.trace(task, givens, answers, options.console.width))
        plain = " of the plain start" if restarts > 1 else ""
        options.say(f"trace{plain}: {boards.trace_summary(task, givens, answers)}\n")
    options.console.print(boards.board(task, givens, answer, style="green" if answers.verified[0] else ""))
    options.say(boards.KEY + ("; cyan: changed in that segment" if trace else ""), "dim")
    print_verdict(task, givens, answers)
    if restarts > 1:
        options.say(f"rollout {answers.rollout[0] + 1} of {restarts} chosen by {select}")


def one_puzzle(text: str) -> tuple[Sudoku, PuzzleSet]:
    """A Sudoku string as a puzzle set of one."""
    import numpy as np

    from loopscope.errors import UserError
    from loopscope.tasks import PuzzleSet, Sudoku, sudoku_for

    task = sudoku_for(len(text))
    assert isinstance(task, Sudoku)
    if complaint := task.complaint(text):
        raise UserError(f"the puzzle: {complaint}. Check the string.")
    return task, PuzzleSet(task, task.parse(text)[None], None, np.zeros(1, np.int32), {}, "the puzzle")


def print_verdict(task: Sudoku, givens: np.ndarray, answers: Answers) -> None:
    """One line on the answer, one on the state of the model."""
    answer, halt, residual = answers.tokens[0], answers.halt_logit[0], answers.residual[0]
    if answers.verified[0]:
        options.say("solved: every row, column and box is right and the givens are kept", "bold green")
    else:
        reason = task.complaint(task.format(givens), task.format(answer)) or "answer breaks a rule"
        options.say(f"NOT solved: {reason}", "bold red")
        conflicts, changed = (
            int(task.conflicts(answer[None]).sum()),
            int(((givens > 1) & (answer != givens)).sum()),
        )
        options.say(f"cells in conflict: {conflicts}; givens changed: {changed}")
    believes = "calls it right" if halt >= 0 else "does not call it right"
    options.say(f"the model {believes} (halt logit {halt:+.2f}); late residual {residual:.2g}")
