"""The error of an nnU-Net that cannot be used."""

from __future__ import annotations

from pathlib import Path

from ..errors import ModelError
from ..model.metadata import folder_name


class Refusal(Exception):
    """Why an nnU-Net cannot be used: the rest of a sentence that begins with its name."""

    def for_folder(self, folder: Path) -> ModelError:
        """The error for the nnU-Net in `folder`."""
        return ModelError(f"The nnU-Net in '{folder_name(folder)}' {self}.")
