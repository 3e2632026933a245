"""Maps whose exponents, escape rates and success probabilities are known exactly.

They keep the same interface as the networks and run through the same code: that is how the estimators
are verified.
"""

from loopscope.dynamics.toys.maps import (
    CatMap,
    Henon,
    LinearMap,
    Logistic,
    LogisticRing,
    Lorenz,
    Map,
    MatrixProduct,
    TanhNet,
    ToyReadout,
)
from loopscope.dynamics.toys.open_maps import double, first_exit, tent
from loopscope.dynamics.toys.search import (
    AUC_16,
    CAPTURE,
    Search,
    ToyPuzzle,
    TransientChaos,
    capture_probability,
    exact_escape_rate,
    exact_toy,
    first_solved,
    mean_capture_probability,
    run_toy,
    search_mass,
    toy_checks,
    toy_puzzles,
)

__all__ = [
    "AUC_16",
    "CAPTURE",
    "CatMap",
    "Henon",
    "LinearMap",
    "Logistic",
    "LogisticRing",
    "Lorenz",
    "Map",
    "MatrixProduct",
    "Search",
    "TanhNet",
    "ToyPuzzle",
    "ToyReadout",
    "TransientChaos",
    "capture_probability",
    "double",
    "exact_escape_rate",
    "exact_toy",
    "first_exit",
    "first_solved",
    "mean_capture_probability",
    "run_toy",
    "search_mass",
    "tent",
    "toy_checks",
    "toy_puzzles",
]
