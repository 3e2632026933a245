"""`--budget` of `solve` and `eval`: what it says, and what it does not go together with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from loopscope.errors import UserError

PLAIN: dict[str, tuple[Any, ...]] = {  # what options say that were not turned, in solve and in eval
    "segments": (None,),
    "restarts": (1,),
    "views": (None, 1),
    "ensemble": (None,),
    "stop": ("budget",),
    "select": ("halt",),
    "sweep": (None,),
    "trace": (False,),
    "gif": (None,),
    "policy": ("deepen",),
    "cutoff": (16,),
}
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


def budget_of(text: str | None, spending: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """The budget as an argument of `moments`, nothing where there is none.

    Args:
        text: `--budget`.
        spending: `--policy` and `--cutoff`.
        others: options that have no place beside a budget.
    Raises:
        UserError: what does not go together.
    """
    from loopscope.evaluation.anytime import POLICIES

    if text is None:
        for key, value in spending.items():
            if value not in PLAIN[key]:
                raise UserError(f"--{key} {value}: has no effect without --budget. Add --budget 10s.")
        return {}
    if spending["policy"] not in POLICIES:
        raise UserError(f"--policy {spending['policy']}: unknown. Choose one of {', '.join(POLICIES)}.")
    for key, value in others.items():
        if value not in PLAIN[key]:
            shown = value[0] if isinstance(value, list) else value
            given = f"--{key}" if value is True else f"--{key} {shown}"
            raise UserError(f"{given}: cannot be combined with --budget. Leave one out.")
    return parse_budget(text)


def refuse_arc(text: str | None) -> None:
    """Refuse a budget for ARC.

    Raises:
        UserError: there is one.
    """
    if text is not None:
        raise UserError(f"--budget {text}: ARC answers are chosen by vote over versions. Leave it out.")
