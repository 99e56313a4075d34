"""The error of a foreign model that cannot be used."""

from __future__ import annotations

from pathlib import Path

from ..errors import ModelError
from .metadata import folder_name


class Refusal(Exception):
    """Why a foreign model cannot be used: the rest of a sentence that begins with its name."""

    def for_model(self, what: str, path: Path) -> ModelError:
        """The error for the model in the folder or file `path`; `what` it is, such as "The nnU-Net"."""
        return ModelError(f"{what} in '{folder_name(path)}' {self}.")
