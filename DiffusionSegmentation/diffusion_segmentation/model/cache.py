"""In-memory cache of the model that was used last."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

import torch

from ..runtime.devices import empty_cache
from .folder import METADATA, Model, find, load

Encoded = TypeVar("Encoded")


class ModelCache:
    """Keeps the last model in memory, because loading takes longer than one pass of its networks.

    It also keeps the last volume that its encoder has seen, and maps of the result, for an update of it.
    """

    def __init__(self, for_updates: bool = True) -> None:
        """Without `for_updates` no noise and no maps are kept."""
        self.for_updates = for_updates
        self._encoded: tuple[Hashable, object] | None = None
        self.maps: dict[str, Any] = {}  # of its result on the grid of the input
        self._loaded: tuple[tuple[Path, str, float], Model] | None = None
        self._device = torch.device("cpu")

    def get(self, name: str, device: torch.device) -> Model:
        """Model with this name or path on `device`, loaded again if its files changed. Raises ModelError."""
        folder = find(name).resolve()
        try:
            modified = (folder / METADATA).stat().st_mtime
        except OSError:  # it was removed since `find`; `load` raises the error
            modified = math.nan
        key = folder, str(device), modified
        if self._loaded is None or self._loaded[0] != key:
            self.clear()
            self._device = device
            self._loaded = key, load(folder).to(device)
        return self._loaded[1]

    def encoded(self, key: Hashable, encode: Callable[[], Encoded]) -> Encoded:
        """What `encode` returned when it was last called, if it was for the same `key`; otherwise calls it."""
        if self._encoded is None or self._encoded[0] != key:
            self.forget_encoded()  # its memory is for the next one, whose maps are others
            self._encoded = key, encode()
        return self._encoded[1]  # type: ignore[return-value]  # one type for each key

    def forget_encoded(self) -> None:
        """Drop the encoded volume and the maps of its result."""
        self._encoded = None
        self.maps.clear()

    def clear(self) -> None:
        """Drop the model and the encoded volume, and release their memory."""
        # Before the first model there is nothing to search for, which takes 0.15 s, unless one that could not be loaded
        # has left memory on a GPU.
        empty = self._loaded is None and self._device.type == "cpu"
        self.forget_encoded()
        self._loaded = None
        if not empty:
            empty_cache(self._device)
