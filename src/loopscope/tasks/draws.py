"""Random whole numbers inside numba loops, from a 64-bit state that the caller seeds.

The generator is splitmix64 (Steele, Lea and Flood, OOPSLA 2014): the same bytes on every machine, and cheap
enough to start anew for every row. Importing this module loads numba.
"""

from __future__ import annotations

from typing import no_type_check

import numpy as np
from numba import njit


@njit(cache=True)
@no_type_check
def next_below(stream, bound):
    """A uniform integer in [0, bound); advances the splitmix64 state in `stream[0]`."""
    stream[0] += np.uint64(0x9E3779B97F4A7C15)
    z = stream[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    # High 32 bits times bound: the bias is below bound / 2^32.
    return np.int64(((z >> np.uint64(32)) * np.uint64(bound)) >> np.uint64(32))


@njit(cache=True)
@no_type_check
def shuffle(items, start, stop, stream):
    """Fisher-Yates on items[start:stop], in place."""
    for i in range(stop - 1, start, -1):
        j = start + next_below(stream, i - start + 1)
        items[i], items[j] = items[j], items[i]
