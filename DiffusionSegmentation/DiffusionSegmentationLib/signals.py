"""A signal in plain Python, because PythonQt cannot define Qt signals and half of the callers have no Qt at all."""

from collections.abc import Callable
from typing import Any


class Signal:
    """Calls every connected function, in the order of connection, on the thread that emits."""

    def __init__(self) -> None:
        self._slots: list[Callable[..., Any]] = []

    def connect(self, slot: Callable[..., Any]) -> None:
        self._slots.append(slot)

    def disconnect(self, slot: Callable[..., Any]) -> None:
        """Raises ValueError if `slot` is not connected."""
        self._slots.remove(slot)

    def emit(self, *arguments: Any) -> None:
        for slot in tuple(self._slots):  # a slot may disconnect itself
            slot(*arguments)
