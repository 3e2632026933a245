"""Many tests at once: p values that hold for all of them together."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float
from scipy import stats


def adjusted(
    p_values: Float[np.ndarray, " m"], method: Literal["holm", "fdr"] = "holm"
) -> Float[np.ndarray, " m"]:
    """p values adjusted for having tested m hypotheses.

    Args:
        p_values: NaN, a test that could not be made, stays NaN and does not count.
        method: "holm" bounds the chance of any false claim (whatever the dependence), "fdr" the expected
            share of false claims among all (Benjamini-Hochberg; independent or positively dependent tests).
    Source: Holm, Scand. J. Stat. 6 (1979) 65; Benjamini and Hochberg, J. R. Stat. Soc. B 57 (1995) 289.
    """
    found, made = np.full(len(p_values), np.nan), ~np.isnan(p_values)
    found[made] = METHODS[method](p_values[made])
    return found


def _holm(p: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    """The smallest of m is held against 1/m of the level, the next against 1/(m - 1), and so on."""
    order, left = np.argsort(p), np.arange(len(p), 0, -1)
    found = np.empty(len(p))
    found[order] = np.minimum(1, np.maximum.accumulate(left * p[order]))
    return found


def _benjamini_hochberg(p: Float[np.ndarray, " m"]) -> Float[np.ndarray, " m"]:
    return stats.false_discovery_control(p) if len(p) else p


METHODS = {"holm": _holm, "fdr": _benjamini_hochberg}
