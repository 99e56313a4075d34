"""Volumes with several values per voxel: a fourth axis, or vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import DiffusionSegmentationError, InputError
from .volume import VolumeFile


class ChannelFile(VolumeFile):
    """A file with a valid header that holds `channels` volumes on one grid; 1 for an ordinary volume."""

    channels: int

    def _require_shape(self) -> None:
        size, components = self._reader.GetSize(), self._reader.GetNumberOfComponents()
        self._is_4d = len(size) == 4 and size[3] > 1 and components == 1
        is_vector = len(size) == 3 and components > 1 and not self._reader.HasMetaDataKey("Segment0_ID")
        self.channels = size[3] if self._is_4d else components if is_vector else 1
        if self.channels == 1:
            super()._require_shape()
        elif min(size[:3]) < 2 or "complex" in sitk.GetPixelIDValueAsString(self._reader.GetPixelIDValue()):
            raise InputError(f"{self.name} is no volume of several slices with real values; give one.")

    def read_channels(self) -> tuple[np.ndarray, sitk.Image]:
        """The values [channels, k, j, i] in the file's type, and an empty image with their grid. Call once.

        Raises InputError and OutOfMemoryError.
        """
        stored = self.read_as()
        values = sitk.GetArrayFromImage(stored)
        n = stored.GetDimension()
        grid = sitk.Image(stored.GetSize()[:3], sitk.sitkUInt8)
        grid.SetSpacing(stored.GetSpacing()[:3])
        grid.SetOrigin(stored.GetOrigin()[:3])
        grid.SetDirection(np.reshape(stored.GetDirection(), (n, n))[:3, :3].ravel().tolist())
        if not self._is_4d:
            values = values[None] if self.channels == 1 else np.moveaxis(values, -1, 0)
        return values, grid


def channel_count(path: Path) -> int:
    """Number of volumes in a file; 1 if its header cannot be read, which reading it reports."""
    try:
        return ChannelFile(path).channels
    except (DiffusionSegmentationError, OSError):
        return 1
