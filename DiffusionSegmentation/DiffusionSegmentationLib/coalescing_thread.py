"""A background thread that calls one function at a time; a newer request replaces a waiting one. Independent of Qt."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class CoalescingThread:
    def __init__(self) -> None:
        self._executor = ThreadPoolExecutor(1)
        self._calls: list[Future] = []

    @property
    def busy(self) -> bool:
        """True from `submit` until `poll` has returned the last result."""
        return bool(self._calls)

    def submit(self, function: Callable[[], Any]) -> None:
        """Call `function`, which must not raise, as soon as the running one ends. Does not block."""
        if self._calls and self._calls[-1].cancel():
            self._calls.pop()
        self._calls.append(self._executor.submit(function))

    def poll(self) -> Any:
        """Return the result of the oldest function that ended, once, or None. Does not block."""
        return self._calls.pop(0).result() if self._calls and self._calls[0].done() else None
