"""Folders outside of the package. Standard library only, because Slicer's process imports it, too."""

from __future__ import annotations

import os
from pathlib import Path

MODELS_VARIABLE = "DIFFUSION_SEGMENTATION_MODELS"


def user_models() -> Path:
    """The folder of the models that `models add` installs: MODELS_VARIABLE, or a folder in the user's home."""
    return Path(os.environ.get(MODELS_VARIABLE) or Path.home() / ".diffusion-segmentation" / "models")
