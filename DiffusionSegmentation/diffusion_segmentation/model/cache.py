"""In-memory cache of the model that was used last."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TypeVar

import torch

from ..runtime.devices import empty_cache
from .folder import METADATA, Model, find, load

Encoded = TypeVar("Encoded")


class ModelCache:
    """Keeps the last model in memory, because loading takes longer than one pass of its networks.

    It also keeps the last volume that its encoder has seen, for an update of that result.
    """

    def __init__(self) -> None:
        self._encoded: tuple[Hashable, object] | None = None
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
            self._encoded = None  # its memory is for the next one
            self._encoded = key, encode()
        return self._encoded[1]  # type: ignore[return-value]  # one type for each key

    def forget_encoded(self) -> None:
        """Drop the encoded volume."""
        self._encoded = None

    def clear(self) -> None:
        """Drop the model and the encoded volume, and release their memory."""
        self._loaded = self._encoded = None
        empty_cache(self._device)
