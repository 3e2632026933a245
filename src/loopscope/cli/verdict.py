"""What the terminal says of an answer to one puzzle: the board, whether it keeps the rules, what is wrong."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from loopscope.cli import options

if TYPE_CHECKING:
    from loopscope.tasks import PuzzleSet


def _keeps_rules(puzzles: PuzzleSet, answer: Any) -> bool:
    """Whether an answer to the only puzzle keeps the rules and the givens."""
    return bool(puzzles.task.verify(puzzles.inputs, answer[None])[0])


def print_board(puzzles: PuzzleSet, answer: Any, traced: bool) -> None:
    """The answer, and what its marks mean."""
    from loopscope.cli import boards

    style = "green" if _keeps_rules(puzzles, answer) else ""
    options.console.print(boards.board(puzzles.task, puzzles.inputs[0], answer, style=style))
    options.say(boards.key(puzzles.task, traced), "dim")


def print_verdict(puzzles: PuzzleSet, answer: Any, halt: float, more: str = "") -> None:
    """A line or two on the answer, one on the state of the model, which ends in `more`."""
    from loopscope.cli import boards
    from loopscope.tasks import Maze

    task: Any = puzzles.task
    givens = puzzles.inputs[0]
    if _keeps_rules(puzzles, answer):
        kept = (
            "a shortest path from S to G"
            if isinstance(task, Maze)
            else "every row, column and box is right and the givens are kept"
        )
        options.say(f"solved: {kept}", "bold green")
    else:
        reason = task.complaint(task.format(givens), task.format(answer)) or "answer breaks a rule"
        options.say(f"NOT solved: {reason}", "bold red")
        options.say(_counts(task, givens, answer))
    believes = "calls it right" if halt >= 0 else "does not call it right"
    options.say(f"the model {believes}: halt logit {halt:+.2f} ({boards.sure(halt)}){more}")


def _counts(task: Any, givens: Any, answer: Any) -> str:
    """How much is wrong with an answer."""
    from loopscope.tasks import Maze
    from loopscope.tasks.faults import changed_givens
    from loopscope.tasks.maze.board import PATH, WALL

    touched = changed_givens(task, givens, answer)
    if not isinstance(task, Maze):
        return f"cells in conflict: {task.conflicts(answer[None]).sum()}; givens changed: {touched.sum()}"
    found = task.check_paths(givens[None], answer[None])
    crossed = int((touched & (givens == WALL)).sum())
    marks, shortest = int((answer == PATH).sum()), int(found.shortest[0]) - 2
    way = "none" if not found.is_joined[0] else "joined, with more marks beside it"
    way = f"{found.cells[0] - 2} cells" if found.is_path[0] else way
    return (
        f"walls crossed: {crossed}; marks: {marks}\nway from S to G: {way}; the shortest has {shortest} cells"
    )
