"""Reading sequences of volumes (.seq.nrrd) that lie on a block of an image's grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk


def read_sequence(path: Path, image: sitk.Image) -> tuple[np.ndarray, tuple[slice, ...]]:
    """Volumes [n, kb, jb, ib] of a file that `writing.write_sequence` wrote, and their block [k, j, i] of `image`."""
    stored = sitk.ReadImage(str(path))
    array = sitk.GetArrayFromImage(stored)
    array = array[..., None] if array.ndim == 3 else array  # a sequence of one volume
    start = image.TransformPhysicalPointToIndex(stored.GetOrigin())[::-1]
    block = tuple(slice(a, a + n) for a, n in zip(start, array.shape, strict=False))
    return np.moveaxis(array, -1, 0), block
