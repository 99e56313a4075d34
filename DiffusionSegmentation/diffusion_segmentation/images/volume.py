"""Reading volumes from files.

Physical space is LPS in mm, as in SimpleITK; arrays are indexed [k, j, i].
"""

from __future__ import annotations

import errno
import json
import locale
import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import GeometryError, InputError, OutOfMemoryError, explain, is_out_of_memory, shown
from ..runtime import memory
from ..runtime.locations import itk_name
from .geometry_checks import Spacing, check_geometry
from .headers import REWRITE_ERRORS, incomplete, nnunet_spacing_file, read_header, unreadable

logger = logging.getLogger(__name__)

# ITK prints several lines about a file besides the exception that is raised here.
sitk.ProcessObject.SetGlobalWarningDisplay(False)

# ITK readers of formats without a header parser here: their files state spacing and orientation, or spacing only.
# Others, such as TIFF, state neither.
STATES_ALL = ("HDF5ImageIO", "MINCImageIO", "NiftiImageIO")
STATES_SPACING = ("VTKImageIO", "GiplImageIO", "MRCImageIO", "StimulateImageIO", "LSMImageIO", "BioRadImageIO")
# For L, P and S: the words for the positive and the negative direction.
AXIS_DIRECTIONS = [
    ("right to left", "left to right"),
    ("front to back", "back to front"),
    ("foot to head", "head to foot"),
]
PLANES = ("sagittal", "coronal", "axial")  # across L, P and S
# Differences of larger float32 values overflow. No scanner produces such values; some programs mark missing data.
MAX_VALUE = 1e30
WORKING_BYTES = 12  # measured peak memory, bytes per voxel: the image and two copies while ITK blurs it, float32 each


def read_volume(path: Path) -> sitk.Image:
    """Read a 3-D scalar volume as float32: all values finite, at least two voxels along each axis. Logs assumptions.

    Raises InputError (missing, unreadable, incomplete, colour, complex, 2-D, 4-D, NaN or infinite, constant),
    GeometryError (single slice, axes not orthogonal, position or voxel size missing or contradictory) and
    OutOfMemoryError (before any voxel is read). Messages name the file without its folder.
    """
    file = VolumeFile(path)
    image = file.read()
    for sentence in file.warnings:
        logger.warning(sentence)
    return image


class VolumeFile:
    """A volume file with a valid header. Its voxels are read by `read`.

    Attributes: `size` and `spacing` (mm) along i, j, k; `direction` as in SimpleITK; `itk_spacing`, which ITK assumes
    where the file states none; `missing`, what the file does not state ("orientation", "spacing"); `warnings`,
    sentences about assumptions; after reading, `non_finite`, the number of voxels that ITK replaced by 0.
    """

    def __init__(
        self,
        path: Path,
        kind: str = "volume",
        spacing: Spacing | None = None,
        default_spacing: Spacing | None = None,
        pictures: bool = False,
        called: str | None = None,
    ) -> None:
        """Check the header against the file. Raises as `read_volume`.

        Messages call the file by `kind` and its name, or, if the user never saw its name, as it is `called`.

        A file that states a voxel size must agree with `spacing`; `default_spacing` is used only where it states none.
        With `pictures` a 2-D image or a single slice is accepted, too; it becomes a volume of one slice, whose pixels
        measure 1 where nothing states their size.
        """
        self._pictures = pictures
        self.name = name = called or f"The {kind} '{shown(path.name)}'"
        self._folder: tempfile.TemporaryDirectory | None = None  # of the copy that ITK reads
        try:
            if not path.exists():
                raise InputError(f"{name} does not exist; check its name and folder.")
            if path.is_dir():
                raise InputError(f"{name} is a folder; give one file.")
            if not path.is_file():
                raise InputError(f"{name} is a pipe or a device; give a file.")
            self._header = header = read_header(path, name)
            if header.problem:
                raise GeometryError(f"{name} {header.problem}.")
            self._reader = reader = self._open(path)
        except OSError as error:
            raise InputError(f"{name} cannot be opened; check that you may read it.") from error
        except RuntimeError as error:
            raise unreadable(name) from error
        self._require_shape()
        self.missing = header.missing if header.image_io else _missing_by_format(path)
        self.size, self.spacing = _of_volume(reader.GetSize(), 1), self._voxel_size(path, spacing, default_spacing)
        itk_spacing = np.array(_of_volume(reader.GetSpacing(), 1.0))
        self.itk_spacing = np.abs(itk_spacing)
        direction = np.eye(3)  # columns: unit axes
        stated = np.reshape(reader.GetDirection(), (len(reader.GetSize()), -1))[:3, :3]
        direction[: len(stated), : len(stated)] = stated
        # ITK moves the sign of a negative spacing into the direction when it reads the voxels.
        self.direction = (direction * np.where(itk_spacing < 0, -1, 1)).ravel().tolist()
        origin = _of_volume(reader.GetOrigin(), 0.0)
        two_affines = check_geometry(direction, origin, self.size, self.spacing, header, name)
        self.warnings = [f"{name} {words}." for words in (header.note, two_affines) if words]
        if "orientation" in self.missing and self.size[2] > 1:
            self.warnings.append(self._assumed_orientation())
        self._voxels = math.prod(reader.GetSize())
        pixel = sitk.Image([1, 1, 1], reader.GetPixelIDValue())
        voxel_bytes = header.voxel_bytes or pixel.GetSizeOfPixelComponent() * reader.GetNumberOfComponents()
        self._bytes = self._voxels * voxel_bytes
        if not header.can_hold(self._bytes):
            raise incomplete(name)

    def read(self) -> sitk.Image:
        """The volume as `read_volume` returns it. Raises InputError and OutOfMemoryError."""
        image = self.read_as(sitk.sitkFloat32)
        check_values(image, self.name)
        if self.non_finite:
            self.warnings.append(
                f"{self.name} has {self.non_finite} voxels that are not a number or infinite, and they were taken for "
                "0."
            )
        return image

    def is_on(self, grid: sitk.Image, of: sitk.Image) -> bool:
        """Whether `grid`, that of this file's voxels, is the grid of the image `of`."""
        if grid.GetSize() != of.GetSize():
            return False
        if "spacing" in self.missing:  # origin and direction of the image must be those that ITK assumes
            return bool(np.allclose(of.GetDirection(), np.eye(3).ravel()) and not any(of.GetOrigin()))
        return bool(
            np.allclose(grid.GetOrigin(), of.GetOrigin(), atol=0.01)
            and np.allclose(grid.GetSpacing(), of.GetSpacing(), rtol=1e-3)
            and np.allclose(grid.GetDirection(), of.GetDirection(), atol=1e-3)
        )

    def metadata(self) -> dict[str, str]:
        """The header's key/value pairs besides the geometry."""
        return {key: self._reader.GetMetaData(key) for key in self._reader.GetMetaDataKeys()}

    def read_as(self, pixel_type: int = sitk.sitkUnknown) -> sitk.Image:
        """The voxels in the file's type or in `pixel_type`. Call once.

        Direction vectors have unit length; in MetaImage they can contain a factor. Raises InputError and
        OutOfMemoryError.
        """
        # While ITK reads NIfTI, it holds the stored voxels twice besides the result.
        memory.require(max(2 * self._bytes + 4 * self._voxels, WORKING_BYTES * self._voxels), self.name)
        # After all other checks, because it decompresses the file.
        non_finite = self._header.count_non_finite(self._bytes)
        if non_finite is None:
            raise incomplete(self.name)
        self.non_finite = non_finite
        self._rewritten(Path(self._reader.GetFileName()), voxels=True)
        image = self._executed(pixel_type)
        if self._folder is not None:
            self._folder.cleanup()  # the copy is as large as the volume
        if image.GetDimension() == 2:
            image = sitk.JoinSeries(image, 0.0, 1.0)
        if self.spacing != image.GetSpacing()[:3] and "spacing" in self.missing:
            image.SetSpacing([*self.spacing, *image.GetSpacing()[3:]])
        return image

    def _require_shape(self) -> None:
        """Raise InputError unless there is one value for each voxel of a volume."""
        reader, name, size = self._reader, self.name, self._reader.GetSize()
        if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelIDValue()):
            raise InputError(f"{name} has complex values; give its magnitude.")
        if reader.GetNumberOfComponents() != 1 and reader.HasMetaDataKey("Segment0_ID"):
            raise InputError(f"{name} has overlapping segments; export it from Slicer as a label map.")
        if reader.GetNumberOfComponents() != 1:
            raise InputError(f"{name} has {reader.GetNumberOfComponents()} values per voxel; give a grey-value volume.")
        if len(size) == 2 and not self._pictures:
            raise InputError(f"{name} is a 2-D image; give a 3-D volume.")
        if len(size) > 3:
            if math.prod(size[3:]) != 1:
                raise InputError(f"{name} is a series of {math.prod(size[3:])} volumes; give one of them.")
            reader.SetExtractSize([*size[:3], *[0] * (len(size) - 3)])
        self._require_extent()

    def require_volume(self) -> None:
        """Raise GeometryError for a single slice, which `pictures` accepts."""
        if self.size[2] == 1:
            shape = " x ".join(map(str, self.size))
            raise GeometryError(f"{self.name} has {shape} voxels; give a volume of several slices.")

    def _require_extent(self) -> None:
        """Raise GeometryError unless there are two voxels along each axis; with `pictures`, along the first two."""
        size = self._reader.GetSize()[:3]
        if min(size[: 2 if self._pictures else 3]) < 2:
            shape = " x ".join(map(str, size))
            raise GeometryError(f"{self.name} has {shape} voxels; give a volume of several slices.")

    def _executed(self, pixel_type: int) -> sitk.Image:
        self._reader.SetOutputPixelType(pixel_type)
        try:
            with _kept_locale():
                image = self._reader.Execute()
        except RuntimeError as error:
            no_memory = is_out_of_memory(error)
            raise (OutOfMemoryError(explain(error)[1]) if no_memory else incomplete(self.name)) from error
        n = image.GetDimension()
        directions = np.reshape(image.GetDirection(), (n, n))
        lengths = np.linalg.norm(directions, axis=0)
        if np.abs(lengths - 1).max() > 1e-6:
            image.SetDirection((directions / lengths).ravel().tolist())
            image.SetSpacing((lengths * image.GetSpacing()).tolist())
        return image

    def _open(self, path: Path) -> sitk.ImageFileReader:
        reader = sitk.ImageFileReader()
        if self._header.image_io:
            # Otherwise ITK tries all readers, and some look for other files by name.
            reader.SetImageIO(self._header.image_io)
        reader.SetFileName(itk_name(self._rewritten(path, voxels=False)))
        with _kept_locale():
            reader.ReadImageInformation()
        return reader

    def _rewritten(self, path: Path, voxels: bool) -> Path:
        """The file that ITK reads: `path`, or a copy that is written here, without `voxels` only its header."""
        if self._header.rewrite is None:
            return path
        self._folder = self._folder or tempfile.TemporaryDirectory(prefix="diffusion-segmentation-")
        try:
            return self._header.rewrite(Path(self._folder.name), voxels)
        except REWRITE_ERRORS as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InputError(f"{self.name} needs room on the disk for a copy; free some space.") from error
            raise incomplete(self.name) from error

    def _voxel_size(self, path: Path, given: Spacing | None, default: Spacing | None) -> Spacing:
        """The voxel size, mm. Raises GeometryError if there is none or the file contradicts `given`."""
        stated = _of_volume(self._reader.GetSpacing(), 1.0)
        if "spacing" not in self.missing:
            if given is not None and not np.allclose(given, stated, rtol=1e-3):
                shown_spacing = " x ".join(f"{step:.4g}" for step in stated)
                raise GeometryError(
                    f"{self.name} states voxels of {shown_spacing} mm; leave out the spacing, or correct it."
                )
            return stated
        spacing = given or default or _nnunet_spacing(path)
        if spacing is None and self._pictures and _of_volume(self._reader.GetSize(), 1)[2] == 1:
            spacing = (1.0, 1.0, 1.0)  # pixels
        if spacing is None:
            raise GeometryError(
                f"{self.name} does not say how large its voxels are; give their size in mm with --spacing I,J,K, or "
                "save it as NRRD or NIfTI with its spacing."
            )
        i, j, k = map(float, spacing)
        return i, j, k

    def _assumed_orientation(self) -> str:
        """The warning that the file does not state its orientation, with the orientation that ITK assumes."""
        runs = []
        for axis in np.reshape(self.direction, (3, 3)).T:
            largest = int(np.abs(axis).argmax())
            runs.append(AXIS_DIRECTIONS[largest][int(axis[largest] < 0)])
        return (
            f"{self.name} does not state its orientation, so its axes were taken to run from {', '.join(runs[:2])} "
            f"and {runs[2]}; check left and right against the image."
        )


def plane_of_slices(direction: Sequence[float]) -> str:
    """The plane of the slices [j, i] of a volume: "sagittal", "coronal" or "axial", the nearest one if oblique."""
    normal = np.reshape(direction, (3, 3))[:, 2]
    return PLANES[int(np.abs(normal).argmax())]


def _of_volume(values: Sequence[Any], third: Any) -> tuple[Any, Any, Any]:
    """The first three of `values`, one for each axis; for a 2-D image `third` is that of its only slice."""
    i, j, k = (*values, third)[:3]
    return i, j, k


def _missing_by_format(path: Path) -> tuple[str, ...]:
    """What a file without a header parser does not state ("orientation", "spacing")."""
    image_io = sitk.ImageFileReader.GetImageIOFromFileName(itk_name(path))
    if image_io in STATES_ALL:
        return ()
    return ("orientation",) if image_io in STATES_SPACING else ("orientation", "spacing")


def _nnunet_spacing(path: Path) -> Spacing | None:
    """The voxel size of a TIFF in nnU-Net's JSON file: {"spacing": [k, j, i]}. Raises GeometryError if malformed."""
    file = nnunet_spacing_file(path)
    if file is None:
        return None
    try:
        k, j, i = map(float, json.loads(file.read_text(encoding="utf-8-sig"))["spacing"])
        if not 0 < min(i, j, k) <= max(i, j, k) < math.inf:
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise GeometryError(f"'{file.name}' has no \"spacing\" of three positive numbers; fix it.") from None
    return i, j, k


def check_values(image: sitk.Image, name: str, may_be_constant: bool = False) -> None:
    """Raise InputError for NaN, infinite or enormous values, or the same value everywhere."""
    values = sitk.GetArrayViewFromImage(image)
    # One pass without a mask: the double-precision sum of float32 values is finite unless a value is NaN or infinite.
    if not np.isfinite(values.sum(dtype=np.float64)):
        raise InputError(f"{name} has voxels that are not a number or infinite; replace them and try again.")
    lowest, highest = values.min(), values.max()
    if max(-lowest, highest) > MAX_VALUE:
        raise InputError(f"{name} has voxels beyond {MAX_VALUE:g}, which no scanner gives; replace them and try again.")
    if lowest == highest and not may_be_constant:
        raise InputError(f"{name} has the same value everywhere; give a volume with contrast.")


@contextmanager
def _kept_locale() -> Iterator[None]:
    """Restore the locale: ITK sets it to "C" for VTK files, where Python takes text without an encoding for ASCII."""
    kept = locale.setlocale(locale.LC_ALL)
    try:
        yield
    finally:
        if locale.setlocale(locale.LC_ALL) != kept:
            locale.setlocale(locale.LC_ALL, kept)
