"""Ctrl+C as an answer to a question rather than an exception, for libraries that cannot be left at any place."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Literal


@contextlib.contextmanager
def interrupted() -> Iterator[Callable[[], Literal["drop"] | None]]:
    """Context in which Ctrl+C makes the function that it yields return "drop", and raises nothing.

    nnU-Net cuts out windows in a thread that waits forever after an exception in the loop over them. Outside the main
    thread, which alone gets signals, the function always returns None.
    """
    pressed = threading.Event()
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGINT, lambda *_: pressed.set()) if is_main else None
    try:
        yield lambda: "drop" if pressed.is_set() else None
    finally:
        if is_main:
            signal.signal(signal.SIGINT, before)
