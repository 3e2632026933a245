"""Shared test set-up: one thread, shape checks on, the puzzles that tiny runs train on."""

from typing import Any

import pytest
import torch
from jaxtyping import install_import_hook

from shared import DEVICES

install_import_hook("loopscope", "beartype.beartype")
torch.set_num_threads(1)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    """Where numbers are compared with recorded ones: the CPU, and a GPU where there is one."""
    return request.param


@pytest.fixture(scope="session")
def puzzles() -> Any:
    from small_runs import small_puzzles  # after the hook above

    return small_puzzles()


@pytest.fixture(scope="module")
def place(tmp_path_factory: Any) -> Any:
    """A folder with a tiny random model and puzzles for it."""
    from command_line import furnish

    return furnish(tmp_path_factory.mktemp("cli"))


@pytest.fixture
def run(place: Any, monkeypatch: Any, capsys: Any) -> Any:
    """Run one command line in that folder; gives its exit code, stdout and stderr."""
    from command_line import exit_code

    monkeypatch.chdir(place)
    monkeypatch.setenv("COLUMNS", "80")
    return lambda line, *more: (exit_code(line, *more), *capsys.readouterr())
