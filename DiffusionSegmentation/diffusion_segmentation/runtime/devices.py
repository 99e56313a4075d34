"""What can compute here, and what a GPU's failure means to a person."""

from __future__ import annotations

import gc
import platform
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


def devices() -> list[dict[str, Any]]:
    """What can compute here: [{id, name, totalBytes, freeBytes}], the CPU first; its bytes are None."""
    found: list[dict[str, Any]] = [
        {"id": "cpu", "name": platform.processor() or platform.machine(), "totalBytes": None, "freeBytes": None}
    ]
    for index in range(torch.cuda.device_count()):
        memory = _memory(index)
        if memory is not None:
            name, (free, total) = torch.cuda.get_device_name(index), memory
            found.append({"id": f"cuda:{index}", "name": name, "totalBytes": total, "freeBytes": free})
    if torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        free = total - torch.mps.driver_allocated_memory()
        found.append({"id": "mps", "name": "Apple GPU", "totalBytes": total, "freeBytes": free})
    return found


def choose_device(name: str) -> torch.device:
    """`auto` is the first CUDA GPU that can be used, or else the CPU; Apple's GPU, `mps`, is used where it is named.

    Raises InputError for a device that is not there.
    """
    if name == "auto":
        usable = (index for index in range(torch.cuda.device_count()) if _memory(index) is not None)
        index = next(usable, None)
        return torch.device("cpu") if index is None else torch.device("cuda", index)
    if name == "cpu":
        return torch.device("cpu")
    if name == "mps" and torch.backends.mps.is_available():
        return torch.device("mps")
    if name == "mps":
        raise InputError("There is no Apple GPU here that PyTorch can use; choose another device, for example 'cpu'.")
    index = int(name.partition(":")[2] or 0)
    if index >= torch.cuda.device_count():
        raise InputError(f"There is no device '{name}' here; choose another, for example 'cpu'.")
    return torch.device("cuda", index)


def _memory(index: int) -> tuple[int, int] | None:
    """Free and total bytes of a GPU; None where it is full or reserved by another process: others may still do."""
    try:
        return torch.cuda.mem_get_info(index)
    except RuntimeError:
        return None


def free_bytes(device: torch.device) -> int | None:
    """Bytes that are free on a GPU, with those that torch holds and does not use; None for a CPU."""
    if device.type != "cuda":
        return None
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return torch.cuda.mem_get_info(device)[0] + unused


def release(device: torch.device) -> None:
    """Give a GPU the memory back that torch keeps for later, which may lie in pieces that suit nothing larger."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    if device.type == "mps":
        torch.mps.empty_cache()


def exhausted(device: torch.device) -> OutOfMemoryError:
    """What is said where nothing is left to make smaller."""
    if device.type == "cpu":
        return OutOfMemoryError("The memory did not suffice, not even for small windows; close other programs.")
    return OutOfMemoryError(
        f"The memory of '{device}' did not suffice, not even for small windows; use the CPU, which takes longer, or "
        "close what else uses that memory.",
        try_device="cpu",
    )


def failure(error: RuntimeError, device: torch.device) -> DiffusionSegmentationError | None:
    """What an error that torch raised on `device` means, with another device to try; None where it is none of a GPU's.

    CUDA tells errors by their text. After some of them a process cannot use the GPU any more (`DeviceLostError`).
    """
    text = str(error).lower()
    known = type(error).__name__ in ("OutOfMemoryError", "AcceleratorError")
    if device.type == "cuda" and not known and not any(word in text for word in _GPU_WORDS):
        return None  # main memory, or a defect, which another device would not cure
    if is_out_of_memory(error):
        return None if device.type == "cpu" else exhausted(device)
    if device.type == "mps":
        return GpuError(f"Apple's GPU cannot run this model ({_short(error)}); use the CPU, or a newer PyTorch.")
    if "no kernel image" in text or "not compatible with the current pytorch" in text:
        return GpuError("The installed PyTorch does not support this graphics card; use the CPU.")
    if "busy or unavailable" in text:
        return GpuError("Another program has the graphics card for itself; close it, or use the CPU.")
    if type(error).__name__ == "AcceleratorError" or "cuda error" in text:
        return DeviceLostError("The graphics card stopped working; segment again, or use the CPU.")
    if device.type == "cuda":
        return GpuError(f"The graphics card failed ({_short(error)}); use the CPU, or a newer driver.")
    return None


_GPU_WORDS = ("cuda", "cudnn", "cublas", "find an engine")


def _short(error: BaseException) -> str:
    """The first line of what an error says, at most 200 characters."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
