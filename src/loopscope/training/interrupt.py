"""Ctrl-C that lets the step under way finish, so that what is saved is a whole step."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def asked_to_stop() -> Iterator[Callable[[], bool]]:
    """Within the block, Ctrl-C (or SIGTERM) only makes the yielded function return True.

    A second one acts as it did before the block. Outside the main thread, where Python delivers no
    signals, the answer is always False.
    """
    asked = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield asked.is_set
        return
    former = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def restore() -> None:
        for number, handler in former.items():
            signal.signal(number, handler)

    def on_signal(number: int, frame: FrameType | None) -> None:
        asked.set()
        restore()

    for number in former:
        signal.signal(number, on_signal)
    try:
        yield asked.is_set
    finally:
        restore()
