"""The package nnunetv2, imported when a run needs it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterator

from ..errors import ModelError, shown

PACKAGES = ("nnunetv2", "dynamic-network-architectures")
REQUIREMENT = "nnunetv2>=2.5,<3"
"""That of the extra [nnunet]; pip finds it without this program, which is not on PyPI."""


def require_nnunetv2() -> None:
    """Raise ModelError unless a version of nnunetv2 that can be used is installed."""
    install = f'install it into the Python of this program with: pip install "{REQUIREMENT}"'
    if not all(importlib.util.find_spec(package.replace("-", "_")) for package in PACKAGES):
        raise ModelError(f"This model needs nnU-Net, and the package nnunetv2 that runs it is missing; {install}")
    version = importlib.metadata.version("nnunetv2")
    numbers = re.match(r"(\d+)\.(\d+)", version)
    if numbers is None or not (2, 5) <= (int(numbers[1]), int(numbers[2])) < (3, 0):
        raise ModelError(f"Version {shown(version)} of nnunetv2 cannot run this model; {install}")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Context in which nnU-Net's print goes to stderr, which is the log: the worker's stdout is for messages."""
    with contextlib.redirect_stdout(sys.stderr):
        yield
