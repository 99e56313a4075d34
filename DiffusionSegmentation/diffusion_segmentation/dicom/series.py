"""A DICOM series as the input of a run."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import GeometryError, InputError, shown
from ..runtime import memory
from ..runtime.locations import itk_name
from .slices import Slice, dicom_files, read_slices
from .stack import stack

WORKING_BYTES = 12  # bytes per voxel while the images are read: the values, their image, and a resampled copy
LISTED = 6  # series that a message lists


class Series:
    """A DICOM series with valid headers, in place of a volume file (`images.channels.ChannelFile`).

    Attributes: `size` and `spacing` (mm) along i, j, k and `direction` as in SimpleITK, of the rectangular grid;
    `series_uid`; `slices`, the images in their order; `warnings`, sentences about assumptions. Neither messages nor
    warnings name the folder, which is often that of the patient.
    """

    channels, is_4d = 1, False
    missing: tuple[str, ...] = ()  # a series states its geometry

    def __init__(
        self,
        path: Path,
        series_uid: str | None = None,
        spacing: Sequence[float] | None = None,
        called: str = "The series",
    ) -> None:
        """Check the headers of the series in a folder or in a multi-frame file; `series_uid` chooses one of several.

        Raises InputError (no images, several series, damaged, colours, missing extra), GeometryError (no even grid).
        """
        self.name = called
        files = [path] if path.is_file() else [*dicom_files(path)]
        found = [(file, read_slices(file)) for file in files]
        others = sum(not slices for _, slices in found)
        slices, self.warnings = _chosen([one for _, slices in found for one in slices], series_uid)
        if others:
            self.warnings.append(
                f"{others} DICOM {'file' if others == 1 else 'files'} of the folder without an image of a scan "
                f"{'was' if others == 1 else 'were'} left out."
            )
        self._stack = stack(slices, self.name)
        self.slices, self.series_uid = self._stack.slices, slices[0].series
        self.warnings += self._stack.warnings
        size, self.origin, step, self.direction = self._stack.rectangle()
        self.size, self.spacing = (size[0], size[1], size[2]), (step[0], step[1], step[2])
        if spacing is not None and not np.allclose(spacing, self.spacing, rtol=1e-3):
            stated = " x ".join(f"{one:.4g}" for one in self.spacing)
            raise GeometryError(f"{self.name} states voxels of {stated} mm; leave out the spacing, or correct it.")
        if min(self.size[:2]) < 2:
            raise GeometryError(f"{self.name} has {' x '.join(map(str, self.size))} voxels; give a volume.")

    def require_volume(self) -> None:
        """Raise GeometryError for a single image."""
        if self.size[2] == 1:
            raise GeometryError(f"{self.name} has a single image; give a series of several.")

    def require_channels(self, count: int) -> None:
        """Raise InputError unless one value per voxel is wanted."""
        if count != 1:
            raise InputError(f"{self.name} has 1 value per voxel; the model needs {count}, as in a colour picture.")

    def read_images(self, count: int) -> list[sitk.Image]:
        """As `read_all`, where `count` channels are wanted."""
        self.require_channels(count)
        return self.read_all()

    def read_all(self) -> list[sitk.Image]:
        """One float32 image, with the rescaling that each image states. Raises InputError and OutOfMemoryError."""
        columns, rows = self.slices[0].size
        memory.require(WORKING_BYTES * max(int(np.prod(self.size)), columns * rows * len(self.slices)), self.name)
        values = np.empty((len(self.slices), rows, columns), np.float32)
        frames: dict[Path, np.ndarray] = {}
        for k, one in enumerate(self.slices):
            if one.frame is None:
                values[k] = _plane(one)
                continue
            if one.path not in frames:
                from .multi_frame import read_frames

                frames[one.path] = read_frames(one.path, (rows, columns))
            values[k] = frames[one.path][one.frame]
        return [self._stack.placed(values)]


def _plane(one: Slice) -> np.ndarray:
    """The rescaled values [j, i] of an image. Raises InputError."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(itk_name(one.path))
    reader.SetOutputPixelType(sitk.sitkFloat32)
    try:
        plane = sitk.GetArrayFromImage(reader.Execute())
    except RuntimeError as error:
        raise InputError(
            f"The DICOM image '{shown(one.path.name)}' is incomplete, or compressed in a way that cannot be read; copy "
            "it again, or save it uncompressed."
        ) from error
    return plane.reshape(one.size[::-1])


def _chosen(slices: Sequence[Slice], wanted: str | None) -> tuple[list[Slice], list[str]]:
    """The images of one series, with a warning if others are left out. Raises InputError."""
    series: dict[str, list[Slice]] = {}
    for one in slices:
        series.setdefault(one.series, []).append(one)
    if not series:
        raise InputError("No DICOM image of a scan was found; give the folder of a series.")
    if wanted is not None:
        if wanted not in series:
            raise InputError(f"The folder has no series {shown(wanted)}; it has {_listed(series.values())}.")
        return series[wanted], []
    volumes = [images for images in series.values() if len(images) > 1 and not all(one.is_localizer for one in images)]
    if len(series) == 1:
        return next(iter(series.values())), []
    if len(volumes) != 1:
        raise InputError(
            f"The folder has {len(series)} series; choose one with --series UID: {_listed(volumes or series.values())}."
        )
    others = len(series) - 1
    left_out = "Another series" if others == 1 else f"{others} other series"
    return volumes[0], [
        f"{left_out} of the folder, of localizers or single images, {'was' if others == 1 else 'were'} left out."
    ]


def _listed(series: Iterable[Sequence[Slice]]) -> str:
    """UID, modality and number of images of some series."""
    rows = [f"{shown(images[0].series)} ({shown(images[0].modality)}, {len(images)} images)" for images in series]
    return ", ".join(rows[:LISTED]) + (f" and {len(rows) - LISTED} more" if len(rows) > LISTED else "")
