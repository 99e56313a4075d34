"""In-memory cache of the model that was used last."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from ..runtime.devices import empty_cache
from .folder import METADATA, Model, find, load


class ModelCache:
    """Keeps the last model in memory, because loading takes longer than one pass of its networks."""

    def __init__(self) -> None:
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

    def clear(self) -> None:
        """Drop the model and release its memory."""
        self._loaded = None
        empty_cache(self._device)
