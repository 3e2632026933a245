"""`loopscope solve` for an ARC task: its versions vote, and the best two answers stand side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from loopscope.cli import options

if TYPE_CHECKING:
    import numpy as np

    from loopscope.evaluation.arc_votes import Candidate
    from loopscope.tasks import PuzzleSet

ATTEMPTS = 2  # answers that ARC allows


def answer(
    network: Any, path: Path, data: str | None, segments: int, views: int | None, traced: bool
) -> PuzzleSet:
    """Answer every test input of a task file, print the answers; gives the plain version of the task."""
    from loopscope.cli import one_puzzle
    from loopscope.evaluation.arc import evaluate_arc

    vote, plain, names = one_puzzle.read_arc_puzzle(path, network, data)
    progress = options.show_progress()
    _, found = evaluate_arc(network, vote, names, segments=segments, versions=views, progress=progress)
    votes = found[segments]
    [task_id] = votes.tests
    if traced:
        _trace(network, plain, segments)
    for i, pair in enumerate(votes.tests[task_id]):
        asked = len(vote.groups.ids) if vote.groups is not None and views is None else views
        options.say(f"test input {i + 1} of {len(plain)}, {asked} versions vote", "bold")
        _candidates(plain, i, votes.candidates(task_id, i)[:ATTEMPTS])
        _verdict(votes.candidates(task_id, i), pair.output)
    return plain


def _trace(network: Any, plain: PuzzleSet, segments: int) -> None:
    from loopscope.cli import boards
    from loopscope.evaluation.solve import solve

    answers = solve(network, plain, segments=segments, trace=True)
    for i in range(len(plain)):
        options.say(f"test input {i + 1} of {len(plain)}, the version as it is", "bold")
        options.console.print(boards.trace(plain, answers, i, options.console.width))
        options.say(f"trace: {boards.trace_summary(plain, answers, i)}\n")
    options.say(boards.key(plain.task, True), "dim")


def _candidates(plain: PuzzleSet, row: int, best: list[Candidate]) -> None:
    """The best answers; below each other where they do not fit side by side."""
    from rich.columns import Columns
    from rich.text import Text

    from loopscope.cli import boards
    from loopscope.tasks.arc.board import encode_grid

    assert plain.labels is not None
    label = plain.labels[row]
    shown = []
    for i, candidate in enumerate(best, start=1):
        drawn = boards.board(plain.task, plain.inputs[row], encode_grid(candidate.grid), label=label)
        height, width = candidate.grid.shape
        votes = f"{candidate.votes} vote{'s' * (candidate.votes != 1)}"
        head = f"answer {i}: {votes}, {100 * candidate.confidence:.0f} % sure\n{height} x {width}\n"
        shown.append(Text.assemble(head, drawn, "\n"))
    options.console.print(Columns(shown, padding=(0, 4)))


def _verdict(candidates: list[Candidate], solution: np.ndarray | None) -> None:
    """One line: ARC has no rule to check, so the answer is compared with the solution of the file."""
    import numpy as np

    if not candidates:
        options.say("NO answer: no version gave a grid", "bold red")
        return
    if solution is None:
        options.say("not checked: the file has no solution, and ARC has no rule that could be checked")
        return
    ranks = [i for i, c in enumerate(candidates, start=1) if np.array_equal(c.grid, solution)]
    if ranks and ranks[0] <= ATTEMPTS:
        options.say(f"right: answer {ranks[0]} is the solution of the file", "bold green")
        return
    grid, wanted = candidates[0].grid, solution.shape
    if grid.shape == solution.shape:
        reason = f"{(grid != solution).sum()} of {solution.size} cells of answer 1 differ from the solution"
    else:
        reason = f"answer 1 is {grid.shape[0]} x {grid.shape[1]}, the solution {wanted[0]} x {wanted[1]}"
    place = f"; the solution is answer {ranks[0]} of {len(candidates)}" if ranks else ""
    options.say(f"NOT right: {reason}{place}", "bold red")
