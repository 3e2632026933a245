"""Shared test set-up: one thread, shape checks on, the puzzles that tiny runs train on."""

from typing import Any

import pytest
import torch
from jaxtyping import install_import_hook

install_import_hook("loopscope", "beartype.beartype")
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def puzzles() -> Any:
    from small_runs import small_puzzles  # after the hook above

    return small_puzzles()
