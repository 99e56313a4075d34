"""Packages of the extra [dicom], and silence of what they print about the values of a header."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator

from ..errors import InputError


def require_extra(what: str, *packages: str) -> None:
    """Raise InputError with the command to install if pydicom or another of `packages` is missing for `what`."""
    if not all(importlib.util.find_spec(package) for package in ("pydicom", *packages)):
        raise InputError(
            f"{what} needs further packages; install them with: pip install 'diffusion-segmentation[dicom]'"
        )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop warnings and log messages of pydicom and highdicom, which quote values such as the patient's name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loggers = [logging.getLogger(name) for name in ("pydicom", "highdicom")]
        levels = [logger.level for logger in loggers]
        for logger in loggers:  # their modules log through children, which have no level of their own
            logger.setLevel(logging.CRITICAL + 1)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
