"""Errors with one plain sentence for the user and a kind for programs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

KINDS = ("memory", "geometry", "model", "input", "internal")

DEBUG_VARIABLE = "DIFFUSION_SEGMENTATION_DEBUG"


class DiffusionSegmentationError(Exception):
    """Base of all explained errors. `str(error)` is one plain sentence: what is wrong and what to do.

    `try_device` is a device on which the same run could succeed, or None.
    """

    kind = "internal"
    try_device: str | None = None


class InputError(DiffusionSegmentationError):
    """The volume or a request cannot be used: missing, unreadable, colour, 4-D, NaN, constant, wrong argument."""

    kind = "input"


class GeometryError(DiffusionSegmentationError):
    """Size, spacing or field of view of the volume does not suit the model."""

    kind = "geometry"


class ModelError(DiffusionSegmentationError):
    """A model folder is missing, incomplete, altered or of another schema."""

    kind = "model"


class OutOfMemoryError(DiffusionSegmentationError):
    """The memory of the device or of the computer is exhausted."""

    kind = "memory"

    def __init__(self, sentence: str, try_device: str | None = None) -> None:
        super().__init__(sentence)
        self.try_device = try_device


class GpuError(DiffusionSegmentationError):
    """A GPU cannot perform an operation."""

    try_device = "cpu"


class DeviceLostError(GpuError):
    """A GPU no longer responds, as after a reset of its driver; this process cannot use it again."""


class Cancelled(Exception):
    """The user cancelled the run."""


def debug_enabled() -> bool:
    """Whether the environment asks for the traceback of an error besides its sentence."""
    return os.environ.get(DEBUG_VARIABLE, "0") not in ("", "0")


def shown(name: str) -> str:
    """A file name for a message: printable, at most 100 characters."""
    name = "".join(c if c.isprintable() else "?" for c in name)
    return name if len(name) <= 100 else f"{name[:100]} ..."


def explain(error: BaseException) -> tuple[str, str]:
    """(kind, one plain sentence) for any exception, including those of libraries.

    Needs no library: torch's out-of-memory errors are recognised by class name and text.
    """
    if isinstance(error, DiffusionSegmentationError):
        return error.kind, str(error)
    if is_out_of_memory(error):
        return "memory", "The memory did not suffice; close other programs, choose another device, or crop the volume."
    return "internal", _sentence(error)


def _sentence(error: BaseException) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "The disk is full; free some space or choose another folder."
    if isinstance(error, OSError) and error.filename:
        name = os.path.basename(os.fspath(error.filename)) or os.fspath(error.filename)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return f"'{name}' cannot be read or written: there is no permission; choose another folder."
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            path = Path(os.path.abspath(os.fsdecode(error.filename)))
            name = next((one.name for one in (path, *path.parents) if os.path.isfile(one)), name)
            return f"'{name}' is a file, not a folder; choose another name."
        if error.errno == errno.ENAMETOOLONG:
            return f"'{name[:60]} ...' is too long a name; choose a shorter one."
    if isinstance(error, ModuleNotFoundError):
        return f"The Python package '{error.name}' is missing; install it and try again."
    text = " ".join(str(error).split()) or "no further description"
    if len(text) > 300:
        text = f"{text[:300]} ..."
    return f"An unexpected problem occurred ({type(error).__name__}: {text})."


def is_out_of_memory(error: BaseException) -> bool:
    """True for MemoryError, torch's OutOfMemoryError, and RuntimeErrors of allocators and CUDA libraries."""
    if isinstance(error, (MemoryError, OutOfMemoryError)) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _OUT_OF_MEMORY_PHRASES)


_OUT_OF_MEMORY_PHRASES = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "failed to allocate memory",
    "bad_alloc",
    "status_alloc_failed",
    # cuBLAS cannot allocate its handle, cuDNN no workspace for any of its algorithms.
    "cublas_status_not_initialized",
    "unable to find an engine to execute this computation",
)
