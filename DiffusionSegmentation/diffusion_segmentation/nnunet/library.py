"""The package nnunetv2, imported when a run needs it."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from collections.abc import Iterator

from ..errors import ModelError

MISSING = (
    "This model is an nnU-Net, and the package that runs it is missing; install it with: "
    "pip install 'diffusion-segmentation[nnunet]'"
)


def require_nnunetv2() -> None:
    """Raise ModelError unless nnunetv2 is installed."""
    if not all(importlib.util.find_spec(package) for package in ("nnunetv2", "dynamic_network_architectures")):
        raise ModelError(MISSING)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Context in which nnU-Net's print goes to stderr, which is the log: the worker's stdout is for messages."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
