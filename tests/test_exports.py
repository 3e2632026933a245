"""Names that are imported on first use mean the same before and after their modules are imported."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import pytest

import loopscope
import loopscope.dynamics


@pytest.mark.parametrize("package", [loopscope, loopscope.dynamics], ids=lambda p: p.__name__)
def test_a_name_is_no_submodule(package: ModuleType) -> None:
    for name in package.__all__:
        module = import_module(f"{package.__name__}.{package._HOME[name]}")
        assert getattr(package, name) is getattr(module, name), name
        assert not isinstance(getattr(package, name), ModuleType), name
