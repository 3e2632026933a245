"""`loopscope solve --budget`: the answer as it gets better, until the budget is spent or Ctrl-C.

A line for every change of the answer, so that a person sees what the next seconds buy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from loopscope.cli import options
from loopscope.errors import UserError

if TYPE_CHECKING:
    from loopscope.evaluation.anytime import Moment
    from loopscope.tasks import PuzzleSet

PLAIN: dict[str, Any] = {
    "policy": "deepen",
    "cutoff": 16,
    "segments": 16,
    "restarts": 1,
    "views": None,
    "stop": "budget",
}
PLAIN |= {"select": "halt", "trace": False, "gif": None}
REFUSED = ("segments", "restarts", "views", "stop", "select", "trace", "gif")
UNITS = {"s": 1.0, "min": 60.0}


def parse_budget(text: str) -> dict[str, Any]:
    """`10s` and `2min` are seconds, a whole number is block applications.

    Raises:
        UserError: neither.
    """
    for unit, size in UNITS.items():
        if text.endswith(unit):
            number = _number(text.removesuffix(unit))
            if 0 < number < math.inf:
                return {"seconds": number * size}
    if text.isascii() and text.isdecimal() and int(text):
        return {"budget": int(text)}
    raise UserError(f"--budget {text}: expected a time as 10s or 2min, or a number of block applications.")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def budget_of(
    text: str | None, spending: Mapping[str, Any], turned: Mapping[str, Any], is_arc: bool
) -> dict[str, Any]:
    """The budget as an argument of `moments`, nothing where there is none.

    Args:
        text: `--budget`.
        spending: `--policy` and `--cutoff`.
        turned: options that have no place beside a budget, and some that have.
        is_arc: whether the puzzle is an ARC task, whose answers are a vote.
    Raises:
        UserError: what does not go together.
    """
    from loopscope.evaluation.anytime import POLICIES

    if text is None:
        for key, value in spending.items():
            if value != PLAIN[key]:
                raise UserError(f"--{key} {value}: says how a budget is spent. Add --budget 10s.")
        return {}
    if is_arc:
        raise UserError(f"--budget {text}: ARC answers are chosen by vote over versions. Leave it out.")
    if spending["policy"] not in POLICIES:
        raise UserError(f"--policy {spending['policy']}: unknown. Choose one of {', '.join(POLICIES)}.")
    for key in REFUSED:
        if turned[key] != PLAIN[key]:
            given = f"--{key}" if turned[key] is True else f"--{key} {turned[key]}"
            raise UserError(f"{given}: no use beside --budget, which is spent by --policy. Leave one out.")
    return parse_budget(text)


def answer(network: Any, puzzles: PuzzleSet, how: dict[str, Any]) -> None:
    """Spend the budget on one puzzle: a line for every change, then board and verdict.

    Args:
        network: the model.
        puzzles: a set of one.
        how: arguments of `anytime.moments`.
    """
    from loopscope.cli import boards
    from loopscope.cli.solve import print_board, print_verdict
    from loopscope.evaluation.anytime import moments
    from loopscope.tasks.faults import broken_cells

    options.say(f"{'applications':>12} {'seconds':>8} {'orbit':>6} {'sure':>6} {'wrong':>6}", "bold")
    last = None
    try:
        for last in _changes(moments(network, puzzles, **how)):
            halt, tokens = float(last.halt_logit[0]), last.tokens[0]
            faults = int(broken_cells(puzzles.task, puzzles.inputs[0], tokens, None).sum())
            believed = boards.sure(halt).removesuffix(" sure")
            options.say(
                f"{last.spent:12,} {last.seconds:8.2f} {last.rollout[0] + 1:6} {believed:>6} {faults:6}"
            )
    except KeyboardInterrupt:
        options.say("interrupted; the answer so far:")
    if last is None:
        return
    print_board(puzzles, last.tokens[0], traced=False)
    print_verdict(puzzles, last.tokens[0], float(last.halt_logit[0]))
    policy, spent = how["policy"], f"{last.spent:,} block applications, {last.seconds:.2g} s"
    options.say(f"orbit {last.rollout[0] + 1}, policy {policy}; {spent}", "dim")


def _changes(every: Iterator[Moment]) -> Iterator[Moment]:
    """The moments at which the answer is another one than before, and the last one."""
    shown = moment = None
    for moment in every:
        if shown is None or (moment.tokens != shown.tokens).any():
            shown = moment
            yield moment
    if moment is not None and moment is not shown:
        yield moment
