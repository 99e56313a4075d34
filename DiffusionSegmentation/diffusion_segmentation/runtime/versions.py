"""The versions that decide what comes out of a run."""

from __future__ import annotations

import contextlib
import importlib.metadata
import platform

from .. import __version__


def versions() -> dict[str, str]:
    """Return the versions of this program, Python and the packages below it; absent ones are left out."""
    found = {"diffusion_segmentation": __version__, "python": platform.python_version()}
    for package in ("torch", "monai", "numpy", "SimpleITK"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found
