"""Choice of a GPU, and errors of GPUs: each becomes one sentence that offers the CPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from diffusion_segmentation.errors import DeviceLostError, GpuError, InputError, OutOfMemoryError, is_out_of_memory
from diffusion_segmentation.networks import Denoiser
from diffusion_segmentation.runtime import devices
from diffusion_segmentation.runtime.devices import choose_device, explain_gpu_error, out_of_memory_error


def test_a_full_gpu_offers_the_cpu() -> None:
    error = out_of_memory_error(torch.device("cuda", 1))
    assert error.try_device == "cpu" and "'cuda:1'" in str(error) and "use the CPU" in str(error)


def test_an_apple_gpu_is_listed_and_used_only_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="no Apple GPU here"):
        choose_device("mps")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 16_000)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 1_000)
    assert devices.devices()[-1] == {"id": "mps", "name": "Apple GPU", "totalBytes": 16_000, "freeBytes": 15_000}
    assert choose_device("mps").type == "mps" and choose_device("auto").type == "cpu"
    mps = torch.device("mps")
    assert explain_gpu_error(RuntimeError("MPS backend out of memory (MPS allocated: 9 GB)"), mps).kind == "memory"
    error = explain_gpu_error(NotImplementedError("The operator 'aten::x' is not implemented for the MPS device."), mps)
    assert (
        isinstance(error, GpuError) and error.try_device == "cpu" and "Apple's GPU cannot run this model" in str(error)
    )


GPU_ERRORS = {
    "CUDA error: out of memory": "did not suffice",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED": "did not suffice",
    "CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`": "did not suffice",
    "GET was unable to find an engine to execute this computation": "did not suffice",
    "CUDA error: no kernel image is available for execution on the device": "does not support this graphics card",
    "CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors": "Another program has",
    "CUDA error: unspecified launch failure": "stopped working; segment again",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED": "(cuDNN error: CUDNN_STATUS_EXECUTION_FAILED); use the CPU",
}


@pytest.mark.parametrize("text", GPU_ERRORS)
def test_each_failure_of_a_gpu_has_its_own_message_and_offers_the_cpu(text: str) -> None:
    error, gpu = RuntimeError(text), torch.device("cuda", 0)
    problem = explain_gpu_error(error, gpu)
    assert GPU_ERRORS[text] in str(problem) and "\n" not in str(problem) and problem.try_device == "cpu"
    assert isinstance(problem, OutOfMemoryError) == is_out_of_memory(error) == ("suffice" in GPU_ERRORS[text])
    assert isinstance(problem, DeviceLostError) == ("stopped" in str(problem))


def test_other_errors_are_not_gpu_errors() -> None:
    for device in (torch.device("cpu"), torch.device("cuda", 0)):
        assert explain_gpu_error(RuntimeError("shapes do not match"), device) is None
        assert explain_gpu_error(RuntimeError("DefaultCPUAllocator: can't allocate memory"), device) is None
        assert (
            explain_gpu_error(
                RuntimeError("Exception thrown in SimpleITK: Failed to allocate memory for image."), device
            )
            is None
        )
    assert isinstance(
        explain_gpu_error(type("AcceleratorError", (RuntimeError,), {})("reset"), torch.device("cpu")), GpuError
    )


def test_auto_takes_the_first_gpu_that_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    busy: set[int] = set()

    def memory_of(index: int) -> tuple[int, int]:
        if index in busy:
            raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable")
        return 1, 2

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", memory_of)
    for full, chosen in ((-1, "cuda:0"), (0, "cuda:1"), (1, "cpu")):
        busy.add(full)
        assert str(choose_device("auto")) == chosen


def test_a_lost_gpu_is_distinguished_from_a_full_one(run: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    lost = RuntimeError("CUDA error: unspecified launch failure")

    def reset(*_: Any) -> None:
        raise lost

    monkeypatch.setattr(Denoiser, "forward", reset)
    with pytest.raises(DeviceLostError, match="stopped working; segment again, or use the CPU") as caught:
        run("lost")
    assert caught.value.try_device == "cpu"
