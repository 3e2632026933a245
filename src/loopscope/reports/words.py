"""What a reader new to the subject needs to know, and counts in words; [[key|words]] points to a footnote."""

from __future__ import annotations

from loopscope.dynamics.fate import Threshold


def counted(n: int, noun: str) -> str:
    """1 failure, 2,000 failures, 3 successes"""
    return f"{n:,} {noun}" + ("" if n == 1 else "es" if noun.endswith("s") else "s")


def no_groups(cut: Threshold) -> str:
    """Why there is no meaningful cut between settled and wandering."""
    if cut.reason:
        return cut.reason
    return f"late drift does not fall into two groups (the best cut {cut.explained})"


EXPLANATION = (
    "The model holds a hidden state and applies one small network to it again and again. The unit of time "
    "is a [[segment|segment]]: one round of updates, after which the model writes down an answer. A puzzle "
    "counts as solved only if every cell is right. The outcome is read at the [[budget|training budget]], "
    "the number of segments the model was trained for; what happens later is shown as well.",
    "Each puzzle is thus one path of a state through a high-dimensional space. Four things are recorded "
    "along it: whether the answer is right; the [[drift|drift]], how far the state moves in each segment; "
    "the [[exponent|Lyapunov exponents]], how fast two states that begin close together part (above 0) or "
    "draw together (below 0); and, where asked for, what a [[restart|kick]] at the start changes.",
)
FOOTNOTES = {  # key -> (term, explanation)
    "segment": (
        "Segment",
        "One outer step of the recursion. It holds several applications of the same block.",
    ),
    "budget": ("Training budget", "Segments per puzzle in training; the dashed grey line in the figures."),
    "drift": (
        "Drift",
        "The length (Euclidean norm) of the change of z_H in one segment, of the whole state where there is "
        "no z_H. Late drift is its mean over the last four segments up to the budget. An orbit with small "
        "late drift has settled, any other wanders.",
    ),
    "exponent": (
        "Finite-time Lyapunov exponent",
        "The mean rate, over the segments stated, at which a small difference of the state grows, in nats "
        "per segment: at +1 it grows by a factor of 2.72 in each segment. The first exponent belongs to "
        "the direction that grows fastest, the second to the next one at right angles, and so on. It "
        "describes an orbit afterwards; it is not a forecast.",
    ),
    "escape": (
        "Escape rate",
        "The rate at which puzzles still unsolved become solved, per segment: after t more segments a "
        "share exp(−rate × t) is left. Puzzles unsolved at the end count as watched until then.",
    ),
    "restart": (
        "Restart",
        "A new orbit of the same puzzle from a start to which noise was added. Sigma is the size of the "
        "noise in standard deviations of the start.",
    ),
    "auc": (
        "AUC",
        "The probability that a solved puzzle, drawn at random, scores above an unsolved one. 0.5 is "
        "chance, 1 is perfect separation; ties count half.",
    ),
    "interval": (
        "Interval",
        "All intervals in square brackets are 95 % intervals over puzzles. They do not cover how the "
        "result would change with another training run.",
    ),
}
