"""What can go wrong, each with one plain sentence for the person and one kind for the program."""

from __future__ import annotations

import errno
import os

KINDS = ("memory", "geometry", "model", "input", "internal")


class DiffusionSegmentationError(Exception):
    """Base of all errors that are explained. `str(error)` is one plain sentence: what is wrong and what to do.

    `try_device` is a device on which the same could work, or None.
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
    """Memory of the device or of the computer did not suffice."""

    kind = "memory"

    def __init__(self, sentence: str, try_device: str | None = None) -> None:
        super().__init__(sentence)
        self.try_device = try_device


class GpuError(DiffusionSegmentationError):
    """A GPU cannot do what is asked of it."""

    try_device = "cpu"


class DeviceLostError(GpuError):
    """A GPU does not answer any more, as after a reset of its driver; this process cannot use it again."""


class Cancelled(Exception):
    """Raised where the work stops because the person cancelled it."""


def shown(name: str) -> str:
    """A file's name as it goes into a sentence: one line, and not too long."""
    name = "".join(c if c.isprintable() else "?" for c in name)
    return name if len(name) <= 100 else f"{name[:100]} ..."


def explain(error: BaseException) -> tuple[str, str]:
    """Return (kind, one plain sentence) for any exception, also for those that libraries raise.

    Needs none of those libraries: torch's out-of-memory errors are known by class name and text.
    """
    if isinstance(error, DiffusionSegmentationError):
        return error.kind, str(error)
    if is_out_of_memory(error):
        return (
            OutOfMemoryError.kind,
            "The memory did not suffice; close other programs, choose another device, or crop the volume.",
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiffusionSegmentationError.kind, "The disk is full; free some space or choose another folder."
    if isinstance(error, OSError) and error.filename:
        name = os.path.basename(os.fspath(error.filename)) or os.fspath(error.filename)
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            return (
                DiffusionSegmentationError.kind,
                f"'{name}' cannot be read or written: there is no permission; choose another folder.",
            )
        if error.errno in (errno.EEXIST, errno.ENOTDIR):
            name = _file_among(os.path.abspath(os.fspath(error.filename))) or name
            return DiffusionSegmentationError.kind, f"'{name}' is a file and no folder; choose another name."
        if error.errno == errno.ENAMETOOLONG:
            return DiffusionSegmentationError.kind, f"'{name[:60]} ...' is too long a name; choose a shorter one."
    if isinstance(error, ModuleNotFoundError):
        return (
            DiffusionSegmentationError.kind,
            f"The Python package '{error.name}' is missing; install it and try again.",
        )
    text = " ".join(str(error).split()) or "no further description"
    if len(text) > 300:
        text = f"{text[:300]} ..."
    return DiffusionSegmentationError.kind, f"An unexpected problem occurred ({type(error).__name__}: {text})."


def _file_among(path: str) -> str:
    """Of a path and the folders above it the name of the one that is a file."""
    while not os.path.isfile(path) and os.path.dirname(path) != path:
        path = os.path.dirname(path)
    return os.path.basename(path)


def is_out_of_memory(error: BaseException) -> bool:
    """True for MemoryError, torch's OutOfMemoryError, and the RuntimeErrors of allocators and of libraries in need."""
    if isinstance(error, (MemoryError, OutOfMemoryError)) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in _ALLOCATOR_WORDS)


_ALLOCATOR_WORDS = (
    "can't allocate memory",
    "not enough memory",
    "out of memory",
    "failed to allocate memory",
    "bad_alloc",
    "status_alloc_failed",
    # cuBLAS finds no room for its handle, and cuDNN for the workspace of any of its algorithms.
    "cublas_status_not_initialized",
    "unable to find an engine to execute this computation",
)
