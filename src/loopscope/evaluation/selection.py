"""Which of several rollouts of a puzzle answers. None of the rules looks at labels.

"verified" asks the rules of the puzzle, which is more than the network knows: report it apart.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

RULES = ("halt", "residual", "logit_change", "majority", "verified")
WORST = -1e30  # stands for a halt logit that is NaN


def choose(
    rule: str,
    answers: UInt8[np.ndarray, "N K L"],
    halt: Float[np.ndarray, "N K"],
    residual: Float[np.ndarray, "N K"],
    logit_change: Float[np.ndarray, "N K"],
    passed: Bool[np.ndarray, "N K"],
) -> Int[np.ndarray, " N"]:
    """The rollout that answers, per puzzle; the first of equals, and NaN only where nothing else is.

    Args:
        rule: highest "halt" logit, smallest late "residual" or "logit_change", "majority" of whole answers
            (ties by mean halt logit), or the first "verified" (where none is, by halt logit).
        answers: of every rollout.
        halt: halt logits at the end.
        residual: late relative change of the latent.
        logit_change: late change of the logits.
        passed: whether an answer keeps the rules.
    """
    halt = np.nan_to_num(halt, nan=WORST)
    if rule in ("residual", "logit_change"):
        motion = residual if rule == "residual" else logit_change
        return np.nan_to_num(motion, nan=-WORST).argmin(1)
    if rule == "verified":
        return np.where(passed.any(1), passed.argmax(1), halt.argmax(1))
    if rule == "majority":
        return majority(answers, halt)
    assert rule == "halt", rule
    return halt.argmax(1)


def majority(answers: UInt8[np.ndarray, "N K L"], halt: Float[np.ndarray, "N K"]) -> Int[np.ndarray, " N"]:
    """The first rollout with the most frequent whole answer; ties by the mean halt logit of its voters."""
    whole = np.unique(answers.reshape(-1, answers.shape[-1]), axis=0, return_inverse=True)[1]
    whole = whole.reshape(halt.shape)  # a number for each different answer
    same = whole[:, :, None] == whole[:, None]
    votes = same.sum(-1)
    mean = np.where(same, halt[:, None], 0.0).sum(-1) / votes
    return np.where(votes == votes.max(1, keepdims=True), mean, -np.inf).argmax(1)
