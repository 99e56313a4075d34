"""The memory that a run is estimated to need, and the windows and groups chosen by it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from diffusion_segmentation.errors import OutOfMemoryError
from diffusion_segmentation.model.folder import load
from diffusion_segmentation.runtime import devices, memory
from diffusion_segmentation.segmentation import memory_plan
from diffusion_segmentation.segmentation.memory_plan import MemoryPlan
from diffusion_segmentation.segmentation.tiling import Tiling


def test_groups_fit_into_half_of_what_is_free(a_model_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = MemoryPlan(load(a_model_folder), torch.device("cuda"))
    tiling = Tiling((28, 32, 32), (64, 64, 64), 4)
    one = 12 * 4 * 8 * 3 * 14 * 16 * 16  # bytes of a sample; cells are half as fine as voxels
    for free, group in ((0, 1), (2 * one, 1), (7 * one, 3), (100 * one, 8)):
        monkeypatch.setattr(devices, "free_bytes", lambda device, free=free: free)
        assert plan.group_size(tiling) == group


def test_windows_become_smaller_before_the_system_would_end_the_process(a_model_folder: Path) -> None:
    """On a CPU an allocation seldom fails, so the encoder's pass must be seen to fit before it begins."""
    model = load(a_model_folder)

    def tiling() -> Tiling:
        return Tiling((128, 128, 128), plan.window, 4)

    model.section["window"] = [128, 128, 128]
    model.encoder = SimpleNamespace(width=128, levels=model.encoder.levels)
    plan = MemoryPlan(model, torch.device("cpu"))
    whole, drawing = plan.encoding_bytes(tiling()), plan.sampling_bytes(tiling())
    assert drawing < whole  # else smaller windows would not help
    free = whole - 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(memory, "available_memory", lambda: free)
        plan.require(tiling, 1000, 1000)
        assert plan.window == (64, 64, 64) and plan.encoding_bytes(tiling()) < free
        assert plan.notes == [f"The memory of 'cpu' is short, so {memory_plan.SMALLER_WINDOWS}."]
        patch.setattr(memory, "available_memory", lambda: 1000)
        with pytest.raises(OutOfMemoryError, match="needs about"):
            plan.require(tiling, 1000, 1000)


def test_the_required_memory_grows_with_the_volume_and_not_with_the_samples(a_model_folder: Path) -> None:
    plan = MemoryPlan(load(a_model_folder), torch.device("cpu"))
    small, large = (Tiling((n, n, n), (64, 64, 64), 4) for n in (64, 128))
    assert plan.encoding_bytes(large) > plan.encoding_bytes(small) > 4 * 8 * 64**3
    assert plan.sampling_bytes(large) == pytest.approx(8 * plan.sampling_bytes(small), rel=0.3)
