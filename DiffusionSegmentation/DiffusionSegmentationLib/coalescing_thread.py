"""A background thread that runs only the latest of several pending requests, e.g. those of a moving slider. No qt."""

import threading
from collections.abc import Callable
from typing import Any


class CoalescingThread:
    """Calls submitted functions on a thread, one at a time. A newer request replaces one that has not started."""

    def __init__(self) -> None:
        self._pending: Callable[[], Any] | None = None
        self._thread: threading.Thread | None = None
        self._result: Any = None

    @property
    def busy(self) -> bool:
        """True from `submit` until `poll` has returned the result."""
        return self._pending is not None or self._thread is not None

    def submit(self, function: Callable[[], Any]) -> None:
        """Call `function`, which must not raise, as soon as the running one ends. Does not block."""
        self._pending = function
        if self._thread is None:
            self._start()

    def poll(self) -> Any:
        """Return the result of a function that ended since the last call, or None. Does not block."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread, result = None, self._result
        if self._pending is not None:
            self._start()
        return result

    def _start(self) -> None:
        function, self._pending = self._pending, None
        self._thread = threading.Thread(target=self._call, args=(function,), daemon=True)
        self._thread.start()

    def _call(self, function: Callable[[], Any]) -> None:
        self._result = function()
