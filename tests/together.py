"""Several processes on one machine that train together, as torchrun would start them, but sooner.

They are forked from a server that has imported everything once. The store through which they find one
another is made here, on a port that the system chooses.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.distributed import TCPStore

from loopscope.training import distributed

PROCESSES = multiprocessing.get_context("forkserver")
# The server does not see the folder of the tests, so it is told what these import.
PROCESSES.set_forkserver_preload(
    ["pytest", "torch._dynamo", "loopscope.training", "loopscope.tasks.sudoku.generate"]
)


def start(num: int, work: Callable[..., None], *args: Any, said: Path | None = None) -> list[Any]:
    """Start `work(*args)` in `num` processes; what they print to stderr is appended to the file `said`."""
    store = TCPStore("127.0.0.1", 0, num, is_master=True, wait_for_workers=False)
    common = {"WORLD_SIZE": num, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port}
    made = []
    for rank in range(num):
        place = {**common, "RANK": rank, "LOCAL_RANK": rank, "TORCHELASTIC_USE_AGENT_STORE": True}
        process = PROCESSES.Process(target=_work, args=(place, said, work, *args))
        process.start()
        process.store = store  # lives as long as they
        made.append(process)
    return made


def _work(place: dict[str, Any], said: Path | None, work: Callable[..., None], *args: Any) -> None:
    os.environ.update({key: str(value) for key, value in place.items()})
    torch.set_num_threads(1)
    if said is not None:
        file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(file, sys.stderr.fileno())
    with distributed.processes():
        work(*args)


def finish(processes: list[Any]) -> list[int]:
    """Wait for all; their exit codes."""
    for process in processes:
        process.join(120)
        assert process.exitcode is not None, "hangs"
    return [process.exitcode for process in processes]


def together(num: int, work: Callable[..., None], *args: Any) -> None:
    """Run `work(*args)` in `num` processes to a good end."""
    assert finish(start(num, work, *args)) == [0] * num
