"""Work for a thread of which only the last matters, such as what follows a slider. No qt."""

import threading
from collections.abc import Callable
from typing import Any


class Latest:
    """Calls functions on a thread, one at a time; of those that wait only the last is called. Nothing here waits."""

    def __init__(self) -> None:
        self._next: Callable[[], Any] | None = None
        self._thread: threading.Thread | None = None
        self._answer: Any = None

    @property
    def busy(self) -> bool:
        """True from `ask` until `poll` has returned the answer."""
        return self._next is not None or self._thread is not None

    def ask(self, function: Callable[[], Any]) -> None:
        """Call `function`, which must not raise, as soon as the one before it is done."""
        self._next = function
        if self._thread is None:
            self._begin()

    def poll(self) -> Any:
        """What a function has returned since the last time; None while there is nothing."""
        if self._thread is None or self._thread.is_alive():
            return None
        self._thread, answer = None, self._answer
        if self._next is not None:
            self._begin()
        return answer

    def _begin(self) -> None:
        function, self._next = self._next, None
        self._thread = threading.Thread(target=self._call, args=(function,), daemon=True)
        self._thread.start()

    def _call(self, function: Callable[[], Any]) -> None:
        self._answer = function()
