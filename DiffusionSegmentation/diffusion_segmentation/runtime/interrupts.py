"""Ctrl+C that waits for the end of code which an exception must not leave."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """Context in which Ctrl+C does nothing; what it does elsewhere, such as KeyboardInterrupt, follows at the end.

    Yields a function that says whether it was pressed. Outside the main thread, which alone gets signals, and where
    Python does not handle them, nothing changes. An exception of the context itself comes first.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield lambda: False
        return
    pressed = threading.Event()
    signal.signal(signal.SIGINT, lambda *_: pressed.set())
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed.is_set():
        before(signal.SIGINT, None)
