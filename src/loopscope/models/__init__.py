"""Recursive reasoning models: one recursion body, several architectures."""

from loopscope.models import equivariant as _equivariant  # noqa: F401  (each import registers an architecture)
from loopscope.models import hrm as _hrm  # noqa: F401
from loopscope.models import transformer as _transformer  # noqa: F401
from loopscope.models import trm as _trm  # noqa: F401
from loopscope.models.recursion import (
    ARCHITECTURES,
    HL,
    Context,
    Readout,
    RecursiveModel,
    build_model,
)

__all__ = ["ARCHITECTURES", "HL", "Context", "Readout", "RecursiveModel", "build_model"]
