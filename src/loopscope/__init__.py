"""loopscope: a laboratory for recursive reasoning models.

The names below are the whole top namespace; they are imported on first use, so that the command line
starts quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from loopscope.config import ModelSettings, load_recipe
    from loopscope.dynamics.lyapunov import lyapunov_spectrum
    from loopscope.dynamics.measure import measure, open_measurement
    from loopscope.errors import UserError
    from loopscope.evaluation.evaluate import evaluate
    from loopscope.evaluation.solve import solve
    from loopscope.models import build_model
    from loopscope.models.load import load
    from loopscope.reports.html import report
    from loopscope.tasks.base import Batch
    from loopscope.tasks.storage.csv_puzzles import write_puzzles
    from loopscope.tasks.storage.read import read_puzzles
    from loopscope.training.run import train

_HOME = {
    "Batch": "tasks.base",
    "ModelSettings": "config",
    "UserError": "errors",
    "build_model": "models",
    "evaluate": "evaluation.evaluate",
    "load": "models.load",
    "load_recipe": "config",
    "lyapunov_spectrum": "dynamics.lyapunov",
    "measure": "dynamics.measure",
    "open_measurement": "dynamics.measure",
    "read_puzzles": "tasks.storage.read",
    "report": "reports.html",
    "solve": "evaluation.solve",
    "train": "training.run",
    "write_puzzles": "tasks.storage.csv_puzzles",
}
__all__ = [
    "Batch",
    "ModelSettings",
    "UserError",
    "build_model",
    "evaluate",
    "load",
    "load_recipe",
    "lyapunov_spectrum",
    "measure",
    "open_measurement",
    "read_puzzles",
    "report",
    "solve",
    "train",
    "write_puzzles",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'loopscope' has no attribute {name!r}")
    return getattr(import_module(f"loopscope.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
