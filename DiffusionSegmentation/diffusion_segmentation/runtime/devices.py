"""Compute devices, and the errors of GPUs."""

from __future__ import annotations

import contextlib
import gc
import platform
from collections.abc import Callable, Iterator
from typing import Any

import torch

from ..errors import (
    DeviceLostError,
    DiffusionSegmentationError,
    GpuError,
    InputError,
    OutOfMemoryError,
    is_out_of_memory,
)

_CUDA_WORDS = ("cuda", "cudnn", "cublas", "find an engine")


def devices() -> list[dict[str, Any]]:
    """The compute devices [{id, name, totalBytes, freeBytes}], the CPU first; its bytes are None."""
    result: list[dict[str, Any]] = [
        {"id": "cpu", "name": platform.processor() or platform.machine(), "totalBytes": None, "freeBytes": None}
    ]
    for index in range(torch.cuda.device_count()):
        memory = _memory(index)
        if memory is not None:
            name, (free, total) = torch.cuda.get_device_name(index), memory
            result.append({"id": f"cuda:{index}", "name": name, "totalBytes": total, "freeBytes": free})
    if torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        free = total - torch.mps.driver_allocated_memory()
        result.append({"id": "mps", "name": "Apple GPU", "totalBytes": total, "freeBytes": free})
    return result


def choose_device(name: str) -> torch.device:
    """The device `name`; `auto` is the first usable CUDA GPU, otherwise the CPU. Apple's GPU is used only as `mps`.

    Raises InputError if the device does not exist.
    """
    if name == "auto":
        usable = (f"cuda:{index}" for index in range(torch.cuda.device_count()) if _memory(index) is not None)
        return torch.device(next(usable, "cpu"))
    if name == "mps" and not torch.backends.mps.is_available():
        raise InputError("There is no Apple GPU here that PyTorch can use; choose another device, for example 'cpu'.")
    if name in ("cpu", "mps"):
        return torch.device(name)
    index = int(name.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise InputError(f"There is no device '{name}' here; choose another, for example 'cpu'.")
    return torch.device("cuda", index)


def _memory(index: int) -> tuple[int, int] | None:
    """Free and total bytes of a CUDA GPU; None if it is full or another process has exclusive use of it."""
    try:
        return torch.cuda.mem_get_info(index)
    except RuntimeError:
        return None


def free_bytes(device: torch.device) -> int | None:
    """Free bytes of a CUDA GPU, including those that torch caches; None for other devices."""
    if device.type != "cuda":
        return None
    cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + cached


def empty_cache(device: torch.device) -> None:
    """Return the memory that torch caches to the GPU; fragments of it may be too small for larger arrays."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if device.type == "mps":
        torch.mps.empty_cache()


def out_of_memory_error(device: torch.device) -> OutOfMemoryError:
    """The error for a run that does not fit `device` with the smallest windows."""
    if device.type == "cpu":
        return OutOfMemoryError("The memory did not suffice, not even for small windows; close other programs.")
    return OutOfMemoryError(
        f"The memory of '{device}' did not suffice, not even for small windows; use the CPU, which takes longer, or "
        "close what else uses that memory.",
        try_device="cpu",
    )


def explain_gpu_error(error: RuntimeError, device: torch.device) -> DiffusionSegmentationError | None:
    """The explained error for one that torch raised on `device`, with another device to try; None if no GPU failed.

    CUDA distinguishes errors by text. After a `DeviceLostError` this process cannot use the GPU any more.
    """
    text = str(error).lower()
    cuda_class = type(error).__name__ in ("OutOfMemoryError", "AcceleratorError")
    if device.type == "cuda" and not cuda_class and not any(word in text for word in _CUDA_WORDS):
        return None  # main memory or a software defect: another device would not help
    if is_out_of_memory(error):
        return None if device.type == "cpu" else out_of_memory_error(device)
    first_line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
    if device.type == "mps":
        return GpuError(f"Apple's GPU cannot run this model ({first_line}); use the CPU, or a newer PyTorch.")
    if "no kernel image" in text or "not compatible with the current pytorch" in text:
        return GpuError("The installed PyTorch does not support this graphics card; use the CPU.")
    if "busy or unavailable" in text:
        return GpuError("Another program has exclusive use of the graphics card; close it, or use the CPU.")
    if type(error).__name__ == "AcceleratorError" or "cuda error" in text:
        return DeviceLostError("The graphics card stopped working; segment again, or use the CPU.")
    if device.type == "cuda":
        return GpuError(f"The graphics card failed ({first_line}); use the CPU, or a newer driver.")
    return None


@contextlib.contextmanager
def explained_gpu_errors(device: Callable[[], torch.device]) -> Iterator[None]:
    """Context that raises the explained error for one of the GPU of a run; `device` returns the run's device."""
    try:
        yield
    except RuntimeError as error:
        problem = explain_gpu_error(error, device())
        if problem is None:
            raise
        raise problem from error
