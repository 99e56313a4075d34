"""Volumes: reading them, whether they suit a model, and the way to the model's working grid and back.

Physical space is LPS in mm, as in SimpleITK. The *input grid* is the volume's own: any size, spacing and oblique
directions; its arrays are indexed [k, j, i]. The *working grid* is the model's: isotropic, axes along L, P and S; its
arrays are indexed [z, y, x].
"""

from __future__ import annotations

import gzip
import itertools
import math
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from .errors import GeometryError, InputError, OutOfMemoryError, explain, is_out_of_memory

Box = tuple[tuple[float, float, float], tuple[float, float, float]]
"""Lower and upper corner in LPS, mm; voxels are counted with their full width."""

TOLERATED_FACTOR = 1.5
"""So far beyond the model's range of spacing or extent an answer is still given, with a warning; beyond that, none."""

SLAB_VOXELS = 2**22
"""Voxels of the input grid that are interpolated at a time: 16 MiB for each float32 array."""

HOUNSFIELD_AIR_BELOW = -500.0
"""MR intensities are not this negative, air in CT is."""

LARGEST_VALUE = 1e30
"""Beyond it differences of float32 values become infinite; no scanner gives such values, some programs mean "none"."""

FARTHEST_MM = 1e6
"""A volume whose first voxel lies a kilometre from the origin of its coordinates has a damaged header."""

LEAST_DETERMINANT = 0.999
"""Of the unit axes: where they are not at right angles, a voxel is smaller than the product of its spacings by this."""

DIMENSIONS = range(1, 6)
"""SimpleITK reads no more; with some more, NRRD and MetaImage files crash the process."""

HEADER_BYTES = 2**20
"""No header of an NRRD or MetaImage file is longer."""

NRRD_FIELD_LENGTH = 500
"""Characters of a line of an NRRD header that is neither a comment nor a key with its value."""

NUMBER_LENGTH = 100
"""No number of a text is as long."""

DEFLATE_RATIO = 1100
"""No compressed or textual encoding of voxels is that many times smaller than they are; deflate ends at 1032."""

BLUR_BYTES = 12
"""For a voxel of the input: the image, and two of its size where ITK blurs it, float32 each; measured."""


def read_volume(path: str | Path) -> sitk.Image:
    """Return the 3-D scalar volume in `path` as float32, all values finite, at least two voxels along each axis.

    Raises InputError (missing, unreadable, incomplete, colour, complex, 2-D, 4-D, NaN or infinite, constant),
    GeometryError (a single slice, axes not at right angles, place or voxel size not told or contradictory) and
    OutOfMemoryError (before any voxel is read), each with one sentence that names the file but not its folder.
    """
    path = Path(path)
    name = f"The volume '{path.name}'"
    image = _executed(_checked_reader(path, name), name, sitk.sitkFloat32)
    _require_contrast(image, name)
    return image


def read_labels(path: Path, image: sitk.Image, count: int) -> np.ndarray:
    """The numbers of a label file, int64 [k, j, i] in 0 to count - 1, on the grid of `image`.

    Raises InputError, one sentence: unreadable, not on the image's grid, or a number that is not listed; and, as
    read_volume, GeometryError and OutOfMemoryError.
    """
    name = f"The label file '{path.name}'"
    labels = _executed(_checked_reader(path, name), name)
    numbers = np.rint(sitk.GetArrayFromImage(labels)).astype(np.int64)
    if (
        labels.GetSize() != image.GetSize()
        or not np.allclose(labels.GetOrigin(), image.GetOrigin(), atol=0.01)
        or not np.allclose(labels.GetSpacing(), image.GetSpacing(), rtol=1e-3)
        or not np.allclose(labels.GetDirection(), image.GetDirection(), atol=1e-3)
    ):
        raise InputError(f"The label file '{path.name}' does not lie on its image's grid; resample it to the image.")
    if numbers.min() < 0 or numbers.max() >= count:
        raise InputError(f"The label file '{path.name}' has labels that dataset.json does not list; mend one of them.")
    return numbers


def itk_name(path: Path) -> str:
    """The name by which ITK can open a file: on Windows it reads names in the ANSI code page.

    There the short name (PROGRA~1), which is ASCII where the volume makes such names, stands for others.
    """
    if sys.platform != "win32" or str(path).isascii():
        return str(path)
    import ctypes

    short = ctypes.create_unicode_buffer(32_768)
    return short.value if ctypes.windll.kernel32.GetShortPathNameW(str(path), short, len(short)) else str(path)


def _checked_reader(path: Path, name: str) -> sitk.ImageFileReader:
    """A reader that knows the header of `path` and is set to read a 3-D scalar volume. Raises as read_volume.

    What ITK takes from a header it mostly believes: it crashes on some, waits for ever for others' data, and fills
    what a file lacks with zeros. So the header is read here first, and held against the file.
    """
    if not path.exists():
        raise InputError(f"{name} does not exist; check its name and folder.")
    if path.is_dir():
        raise InputError(f"{name} is a folder; give one file, for DICOM a volume that was saved as NRRD or NIfTI.")
    if not path.is_file():
        raise InputError(f"{name} is a pipe or a device; give a file.")
    try:
        stored = _stored(path, name)
        reader = sitk.ImageFileReader()
        reader.SetFileName(itk_name(path))
        reader.ReadImageInformation()
    except OSError as error:
        raise InputError(f"{name} cannot be opened; check that you may read it.") from error
    except RuntimeError as error:
        raise _unreadable(name) from error
    _require_scalar_3d(reader, name)
    if stored.problem:
        raise GeometryError(f"{name} {stored.problem}.")
    _require_place(reader, stored, name)
    voxels = math.prod(reader.GetSize())
    length = voxels * (stored.voxel or sitk.Image([1, 1, 1], reader.GetPixelIDValue()).GetSizeOfPixelComponent())
    if not stored.holds(length):
        raise _incomplete(name)
    # While it reads NIfTI, ITK holds what is stored twice beside the result.
    _require_memory(max(2 * length + 4 * voxels, BLUR_BYTES * voxels), name)
    # Last, because it takes long where a NIfTI file is compressed.
    if not stored.unpacks_to(length):
        raise _incomplete(name)
    return reader


def _executed(reader: sitk.ImageFileReader, name: str, pixel_type: int = sitk.sitkUnknown) -> sitk.Image:
    """The image, its directions of unit length: MetaImage may hide a factor in them."""
    reader.SetOutputPixelType(pixel_type)
    try:
        image = reader.Execute()
    except RuntimeError as error:
        raise (OutOfMemoryError(explain(error)[1]) if is_out_of_memory(error) else _incomplete(name)) from error
    lengths = np.linalg.norm(np.reshape(image.GetDirection(), (3, 3)), axis=0)
    if np.abs(lengths - 1).max() > 1e-6:
        image.SetDirection((np.reshape(image.GetDirection(), (3, 3)) / lengths).ravel().tolist())
        image.SetSpacing((lengths * image.GetSpacing()).tolist())
    return image


def _unreadable(name: str) -> InputError:
    return InputError(f"{name} cannot be read; give an NRRD, NIfTI or MetaImage file.")


def _incomplete(name: str) -> InputError:
    return InputError(f"{name} is damaged or incomplete; export it again.")


def _require_memory(needed: int, name: str) -> None:
    free = available_memory()
    if free is not None and needed > free:
        figures = f"needs about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free"
        raise OutOfMemoryError(f"{name} {figures}; crop it or resample it first.")


def available_memory() -> int | None:
    """Bytes that a process can still get, on macOS all there are; None where the system does not tell."""
    try:
        if sys.platform == "win32":
            import ctypes

            # MEMORYSTATUSEX: two numbers of 32 bits, then seven of 64; the fourth of these can still be committed.
            status = (ctypes.c_uint64 * 8)(64)
            if not ctypes.windll.kernel32.GlobalMemoryStatusEx(status):
                return None
            return int(status[4])
        if sys.platform == "darwin":
            return int(subprocess.run(["sysctl", "-n", "hw.memsize"], capture_output=True, timeout=5).stdout)
        told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return sum(int(told[key].split()[0]) * 1024 for key in ("MemAvailable", "SwapFree"))
    except (OSError, ValueError, KeyError, subprocess.SubprocessError):
        return None


@dataclass(frozen=True)
class _Stored:
    """Where the voxels of a volume are, by its header. Of formats that are not looked into, nothing is known.

    They are in `files`, `as_is` or else encoded, and begin at `offset` bytes, which for gzip count what it unpacks.
    `voxel` is their bytes where ITK tells another type than the file's. `gzipped` is a file, `inflate` a file and the
    place of a zlib stream in it, for formats whose reader in ITK fills up with zeros what does not come out.
    `problem` is why the header does not place the voxels, words for after the file's name. One of `affines`, LPS mm,
    4 x 4, must be what ITK says.
    """

    files: tuple[Path, ...] = ()
    as_is: bool = False
    offset: int = 0
    voxel: int = 0
    gzipped: Path | None = None
    inflate: tuple[Path, int] | None = None
    problem: str = ""
    affines: tuple[np.ndarray, ...] = ()

    def holds(self, length: int) -> bool:
        """False if the files cannot hold `length` bytes of voxels."""
        if not self.files:
            return True
        there = sum(file.stat().st_size for file in self.files) - self.offset * self.as_is
        return length <= there * (1 if self.as_is else DEFLATE_RATIO)

    def unpacks_to(self, length: int) -> bool:
        """False if fewer than `length` bytes of voxels come out of `gzipped` or `inflate`."""
        wanted = self.offset + length
        try:
            if self.gzipped is not None:
                return _gunzipped(self.gzipped, wanted) >= wanted
            return self.inflate is None or _inflated(*self.inflate, wanted) >= wanted
        except (OSError, EOFError, zlib.error):
            return False


def _gunzipped(path: Path, wanted: int) -> int:
    """Bytes that come out of a gzip file, counted until they are more than `wanted`. Raises if it is not sound."""
    count = 0
    with gzip.open(path, "rb") as file:
        while count <= wanted and (piece := file.read(2**22)):
            count += len(piece)
    return count


def _inflated(path: Path, start: int, wanted: int) -> int:
    """Bytes that come out of the zlib stream at `start`, counted as in `_gunzipped`."""
    count, inflater = 0, zlib.decompressobj()
    with open(path, "rb") as file:
        file.seek(start)
        while count <= wanted and not inflater.eof:
            piece = inflater.unconsumed_tail or file.read(2**20)
            if not piece:
                raise EOFError
            count += len(inflater.decompress(piece, 2**22))
    return count


def _stored(path: Path, name: str) -> _Stored:
    """What the header says. Raises InputError where ITK must not see the file, OSError where it cannot be opened."""
    with open(path, "rb") as file:
        start = file.read(HEADER_BYTES)
    if start.startswith(b"NRRD"):
        return _stored_nrrd(path, start, name)
    if path.suffix.lower() in (".mha", ".mhd"):
        return _stored_meta(path, start, name)
    if re.search(r"\.nii(\.gz)?$", path.name.lower()):
        return _stored_nifti(path, path, start, name)
    if re.search(r"\.(hdr|img)(\.gz)?$", path.name.lower()):
        header, data = (_beside(path, end) for end in (".hdr", ".img"))
        if header is None or data is None:
            raise InputError(f"{name} lacks its other half, .hdr or .img; put it beside the file.")
        with open(header, "rb") as file:
            return _stored_nifti(header, data, file.read(HEADER_BYTES), name)
    return _Stored()


def _beside(path: Path, end: str) -> Path | None:
    """The file of this ending that belongs to a pair of NIfTI or Analyze files."""
    stem = re.sub(r"\.(hdr|img)(\.gz)?$", "", path.name, flags=re.IGNORECASE)
    found = (path.with_name(stem + written) for written in (end, f"{end}.gz", end.upper(), f"{end}.gz".upper()))
    return next((file for file in found if file.is_file()), None)


def _stored_nrrd(path: Path, start: bytes, name: str) -> _Stored:
    end = re.search(rb"(?:\r\n|\n|\r(?!\n)){2}", start)
    fields, listed = {}, None
    for line in _lines(start[: end.start() if end else len(start)])[1:]:
        key, colon, value = line.partition(":")
        if line.startswith("#") or value.startswith("="):
            continue
        # ITK crashes on long ones, when it complains about them.
        if not colon or len(line) > NRRD_FIELD_LENGTH:
            raise _unreadable(name)
        key, value = key.lower().replace(" ", ""), value.strip()
        fields[key] = value
        if key == "datafile" and value.upper().startswith("LIST"):
            lines = _lines(start)
            listed = [entry.strip() for entry in lines[lines.index(line) + 1 :] if entry.strip()]
            break
    if _integer(fields.get("dimension", "")) not in DIMENSIONS:
        raise _unreadable(name)
    data = fields.get("datafile")
    if data is None:
        files = (path,)
    elif listed is not None:
        files = _data_files(path, listed, name)
    elif numbered := re.fullmatch(rf"{_PATTERN}(?:\s+\d+)?", data):
        files = _data_files(path, _numbered(*numbered.groups(), name), name)
    else:
        files = _data_files(path, [data], name)
    encoding, offset = fields.get("encoding", "").lower(), end.end() if end and data is None else 0
    if encoding in ("text", "txt", "ascii") and any(_has_long_word(file, offset) for file in files):
        raise _incomplete(name)
    return _Stored(files, encoding == "raw", offset, problem=_nrrd_problem(fields))


def _has_long_word(path: Path, offset: int) -> bool:
    """Whether a file holds what is too long for a number, of which ITK crashes."""
    before = b""
    with open(path, "rb") as file:
        file.seek(offset)
        while piece := file.read(2**20):
            if re.search(rb"[^\s,]{%d}" % NUMBER_LENGTH, before + piece):
                return True
            before = piece[-NUMBER_LENGTH:]
    return False


def _nrrd_problem(fields: Mapping[str, str]) -> str:
    """Why an NRRD header does not tell how large a voxel is: ITK would take 1 mm."""
    units = re.findall(r'"([^"]*)"', fields.get("spaceunits", ""))
    if any(unit.strip().lower() not in ("", "mm", "millimeter", "millimetre", "???") for unit in units):
        return "is not measured in mm; convert it to mm"
    directions = re.findall(r"\(([^)]*)\)", fields.get("spacedirections", ""))
    vectors = [[_number(part) for part in vector.split(",")] for vector in directions]
    spacings = [_number(part) for part in fields.get("spacings", "").split()]
    known = sum(all(map(math.isfinite, vector)) for vector in vectors) + sum(map(math.isfinite, spacings))
    return "" if known >= 3 else "does not say how large its voxels are; save it with its spacing"


def _stored_meta(path: Path, start: bytes, name: str) -> _Stored:
    fields, position, listed = {}, 0, []
    while position < len(start) and "ElementDataFile" not in fields:
        end = start.find(b"\n", position) + 1 or len(start)
        line = start[position:end].decode("utf-8", "surrogateescape")
        key, separator, value = (part.strip() for part in re.sub("[=:]", "\0", line, count=1).partition("\0"))
        if key in fields:
            raise _incomplete(name)
        if separator:
            fields[key] = value
        position = end
    data, dimensions, size = (fields.get(key, "") for key in ("ElementDataFile", "NDims", "DimSize"))
    count = _integer(dimensions)
    if not data or count not in DIMENSIONS:
        raise _unreadable(name)
    sizes = [_integer(part) for part in size.split()]
    if len(sizes) != count or not all(0 < n < 2**31 for n in sizes):
        raise _incomplete(name)
    _require_numbers(fields, count, name)
    first, *rest = data.split()
    if data.upper() == "LOCAL":
        files = (path,)
    elif first.upper() == "LIST":
        axis = int(match.group()) if rest and (match := re.match(r"\d\d?", rest[0])) else count - 1
        listed = [entry.strip() for entry in _lines(start[position:]) if entry.strip()]
        # With fewer ITK leaves the last slices as they happen to be in memory.
        if len(listed) != math.prod(sizes[axis:]):
            raise _incomplete(name)
        files = _data_files(path, listed, name)
    elif "%" in data:
        numbered = re.fullmatch(_PATTERN, data)
        names = _numbered(*numbered.groups(), name) if numbered else []
        if len(names) != sizes[-1]:
            raise _incomplete(name)
        files = _data_files(path, names, name)
    else:
        files = _data_files(path, [data], name)
    local = data.upper() == "LOCAL"
    problem = ""
    if not {"ElementSpacing", "ElementSize"} & set(fields):
        problem = "does not say how large its voxels are; save it with its spacing"
    if fields.get("DistanceUnits", "mm").lower() not in ("", "?", "mm"):
        problem = "is not measured in mm; convert it to mm"
    if fields.get("CompressedData", "")[:1] not in tuple("Tt1"):
        as_is = fields.get("BinaryData", "True")[:1] in tuple("Tt1")
        return _Stored(files, as_is, position * local, problem=problem)
    length = fields.get("CompressedDataSize", "" if local else str(files[0].stat().st_size))
    # Without the right length ITK takes for voxels what happens to be in memory.
    if _integer(length) != sum(file.stat().st_size for file in files) - position * local:
        raise _incomplete(name)
    return _Stored(files, inflate=(files[0], position * local) if len(files) == 1 else None, problem=problem)


_META_NUMBERS = {
    **dict.fromkeys(("Offset", "Position", "Origin", "ElementSpacing", "ElementSize"), 1),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), 2),
}
"""The fields that place the voxels, and whether they have one number for each dimension or for each pair of them."""


def _require_numbers(fields: Mapping[str, str], dimensions: int, name: str) -> None:
    """ITK takes 0 for what is no number, and words of the next line for numbers that lack."""
    for key, power in _META_NUMBERS.items():
        numbers = [_number(part) for part in fields[key].split()] if key in fields else None
        if numbers is not None and (len(numbers) != dimensions**power or not all(map(math.isfinite, numbers))):
            raise GeometryError(f"{name} has no valid numbers in the field '{key}' of its header; export it again.")


def _lines(text: bytes) -> list[str]:
    """As ITK counts them: str.splitlines knows more ends of lines."""
    return re.split("\r\n|\n|\r", text.decode("utf-8", "surrogateescape"))


def _integer(text: str) -> int:
    """A whole number of at most 18 digits, -1 for anything else."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else -1


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


_PATTERN = r"(.*%0?\d{0,2}d[^%]*?)\s+(-?\d{1,18})\s+(-?\d{1,18})\s+(-?\d{1,18})"
"""Of the names of many data files: printf's pattern, the first number, the last and the step."""


def _numbered(pattern: str, first: str, last: str, step: str, name: str) -> list[str]:
    begin, end, by = int(first), int(last), int(step)
    if not by or not 0 <= (end - begin) // by < HEADER_BYTES or pattern.count("%") != 1:
        raise _incomplete(name)
    numbers = range(begin, end + (1 if by > 0 else -1), by)
    return [pattern % number for number in numbers]


def _data_files(path: Path, names: list[str], name: str) -> tuple[Path, ...]:
    """The files beside a header. Raises InputError if one is missing, or is a pipe for which ITK would wait."""
    files = tuple(path.parent / entry for entry in names)
    for file, entry in zip(files, names, strict=True):
        if entry == "-" or not file.is_file():
            raise InputError(f"{name} lacks its data file '{Path(entry).name}'; put it beside the header.")
    return files


_NIFTI_BYTES = {1: (2, 256), 2: (4, 512), 4: (8, 16, 768), 8: (64, 1024, 1280)}
"""Bytes of a voxel: the numbers of NIfTI's types of scalars."""


def _stored_nifti(header: Path, data: Path, start: bytes, name: str) -> _Stored:
    """Of NIfTI-1 and Analyze; ITK reads no NIfTI-2."""
    if start.startswith(b"\x1f\x8b"):
        start = _inflated_start(start)
    order = {struct.pack("<i", 348): "<", struct.pack(">i", 348): ">"}.get(start[:4])
    if order is None or len(start) < 348:
        raise _unreadable(name)

    def take(place: int, form: str) -> tuple[Any, ...]:
        return struct.unpack_from(order + form, start, place)

    (datatype,), (offset,), (units,) = take(70, "h"), take(108, "f"), take(123, "B")
    pixdim = np.array(take(76, "8f"))
    qform, sform = take(252, "2h") if start[344:345] == b"n" else (0, 0)  # Analyze has something else there
    # Where the offset points into the header, ITK takes what is there for voxels.
    if not 348 * (header == data) <= offset < 2**62:
        raise _incomplete(name)
    affines = []
    with np.errstate(all="ignore"):
        if qform > 0:
            affines.append(_qform(np.array(take(256, "6f")), pixdim))
        if sform > 0:
            affines.append(np.vstack([np.reshape(take(280, "12f"), (3, 4)), [0, 0, 0, 1]]))
        scale = {1: 1000.0, 3: 0.001}.get(units & 7, 1.0)
        affines = [np.diag([-scale, -scale, scale, 1]) @ affine for affine in affines]
    problem = ""
    if not affines and not (np.isfinite(pixdim[1:4]) & (pixdim[1:4] > 0)).all():
        problem = "does not say how large its voxels are; save it with its spacing"
    with open(data, "rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    # ITK tells float for voxels that it scales.
    voxel = next((size for size, types in _NIFTI_BYTES.items() if datatype in types), 0)
    place = {"problem": problem, "affines": tuple(affines)}
    return _Stored((data,), not gzipped, int(offset), voxel, data if gzipped else None, **place)


def _inflated_start(start: bytes) -> bytes:
    try:
        return zlib.decompressobj(wbits=31).decompress(start, 1024)
    except zlib.error:
        return b""


def _qform(numbers: np.ndarray, pixdim: np.ndarray) -> np.ndarray:
    """The RAS affine of a NIfTI header's quaternion b, c, d and offset; NaN where they are not numbers."""
    quaternion, offset = np.split(numbers, 2)
    quaternion = quaternion / max(1.0, np.linalg.norm(quaternion))
    b, c, d = quaternion
    a = math.sqrt(max(0.0, 1 - b * b - c * c - d * d)) if np.isfinite(quaternion).all() else math.nan
    rotation = [
        [a * a + b * b - c * c - d * d, 2 * (b * c - a * d), 2 * (b * d + a * c)],
        [2 * (b * c + a * d), a * a + c * c - b * b - d * d, 2 * (c * d - a * b)],
        [2 * (b * d - a * c), 2 * (c * d + a * b), a * a + d * d - b * b - c * c],
    ]
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.abs(pixdim[1:4]) * [1, 1, -1 if pixdim[0] < 0 else 1]
    affine[:3, 3] = offset
    return affine


def _require_place(reader: sitk.ImageFileReader, stored: _Stored, name: str) -> None:
    """The volume lies where its header says, on axes at right angles."""
    dimensions = len(reader.GetSize())
    size, spacing, origin = (np.array(got[:3]) for got in (reader.GetSize(), reader.GetSpacing(), reader.GetOrigin()))
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
    away = [np.abs((other - affine) @ corners).max() for other in stored.affines]
    if away and not min(np.where(np.isnan(away), math.inf, away)) <= steps.min() / 2:
        raise GeometryError(f"{name} contradicts itself about where its voxels lie; export it again.")


def _require_scalar_3d(reader: sitk.ImageFileReader, name: str) -> None:
    size = reader.GetSize()
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelIDValue()):
        raise InputError(f"{name} has complex values; give its magnitude.")
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


def check_fits(image: sitk.Image, input_range: Mapping[str, Any]) -> list[str]:
    """Return warnings, one sentence each, about what is unusual for the model in `image`.

    `input_range` is the model's: {"spacing_mm": [low, high], "extent_mm": [low, high], "modality": "MR"}. Raises
    GeometryError where spacing or field of view is more than TOLERATED_FACTOR beyond the range.
    """
    spacing = image.GetSpacing()
    extent = [n * s for n, s in zip(image.GetSize(), spacing, strict=True)]
    warnings = []
    for values, key, what in ((spacing, "spacing_mm", "voxel spacing"), (extent, "extent_mm", "field of view")):
        low, high = input_range[key]
        if all(low <= value <= high for value in values):
            continue
        shown = " x ".join(f"{value:.4g}" for value in values)
        sentence = f"The {what} is {shown} mm, the model was made for {low:g} to {high:g} mm"
        if min(values) * TOLERATED_FACTOR < low or max(values) > high * TOLERATED_FACTOR:
            raise GeometryError(f"{sentence}; choose another volume or model.")
        warnings.append(f"{sentence}; look at the result with care.")
    if input_range.get("modality") == "MR" and sitk.GetArrayViewFromImage(image).min() < HOUNSFIELD_AIR_BELOW:
        warnings.append("The values look like CT, the model was made for MR; do not trust the result.")
    return warnings


def bounding_box(image: sitk.Image) -> Box:
    """Return the LPS box around `image`, its outermost voxels included with their full width."""
    return _box_around(image, [(-0.5, n - 0.5) for n in image.GetSize()])


def _box_around(image: sitk.Image, ranges: list[tuple[float, float]]) -> Box:
    corners = [image.TransformContinuousIndexToPhysicalPoint(corner) for corner in itertools.product(*ranges)]
    return tuple(np.min(corners, axis=0).tolist()), tuple(np.max(corners, axis=0).tolist())


def working_image(
    image: sitk.Image, spacing_mm: float, box: Box | None = None, outside: float | None = None
) -> sitk.Image:
    """Return `image` (float32) on the working grid of `spacing_mm` that covers `box`, by default the whole image.

    The grid is centred on the box and reaches beyond it by less than one voxel in all. Outside the image the
    value `outside` is assumed, by default the image's minimum.
    """
    lower, upper = bounding_box(image) if box is None else box
    # Without the small allowance, rounding in an oblique direction matrix would add a voxel of nothing.
    size = [max(1, math.ceil((b - a) / spacing_mm - 1e-4)) for a, b in zip(lower, upper, strict=True)]
    origin = [(a + b) / 2 - (n - 1) / 2 * spacing_mm for a, b, n in zip(lower, upper, size, strict=True)]
    if outside is None:
        outside = float(sitk.GetArrayViewFromImage(image).min())
    resample = sitk.ResampleImageFilter()
    resample.SetSize(size)
    resample.SetOutputOrigin(origin)
    resample.SetOutputSpacing([spacing_mm] * 3)
    resample.SetOutputDirection(np.eye(3).ravel().tolist())
    resample.SetInterpolator(sitk.sitkLinear)
    resample.SetDefaultPixelValue(outside)
    resample.SetOutputPixelType(sitk.sitkFloat32)
    return resample.Execute(_smoothed_for(image, spacing_mm))


def _smoothed_for(image: sitk.Image, spacing_mm: float) -> sitk.Image:
    """Blur along the input axes that are finer than `spacing_mm`, so that coarser sampling does not alias.

    A voxel of width w is taken as a Gaussian of FWHM w; the blur that turns one width into the other has the variance
    (spacing_mm^2 - w^2) / (8 ln 2) in mm^2. Axes that are coarser already keep all they have.
    """
    variance = [max(0.0, spacing_mm**2 - w**2) / (8 * math.log(2)) for w in image.GetSpacing()]
    if not any(variance):
        return image
    gaussian = sitk.DiscreteGaussianImageFilter()
    gaussian.SetVariance(variance)
    gaussian.SetUseImageSpacing(True)
    gaussian.SetMaximumError(0.001)
    gaussian.SetMaximumKernelWidth(64)
    return gaussian.Execute(image)


class Projection:
    """The way back: class probabilities on the working grid become labels on the input grid.

    Probabilities are interpolated linearly, one class at a time and in slabs, so that beyond result and input a few
    float32 arrays of SLAB_VOXELS are all that is held. Outside the working grid everything is background (class 0).
    `p` is float32 [C, z, y, x] on the working grid and sums to 1 over the classes.
    """

    def __init__(self, working: sitk.Image, reference: sitk.Image) -> None:
        """Use the geometry, not the values, of the two images. Raises GeometryError if they have no voxel in common."""
        # Numbers only: keeping an image here would keep its voxels in memory.
        self._working_shape = working.GetSize()[::-1]
        self._working_spacing = working.GetSpacing()
        self._working_origin = working.GetOrigin()
        self._shape = reference.GetSize()[::-1]
        self._spacing = reference.GetSpacing()
        self._origin = reference.GetOrigin()
        self._direction = reference.GetDirection()
        self.box = _covering(working, reference)

    def consensus(self, p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return labels (uint8) and entropy (float32, bits), both [k, j, i] on the whole input grid."""
        index, size = self.box
        labels = np.zeros(self._shape, np.uint8)
        entropy = np.zeros(self._shape, np.float32)
        inside = tuple(slice(a, a + n) for a, n in zip(index[::-1], size[::-1], strict=True))
        ceiling = np.float32(math.log2(len(p)))
        for slab, classes in self._slabs(p):
            best, bits = _Argmax(), np.float32(0)
            for q in classes:
                best.add(q)
                # 0 log 0 = 0: the smallest normal float32 in place of 0 keeps the logarithm finite.
                bits = bits - q * np.log2(np.maximum(q, np.finfo(np.float32).tiny))
            labels[inside][slab] = best.labels
            entropy[inside][slab] = np.clip(bits, 0, ceiling)
        return labels, entropy

    def labels(self, p: np.ndarray) -> np.ndarray:
        """Return the most probable label, uint8 [kb, jb, ib] on `box`; of equals the lower."""
        labels = np.empty(self.box[1][::-1], np.uint8)
        for slab, classes in self._slabs(p):
            best = _Argmax()
            for q in classes:
                best.add(q)
            labels[slab] = best.labels
        return labels

    def quantised(self, p: np.ndarray) -> np.ndarray:
        """Return the probabilities as uint8 [C, kb, jb, ib] on `box`; 255 is 1.

        Their most probable class is that of `consensus`: where rounding makes two equal, the right one gains a 255th.
        """
        quantised = np.empty((len(p), *self.box[1][::-1]), np.uint8)
        for slab, classes in self._slabs(p):
            best, rounded = _Argmax(), _Argmax()
            for c, q in enumerate(classes):
                best.add(q)
                quantised[c][slab] = np.rint(q * np.float32(255))
                rounded.add(quantised[c][slab])
            wrong = np.nonzero(rounded.labels != best.labels)
            quantised[(best.labels[wrong], wrong[0] + slab.start, *wrong[1:])] += 1
        return quantised

    def nearest(self, labels: np.ndarray) -> np.ndarray:
        """Return labels uint16 [z, y, x] of the working grid on `box` [kb, jb, ib], each from the nearest voxel."""
        if labels.shape != self._working_shape:
            raise ValueError(f"labels of shape {labels.shape} do not lie on the working grid {self._working_shape}")
        index, size = self.box
        image = sitk.GetImageFromArray(np.ascontiguousarray(labels, np.uint16))
        image.SetSpacing(self._working_spacing)
        image.SetOrigin(self._working_origin)
        resample = sitk.ResampleImageFilter()
        resample.SetSize(size)
        resample.SetOutputOrigin(self._point(index))
        resample.SetOutputSpacing(self._spacing)
        resample.SetOutputDirection(self._direction)
        resample.SetInterpolator(sitk.sitkNearestNeighbor)
        return sitk.GetArrayFromImage(resample.Execute(image))

    def ras(self, zyx: tuple[int, int, int]) -> tuple[float, float, float]:
        """The centre of a voxel of the working grid in RAS, mm."""
        left, posterior, superior = (
            o + s * n for o, s, n in zip(self._working_origin, self._working_spacing, zyx[::-1], strict=True)
        )
        return -left, -posterior, superior

    def _slabs(self, p: np.ndarray) -> Iterator[tuple[slice, Iterator[np.ndarray]]]:
        """Yield slices along k of `box` and, for each, an iterator over the classes' interpolated probabilities."""
        if p.shape[1:] != self._working_shape:
            raise ValueError(f"probabilities of shape {p.shape} do not lie on the working grid {self._working_shape}")
        index, (ni, nj, nk) = self.box
        images = [self._on_working_grid(channel) for channel in p]
        thickness = max(1, SLAB_VOXELS // (ni * nj))
        for k in range(0, nk, thickness):
            depth = min(thickness, nk - k)
            resample = sitk.ResampleImageFilter()
            resample.SetSize((ni, nj, depth))
            resample.SetOutputOrigin(self._point((index[0], index[1], index[2] + k)))
            resample.SetOutputSpacing(self._spacing)
            resample.SetOutputDirection(self._direction)
            resample.SetInterpolator(sitk.sitkLinear)
            yield slice(k, k + depth), _interpolated(resample, images)

    def _on_working_grid(self, channel: np.ndarray) -> sitk.Image:
        image = sitk.GetImageFromArray(np.ascontiguousarray(channel, np.float32))
        image.SetSpacing(self._working_spacing)
        image.SetOrigin(self._working_origin)
        return image

    def _point(self, ijk: tuple[int, int, int]) -> list[float]:
        """Return the centre of an input voxel in LPS, mm."""
        step = np.reshape(self._direction, (3, 3)) * self._spacing
        return (np.array(self._origin) + step @ ijk).tolist()


def _interpolated(resample: sitk.ResampleImageFilter, images: list[sitk.Image]) -> Iterator[np.ndarray]:
    for c, image in enumerate(images):
        resample.SetDefaultPixelValue(1.0 if c == 0 else 0.0)
        result = resample.Execute(image)  # named, because the view below does not keep it alive
        yield sitk.GetArrayViewFromImage(result)


class _Argmax:
    """Running argmax over arrays that are seen one after another; of equals the first stays."""

    def __init__(self) -> None:
        self.labels: np.ndarray | None = None
        self._count = 0

    def add(self, q: np.ndarray) -> None:
        if self.labels is None:
            self.labels, self._best = np.zeros(q.shape, np.uint8), q.copy()
        else:
            np.copyto(self.labels, self._count, where=q > self._best)
            np.maximum(self._best, q, out=self._best)
        self._count += 1


def _covering(working: sitk.Image, reference: sitk.Image) -> tuple[tuple[int, int, int], tuple[int, int, int]]:
    """Return (index, size) in ijk of the smallest block of `reference` with every voxel centre inside `working`."""
    ranges = [(-0.5, n - 0.5) for n in working.GetSize()]
    corners = [
        reference.TransformPhysicalPointToContinuousIndex(working.TransformContinuousIndexToPhysicalPoint(corner))
        for corner in itertools.product(*ranges)
    ]
    first = np.maximum(np.ceil(np.min(corners, axis=0) - 1e-6), 0).astype(int)
    last = np.minimum(np.floor(np.max(corners, axis=0) + 1e-6), np.array(reference.GetSize()) - 1).astype(int)
    if (last < first).any():
        raise GeometryError("The region to segment lies outside the volume; choose another region.")
    return tuple(first.tolist()), tuple((last - first + 1).tolist())
