"""What can be asked of orbits; the names below are imported on first use, so that start-up stays quick."""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOME = {
    "ageing_test": "ageing",
    "basin_entropy": "basins",
    "basin_stability": "basins",
    "best_of": "basins",
    "beta_geometric": "ageing",
    "compare_escape": "escape_compare",
    "decay_test": "decay",
    "edge_track": "edge",
    "escape_rate": "escape",
    "escape_times": "escape",
    "final_state_sensitivity": "sensitivity",
    "follow_basins": "basins",
    "hazard": "escape",
    "luby": "restart_times",
    "optimal_cutoff": "restart_times",
    "outcome_split": "basins",
    "restart_advantage": "restart_times",
    "restart_policy": "restart_times",
    "saddle_numbers": "saddle",
    "solved_within": "restart_times",
    "sprinkler": "saddle",
    "stagger_and_step": "saddle",
    "survival": "escape",
    "uncertainty_exponent": "sensitivity",
}
__all__ = list(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'loopscope.dynamics' has no attribute {name!r}")
    return getattr(import_module(f"loopscope.dynamics.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
