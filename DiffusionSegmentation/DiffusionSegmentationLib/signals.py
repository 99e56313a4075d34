"""A signal in plain Python: PythonQt cannot define Qt signals, and some callers run without Qt."""

from collections.abc import Callable
from typing import Any


class Signal:
    """Calls all connected functions in the order of connection, on the emitting thread."""

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
