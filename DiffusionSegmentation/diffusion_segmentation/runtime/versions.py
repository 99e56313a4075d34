"""Versions of the software that a result depends on."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform

from .. import __version__


def versions() -> dict[str, str]:
    """Versions of this package, Python and the main dependencies that are installed."""
    result = {"diffusion_segmentation": __version__, "python": platform.python_version()}
    for package in ("torch", "monai", "numpy", "SimpleITK"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            result[package] = importlib.metadata.version(package)
    return result
