"""Volumes with several values per voxel: a fourth axis, or vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import DiffusionSegmentationError, InputError
from .input_names import READABLE_PICTURES
from .volume import VolumeFile


class ChannelFile(VolumeFile):
    """A file with a valid header that holds `channels` volumes on one grid; 1 for an ordinary volume."""

    channels: int
    is_4d: bool  # whether they lie along a fourth axis

    def _require_shape(self) -> None:
        size, components = self._reader.GetSize(), self._reader.GetNumberOfComponents()
        self.is_4d = len(size) == 4 and size[3] > 1 and components == 1
        is_vector = len(size) in (2, 3) and components > 1 and not self._reader.HasMetaDataKey("Segment0_ID")
        self.channels = size[3] if self.is_4d else components if is_vector else 1
        if self.channels == 1 or (len(size) == 2 and not self._pictures):
            super()._require_shape()
        elif "complex" in sitk.GetPixelIDValueAsString(self._reader.GetPixelIDValue()):
            raise InputError(f"{self.name} has complex values; give its magnitude.")
        else:
            self._require_extent()

    def require_channels(self, count: int) -> None:
        """Raise InputError unless the file has `count` channels, or a picture can be read as such."""
        if not self.is_4d and (
            self.channels == count or (self.size[2] == 1 and self.channels in READABLE_PICTURES.get(count, ()))
        ):
            return
        if self.is_4d:
            raise InputError(f"{self.name} is a series of {self.channels} volumes; give one of them.")
        wanted = "give a grey-value volume" if count == 1 else f"the model needs {count}, as in a colour picture"
        values = "1 value" if self.channels == 1 else f"{self.channels} values"
        raise InputError(f"{self.name} has {values} per voxel; {wanted}.")

    def read_images(self, count: int) -> list[sitk.Image]:
        """`count` float32 images, one for each channel; transparency is left out, and equal colours are one grey value.

        Call once. Raises InputError and OutOfMemoryError.
        """
        self.require_channels(count)
        images = self.read_all()
        if len(images) > count and len(images) % 2 == 0:
            self.warnings.append(f"The transparency of {_lower(self.name)} was ignored.")
            images = images[:-1]
        if len(images) > count:
            grey = sitk.GetArrayViewFromImage(images[0])
            if not all(np.array_equal(grey, sitk.GetArrayViewFromImage(image)) for image in images[1:]):
                raise InputError(f"{self.name} has colours; the model needs one grey value per pixel.")
            images = images[:1]
        return images

    def read_all(self) -> list[sitk.Image]:
        """A float32 image for each channel. Call once. Raises InputError and OutOfMemoryError."""
        stored = self.read_as(sitk.sitkFloat32 if self.channels == 1 or self.is_4d else sitk.sitkVectorFloat32)
        if self.non_finite:
            self.warnings.append(
                f"{self.name} has {self.non_finite} values that are not a number or infinite, and they were taken for "
                "0."
            )
        if self.channels == 1:
            return [stored]
        if self.is_4d:
            return [stored[:, :, :, n] for n in range(self.channels)]
        return [sitk.VectorIndexSelectionCast(stored, n) for n in range(self.channels)]

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
        if not self.is_4d:
            values = values[None] if self.channels == 1 else np.moveaxis(values, -1, 0)
        return values, grid


def channel_count(path: Path) -> int:
    """Number of volumes in a file; 1 if its header cannot be read, which reading it reports."""
    try:
        return ChannelFile(path).channels
    except (DiffusionSegmentationError, OSError):
        return 1


def _lower(name: str) -> str:
    return name[0].lower() + name[1:]
