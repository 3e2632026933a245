"""`loopscope solve --budget`: the answer as it gets better, until the budget is spent or Ctrl-C.

A line for every change of the answer, so that a person sees what the next seconds buy.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from loopscope.cli import options

if TYPE_CHECKING:
    from loopscope.evaluation.anytime import Moment
    from loopscope.tasks import PuzzleSet


def answer(network: Any, puzzles: PuzzleSet, how: dict[str, Any]) -> None:
    """Spend the budget on one puzzle: a line for every change, then board and verdict.

    Args:
        network: the model.
        puzzles: a set of one.
        how: arguments of `anytime.moments`.
    """
    from loopscope.cli import boards, verdict
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
    verdict.print_board(puzzles, last.tokens[0], traced=False)
    verdict.print_verdict(puzzles, last.tokens[0], float(last.halt_logit[0]))
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
