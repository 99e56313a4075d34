"""Volumes: reading them, and saying what their files leave open.

Physical space is LPS in mm, as in SimpleITK; arrays are indexed [k, j, i].
"""

from __future__ import annotations

import errno
import itertools
import json
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ..errors import GeometryError, InputError, OutOfMemoryError, explain, is_out_of_memory, shown
from ..runtime import memory
from .headers import DAMAGED, Stored, incomplete, read_header, spacing_file, unreadable

# ITK prints several lines about a file beside the one sentence that is raised here.
sitk.ProcessObject.SetGlobalWarningDisplay(False)

Spacing = tuple[float, float, float]
"""Size of a voxel along i, j and k, mm."""

STATES_BOTH = ("HDF5ImageIO", "MINCImageIO", "NiftiImageIO")
STATES_SPACING = ("VTKImageIO", "GiplImageIO", "MRCImageIO", "StimulateImageIO", "LSMImageIO", "BioRadImageIO")
"""ITK's readers of formats that are not looked into here, by what a file of theirs states: spacing and orientation, or
spacing alone; the others, such as TIFF, state neither."""

WAYS = ("right to left", "left to right"), ("front to back", "back to front"), ("foot to head", "head to foot")
"""Along L, P and S, and against them."""

LARGEST_VALUE = 1e30
"""Beyond it differences of float32 values become infinite; no scanner gives such values, some programs mean "none"."""

FARTHEST_MM = 1e6
"""A volume whose first voxel lies a kilometre from the origin of its coordinates has a damaged header."""

LEAST_DETERMINANT = 0.999
"""Of the unit axes: where they are not at right angles, a voxel is smaller than the product of its spacings by this."""

BLUR_BYTES = 12
"""For a voxel of the input: the image, and two of its size where ITK blurs it, float32 each; measured."""


def warn(sentence: str) -> None:
    """Say a sentence about what was assumed, on stderr."""
    print(f"warning: {sentence}", file=sys.stderr, flush=True)


def read_volume(
    path: str | Path, spacing: Spacing | None = None, told: Callable[[str], None] | None = None
) -> sitk.Image:
    """Return the 3-D scalar volume in `path` as float32, all values finite, at least two voxels along each axis.

    `spacing` is the size of a voxel in mm along i, j and k, for a file that does not state it. `told` is called with
    each sentence about what was assumed, by default `warn`.

    Raises InputError (missing, unreadable, incomplete, colour, complex, 2-D, 4-D, NaN or infinite, constant),
    GeometryError (a single slice, axes not at right angles, place or voxel size not told or contradictory) and
    OutOfMemoryError (before any voxel is read), each with one sentence that names the file but not its folder.
    """
    file = VolumeFile(Path(path), spacing=spacing)
    image = file.read()
    for sentence in file.assumed:
        (told or warn)(sentence)
    return image


class VolumeFile:
    """A volume file whose header was found sound; its voxels are read by `read`, for which alone memory is needed.

    Attributes: `size` and `spacing` (mm) along i, j and k, `direction` as in SimpleITK; `read_spacing` is what ITK
    takes where the file states none; `assumed`, sentences about what the file leaves open; after reading, `zeroed` is
    how many voxels ITK took for 0 because they are no numbers.
    """

    def __init__(self, path: Path, kind: str = "volume", spacing: Spacing | None = None) -> None:
        """Read the header. Raises as `read_volume`, before any voxel is read; `kind` is what sentences call the file.

        ITK mostly believes a header; so it is read here first, and held against the file.
        """
        self.name = name = f"The {kind} '{shown(path.name)}'"
        self._folder: tempfile.TemporaryDirectory | None = None
        try:
            if not path.exists():
                raise InputError(f"{name} does not exist; check its name and folder.")
            if path.is_dir():
                raise InputError(f"{name} is a folder; give one file, for DICOM a volume saved as NRRD or NIfTI.")
            if not path.is_file():
                raise InputError(f"{name} is a pipe or a device; give a file.")
            stored = read_header(path, name)
            if stored.problem:
                raise GeometryError(f"{name} {stored.problem}.")
            reader = self._opened(path, stored)
        except OSError as error:
            raise InputError(f"{name} cannot be opened; check that you may read it.") from error
        except RuntimeError as error:
            raise unreadable(name) from error
        _require_scalar_3d(reader, name)
        self._reader, self.unstated = reader, unstated(path, stored)
        self.size, self.spacing = reader.GetSize()[:3], self._voxel_size(path, spacing)
        dimensions = len(reader.GetSize())
        steps = np.array(reader.GetSpacing()[:3])
        self.read_spacing = np.abs(steps)
        # ITK puts the sign of a negative spacing into the direction when it reads the voxels.
        direction = np.reshape(reader.GetDirection(), (dimensions, dimensions))[:3, :3] * np.where(steps < 0, -1, 1)
        self.direction = direction.ravel().tolist()
        self.assumed = self._assumed(stored, _require_place(reader, stored, self.spacing, name))
        self._stored, self._voxels = stored, math.prod(reader.GetSize())
        self._bytes = self._voxels * (
            stored.voxel or sitk.Image([1, 1, 1], reader.GetPixelIDValue()).GetSizeOfPixelComponent()
        )
        if not stored.holds(self._bytes):
            raise incomplete(name)

    def read(self) -> sitk.Image:
        """The volume as `read_volume` returns it. Raises InputError and OutOfMemoryError."""
        image = self.read_as(sitk.sitkFloat32)
        _require_contrast(image, self.name)
        if self.zeroed:
            self.assumed.append(
                f"{self.name} has {self.zeroed} voxels that are not a number or infinite, and they were taken for 0."
            )
        return image

    def metadata(self) -> dict[str, str]:
        """The keys and values that the header holds beside the geometry."""
        return {key: self._reader.GetMetaData(key) for key in self._reader.GetMetaDataKeys()}

    def read_as(self, pixel_type: int = sitk.sitkUnknown) -> sitk.Image:
        """The voxels as they are stored, of the type of the file unless another is given. To be called once.

        Directions have unit length: MetaImage may hide a factor in them. Raises InputError and OutOfMemoryError.
        """
        # While it reads NIfTI, ITK holds what is stored twice beside the result.
        memory.require(max(2 * self._bytes + 4 * self._voxels, BLUR_BYTES * self._voxels), self.name)
        # Last, because it takes long where a NIfTI file is compressed.
        zeroed = self._stored.unpacked(self._bytes)
        if zeroed is None:
            raise incomplete(self.name)
        self.zeroed = zeroed
        if self._folder is not None:
            self._staged(self._stored, voxels=True)
        image = _executed(self._reader, self.name, pixel_type)
        if self._folder is not None:
            self._folder.cleanup()  # a copy as large as the volume, which a run would keep to its end
        if self.spacing != image.GetSpacing() and "spacing" in self.unstated:
            image.SetSpacing(self.spacing)
        return image

    def _opened(self, path: Path, stored: Stored) -> sitk.ImageFileReader:
        reader = sitk.ImageFileReader()
        if stored.reader:
            # Else ITK asks all its readers, of which some look for other files by the name.
            reader.SetImageIO(stored.reader)
        if stored.stage is not None:
            self._folder = tempfile.TemporaryDirectory(prefix="diffusion-segmentation-")
            path = self._staged(stored, voxels=False)
        reader.SetFileName(itk_name(path))
        reader.ReadImageInformation()
        return reader

    def _staged(self, stored: Stored, voxels: bool) -> Path:
        """The copy that ITK reads in the file's place, at first of its header alone."""
        try:
            return stored.stage(Path(self._folder.name), voxels)
        except DAMAGED as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise InputError(f"{self.name} needs room on the disk for a copy; free some space.") from error
            raise incomplete(self.name) from error

    def _voxel_size(self, path: Path, given: Spacing | None) -> Spacing:
        """The spacing that counts. Raises GeometryError where there is none or the file contradicts `given`."""
        stated = self._reader.GetSpacing()[:3]
        if "spacing" not in self.unstated:
            if given is not None and not np.allclose(given, stated, rtol=1e-3):
                told = " x ".join(f"{step:.4g}" for step in stated)
                raise GeometryError(f"{self.name} states voxels of {told} mm; leave out the spacing, or correct it.")
            return stated
        found = given or _spacing_beside(path)
        if found is None:
            raise GeometryError(
                f"{self.name} does not say how large its voxels are; give their size in mm with --spacing I,J,K, or "
                "save it as NRRD or NIfTI with its spacing."
            )
        return tuple(map(float, found))

    def _assumed(self, stored: Stored, used: str) -> list[str]:
        sentences = [f"{self.name} {words}." for words in (stored.note, used) if words]
        if "orientation" in self.unstated:
            # Which way each axis runs for ITK: the largest part of its direction in L, P, S.
            columns = np.reshape(self.direction, (3, 3)).T
            runs = [WAYS[int(np.abs(axis).argmax())][int(axis[np.abs(axis).argmax()] < 0)] for axis in columns]
            sentences.append(
                f"{self.name} does not state its orientation, so its axes were taken to run from {', '.join(runs[:2])} "
                f"and {runs[2]}; check left and right against the image."
            )
        return sentences


def unstated(path: Path, stored: Stored) -> tuple[str, ...]:
    """What a file leaves open: by its header, or, of formats that are not looked into, by what the format can say."""
    if stored.reader:
        return stored.unstated
    reader = sitk.ImageFileReader.GetImageIOFromFileName(itk_name(path))
    if reader in STATES_BOTH:
        return ()
    return ("orientation",) if reader in STATES_SPACING else ("orientation", "spacing")


def _spacing_beside(path: Path) -> Spacing | None:
    """The voxel size of a TIFF as nnU-Net keeps it: {"spacing": [k, j, i]} in a file of its own.

    Raises GeometryError where such a file has no three positive numbers.
    """
    beside = spacing_file(path)
    if beside is None:
        return None
    try:
        steps = [float(step) for step in json.loads(beside.read_text(encoding="utf-8-sig"))["spacing"]]
        if len(steps) != 3 or not all(0 < step < math.inf for step in steps):
            raise ValueError
    except (OSError, ValueError, KeyError, TypeError):
        raise GeometryError(f"'{beside.name}' has no \"spacing\" of three positive numbers; mend it.") from None
    return tuple(steps[::-1])


def itk_name(path: Path) -> str:
    """The name by which ITK can open a file: on Windows it reads names in the ANSI code page.

    There the short name (PROGRA~1), which is ASCII where the volume makes such names, stands for others.
    """
    if sys.platform != "win32" or str(path).isascii():
        return str(path)
    import ctypes

    short = ctypes.create_unicode_buffer(32_768)
    return short.value if ctypes.windll.kernel32.GetShortPathNameW(str(path), short, len(short)) else str(path)


def _executed(reader: sitk.ImageFileReader, name: str, pixel_type: int) -> sitk.Image:
    reader.SetOutputPixelType(pixel_type)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise (OutOfMemoryError(explain(error)[1]) if is_out_of_memory(error) else incomplete(name)) from error
    lengths = np.linalg.norm(np.reshape(image.GetDirection(), (3, 3)), axis=0)
    if np.abs(lengths - 1).max() > 1e-6:
        image.SetDirection((np.reshape(image.GetDirection(), (3, 3)) / lengths).ravel().tolist())
        image.SetSpacing((lengths * image.GetSpacing()).tolist())
    return image


def _require_place(reader: sitk.ImageFileReader, stored: Stored, spacing: Spacing, name: str) -> str:
    """Raise GeometryError unless the volume lies where its header says, on axes at right angles.

    Returns words for a warning where the header gives two places and ITK takes one of them; else nothing.
    """
    dimensions = len(reader.GetSize())
    size, origin = np.array(reader.GetSize()[:3]), np.array(reader.GetOrigin()[:3])
    direction = np.reshape(reader.GetDirection(), (dimensions, dimensions))[:3, :3]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = direction * spacing, origin
    if not np.isfinite(affine).all():
        raise GeometryError(f"{name} does not say where it lies; correct its origin, spacing and directions.")
    if np.abs(origin).max() > FARTHEST_MM:
        raise GeometryError(f"{name} lies more than a kilometre from where its coordinates begin; correct its origin.")
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if np.linalg.matrix_rank(direction) < 3 or not steps.all():
        raise GeometryError(f"{name} has axes of no extent or in one plane; correct its spacing and directions.")
    if abs(np.linalg.det(affine[:3, :3] / steps)) < LEAST_DETERMINANT:
        raise GeometryError(f"{name} has axes that are not at right angles; resample it onto a rectangular grid.")
    corners = np.array([(*corner, 1) for corner in itertools.product(*[(0, n - 1) for n in size])]).T
    away = {key: np.abs((other - affine) @ corners).max() for key, other in stored.affines.items()}
    fits = {key: bool(distance <= steps.min() / 2) for key, distance in away.items()}  # NaN does not fit
    if fits and not any(fits.values()):
        raise GeometryError(f"{name} contradicts itself about where its voxels lie; export it again.")
    if all(fits.values()):
        return ""
    used, other = sorted(fits, key=fits.get, reverse=True)
    if not np.isfinite(away[other]):
        return ""
    turned = np.linalg.inv(stored.affines[used][:3, :3]) @ stored.affines[other][:3, :3]
    angle = math.degrees(math.acos(np.clip((np.trace(turned) - 1) / 2, -1, 1)))
    skewed = abs(np.linalg.det(stored.affines[other][:3, :3] / np.linalg.norm(stored.affines[other][:3, :3], axis=0)))
    sheared = ", which is sheared," if skewed < LEAST_DETERMINANT else ""
    return (
        f"has two places in its header, {angle:.0f} degrees and up to {away[other]:.0f} mm apart; its {used} was used "
        f"and its {other}{sheared} left aside"
    )


def _require_scalar_3d(reader: sitk.ImageFileReader, name: str) -> None:
    size = reader.GetSize()
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelIDValue()):
        raise InputError(f"{name} has complex values; give its magnitude.")
    if reader.GetNumberOfComponents() != 1 and reader.HasMetaDataKey("Segment0_ID"):
        raise InputError(f"{name} has overlapping segments; export it from Slicer as a label map.")
    if reader.GetNumberOfComponents() != 1:
        raise InputError(f"{name} has {reader.GetNumberOfComponents()} values a voxel; give a grey-value volume.")
    if len(size) == 2:
        raise InputError(f"{name} is a 2-D image; give a 3-D volume.")
    if len(size) > 3:
        if math.prod(size[3:]) != 1:
            raise InputError(f"{name} is a series of {math.prod(size[3:])} volumes; give one of them.")
        reader.SetExtractSize([*size[:3], *[0] * (len(size) - 3)])
    if min(size[:3]) < 2:
        raise GeometryError(f"{name} has {' x '.join(map(str, size[:3]))} voxels; give a volume of several slices.")


def _require_contrast(image: sitk.Image, name: str) -> None:
    values = sitk.GetArrayViewFromImage(image)
    # One pass without a mask: a sum of float32 values in double precision cannot overflow, so only NaN or Inf spoil it.
    if not np.isfinite(values.sum(dtype=np.float64)):
        raise InputError(f"{name} has voxels that are not a number or infinite; replace them and try again.")
    lowest, highest = values.min(), values.max()
    if max(-lowest, highest) > LARGEST_VALUE:
        raise InputError(
            f"{name} has voxels beyond {LARGEST_VALUE:g}, which no scanner gives; replace them and try again."
        )
    if lowest == highest:
        raise InputError(f"{name} has the same value everywhere; give a volume with contrast.")
