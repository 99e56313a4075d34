"""The last model that was used, kept in memory."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from . import folder as models_module
from .folder import Model


class ModelCache:
    """Keeps the last model in memory, because reading it takes longer than a pass of it."""

    def __init__(self) -> None:
        self._key: tuple[Path, str, float] | None = None
        self._model: Model | None = None

    def get(self, name: str, device: torch.device) -> Model:
        """The model of this name or folder on this device. Raises ModelError."""
        folder = models_module.find(name).resolve()
        try:
            written = (folder / models_module.METADATA).stat().st_mtime
        except OSError:  # it has just gone; `load` says so
            written = math.nan
        key = folder, str(device), written
        if key != self._key:
            self.clear()
            self._model = models_module.load(folder).to(device)
            self._key = key
        return self._model

    def clear(self) -> None:
        """Forget the model and give its memory back."""
        self._key = self._model = None
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
