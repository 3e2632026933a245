"""Published numbers under the names of `outcome_statistics`, to stand beside measured ones.

Source: "Recursive Reasoning Models Fail by Wandering, Not by Settling" and its public notebook; two trained
checkpoints, Sudoku-Extreme, 16 segments. They compare with a measurement only on the same puzzles and
weights, and exponents only within one estimator.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

SUB_UPDATES = 21  # of a TRM segment; the published HRM count (4) does not match its schedule (6)
PER_SUB_UPDATE = "nats per sub-update, not convertible"


@dataclass(frozen=True)
class Published:
    """A number that others reported.

    Attributes:
        model: "HRM" (27M parameters) or "TRM-MLP" (5M).
        value, low, high: number and interval as printed; NaN ends where none was.
        n: puzzles; 0 where not stated.
        note: what must be known to compare it.
    """

    model: str
    value: float
    low: float = math.nan
    high: float = math.nan
    n: int = 0
    note: str = ""


def _hrm(
    value: float, low: float = math.nan, high: float = math.nan, n: int = 0, note: str = ""
) -> Published:
    return Published("HRM", value, low, high, n, note)


def _trm(
    value: float, low: float = math.nan, high: float = math.nan, n: int = 0, note: str = ""
) -> Published:
    return Published("TRM-MLP", value, low, high, n, note)


def _per_segment(value: float, low: float, high: float) -> Published:
    # the value was printed with fewer digits than its interval and may lie outside
    note = f"printed as {value:+g} [{low:+g}, {high:+g}] per sub-update, times {SUB_UPDATES}"
    value, low, high = (round(SUB_UPDATES * number, 4) for number in (value, low, high))
    return _trm(value, low, high, 2048, note)


BOTH = "range over deciles of HRM and TRM-MLP together, no interval"
INVERTED = "printed as .69 for much motion"
CHANCE = "printed as about .5"
CELLS = {  # cell -> share of HRM (strict band) and of TRM-MLP (Otsu)
    "settled correct": (3665 / 8192, 1724 / 2048),
    "settled wrong": (21 / 8192, 0.0),
    "wandering correct": (633 / 8192, 70 / 2048),
    "wandering wrong": (3873 / 8192, 254 / 2048),
}
BY_CELL = {  # HRM medians by cell, in the order of CELLS
    "median share of cells right": (1.0, 0.617, 1.0, 0.630),
    "median first halt": (4.0, 6.0, 10.0, math.inf),
    "median halt logit": (7.47, 7.47, 7.47, -9.62),
    "median givens": (26.0, 25.0, 25.0, 25.0),
    "drift still falling": (0.20, 0.48, 0.44, 0.46),
}
PUBLISHED: dict[str, tuple[Published, ...]] = {
    "solved": (_hrm(0.526), _trm(0.876, n=2048)),
    "failures that settled": (_hrm(0.0055, 0.0033, 0.0078, n=3894), _trm(0.0, 0.0, 0.0117, n=254)),
    "successes stiller than every failure": (_trm(0.965),),
    "AUC, low exponent": (_hrm(0.984, 0.9815, 0.9865, n=8192), _trm(0.9935, 0.9908, 0.9957, n=2048)),
    "AUC, low exponent, matched on late drift, wandering": (
        Published("HRM and TRM-MLP", 0.89, 0.88, 0.90, note=BOTH),
    ),
    "AUC, low exponent, within givens": (_hrm(0.982, note="model not named; overall value .984 is HRM's"),),
    "AUC, low drift, unsolved at 4": (_hrm(0.31, note=INVERTED), _trm(0.5, note=CHANCE)),
    "AUC, low exponent, unsolved at 4": (_trm(0.5, note=CHANCE),),
    "AUC, high halt logit, unsolved at 4": (_trm(0.5, note=CHANCE),),
    "median exponent 1, correct": (
        _hrm(-0.152, n=2048, note=PER_SUB_UPDATE),
        _per_segment(0.012, 0.0112, 0.0117),
    ),
    "median exponent 1, wrong": (
        _hrm(0.032, n=2048, note=PER_SUB_UPDATE),
        _per_segment(0.103, 0.101, 0.1056),
    ),
}
PUBLISHED |= {
    cell: (_hrm(hrm, n=8192, note="strict band"), _trm(trm, n=2048)) for cell, (hrm, trm) in CELLS.items()
}
PUBLISHED |= {
    f"{name}, {cell}": (_hrm(value),)
    for name, values in BY_CELL.items()
    for cell, value in zip(CELLS, values, strict=True)
}
