"""What can be asked of orbits; the names below are imported on first use, so that start-up stays quick."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "ablated": "interventions",
    "ageing_test": "ageing",
    "basin_entropy": "basins",
    "basin_stability": "basins",
    "best_of": "basins",
    "beta_geometric": "ageing",
    "compare_escape": "escape_compare",
    "covariant_vectors": "covariant",
    "damped": "interventions",
    "decay_test": "decay",
    "edge_track": "edge",
    "entropy_bound": "exponents",
    "escape_rate": "escape",
    "escape_times": "escape",
    "estimate_period": "recurrence",
    "exponent_error": "exponents",
    "final_state_sensitivity": "sensitivity",
    "finite_growth": "local_growth",
    "follow_basins": "basins",
    "frozen": "interventions",
    "hazard": "escape",
    "judged": "judging",
    "kaplan_yorke_dimension": "exponents",
    "kick": "restarts",
    "kicked_at": "interventions",
    "late_states": "recurrence",
    "luby": "restart_times",
    "lyapunov_spectrum": "lyapunov",
    "measure_cost": "cost",
    "noisy": "interventions",
    "optimal_cutoff": "restart_times",
    "outcome_split": "basins",
    "participation_ratio": "projection",
    "per_application": "exponents",
    "principal_components": "projection",
    "restart_advantage": "restart_times",
    "restart_policy": "restart_times",
    "running_exponents": "exponents",
    "saddle_numbers": "saddle",
    "solved_within": "restart_times",
    "sprinkler": "saddle",
    "stagger_and_step": "saddle",
    "started_at": "interventions",
    "state_after": "recurrence",
    "survival": "escape",
    "swapped": "interventions",
    "two_trajectory_exponent": "local_growth",
    "uncertainty_exponent": "sensitivity",
    "window_exponents": "exponents",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'loopscope.dynamics' has no attribute {name!r}")
    return getattr(import_module(f"loopscope.dynamics.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
