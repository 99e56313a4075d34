"""Versions of the software that a result depends on."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform

from .. import __version__


def versions(*others: str) -> dict[str, str]:
    """Versions of this package, Python, the main dependencies and `others`, as far as they are installed."""
    result = {"diffusion_segmentation": __version__, "python": platform.python_version()}
    for package in ("torch", "monai", "numpy", "SimpleITK", *others):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            result[package] = importlib.metadata.version(package)
    return result
