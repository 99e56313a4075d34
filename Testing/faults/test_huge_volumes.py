"""Volumes that do not fit into memory are refused before they are read."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from handmade_volumes import VOXELS, assert_a_sentence, meta, nifti, nrrd

from diffusion_segmentation.errors import OutOfMemoryError
from diffusion_segmentation.images import volume
from diffusion_segmentation.images.volume import read_volume
from diffusion_segmentation.runtime import memory

HUGE = (2048, 2048, 1500)


def sparse(path: Path) -> Path:
    """As long as the huge volume's voxels need, but without a block on the disk."""
    start = path.stat().st_size
    os.truncate(path, start + 2 * int(np.prod(HUGE)))
    return path


HUGE_FILES = {
    "NRRD": lambda f: sparse(nrrd(f / "a.nrrd", sizes="2048 2048 1500")),
    "NIfTI": lambda f: sparse(nifti(f / "a.nii", size=HUGE)),
    "MetaImage": lambda f: sparse(meta(f / "a.mha", DimSize="2048 2048 1500")),
}


@pytest.mark.skipif(os.name == "nt", reason="sparse files need a flag there")
@pytest.mark.parametrize("kind", HUGE_FILES)
def test_a_huge_volume_is_refused_with_its_memory_before_it_is_read(
    data_folder: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = HUGE_FILES[kind](data_folder)
    monkeypatch.setattr(memory, "available_memory", lambda: 12_000_000_000)
    monkeypatch.setattr(volume.VolumeFile, "_executed", lambda *_: pytest.fail("its voxels were read"))
    with pytest.raises(OutOfMemoryError, match=r"needs about 75\.5 GB of memory and 12\.0 GB are free") as caught:
        read_volume(path)
    assert caught.value.kind == "memory"
    assert_a_sentence(caught.value, data_folder)


def test_a_volume_is_read_if_it_fits_or_the_free_memory_is_unknown(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = nrrd(data_folder / "a.nrrd")
    for free in (12 * VOXELS.size, None):
        monkeypatch.setattr(memory, "available_memory", lambda free=free: free)
        assert read_volume(path).GetSize() == (6, 5, 4)
    monkeypatch.setattr(memory, "available_memory", lambda: 12 * VOXELS.size - 1)
    with pytest.raises(OutOfMemoryError):
        read_volume(path)
