"""Folders outside of the package, and names of files for ITK. Standard library only: Slicer's process imports it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

MODELS_VARIABLE = "DIFFUSION_SEGMENTATION_MODELS"


def user_models() -> Path:
    """The folder of the models that `models add` installs: MODELS_VARIABLE, or a folder in the user's home."""
    return Path(os.environ.get(MODELS_VARIABLE) or Path.home() / ".diffusion-segmentation" / "models")


def itk_name(path: Path) -> str:
    """The name by which ITK can open a file.

    On Windows ITK decodes names in the ANSI code page. Other names than ASCII are replaced by their short
    names (PROGRA~1), where the disk has them.
    """
    if sys.platform != "win32" or str(path).isascii():
        return str(path)
    import ctypes

    short = ctypes.create_unicode_buffer(32_768)
    return short.value if ctypes.windll.kernel32.GetShortPathNameW(str(path), short, len(short)) else str(path)
