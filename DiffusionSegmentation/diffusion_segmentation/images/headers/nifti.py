"""NIfTI-1, NIfTI-2 and Analyze files: header, and a copy where ITK would misread it. https://nifti.nimh.nih.gov"""

from __future__ import annotations

import math
import re
import shutil
import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy import linalg
from scipy.spatial.transform import Rotation

from .volume_header import VolumeHeader, incomplete, is_gzip, opened, unreadable

# Bytes of a voxel, and the NIfTI codes of the scalar types of that size.
_VOXEL_BYTES = {1: (2, 256), 2: (4, 512), 4: (8, 16, 768), 8: (64, 1024, 1280)}
# Endings with which ITK looks for the other half of a volume.
ENDING = re.compile(r"\.(nii|hdr|img|nia)(\.gz)?$", re.IGNORECASE)
# Affines with a larger element, or NaN, are not examined here but refused after ITK has read the geometry.
MAX_AFFINE_ELEMENT = 1e9
MAX_DIM = 2**15  # exclusive upper limit for the voxels along an axis in NIfTI-1
# Relative difference of the voxel sizes of qform and sform up to which they agree; float32 rounding stays below.
SPACING_TOLERANCE = 0.01
ROUNDED_COSINE = 1e-3  # cosine between two axes that rounding can explain: a quarter of a voxel over 256 voxels
SKEWED_COSINE = 1e-5  # cosine between two axes of an sform above which ITK may refuse the file
# Raised by `VolumeHeader.rewrite`: damaged file, full disk, or a header value that NIfTI-1 cannot store.
REWRITE_ERRORS = (OSError, EOFError, zlib.error, ValueError, OverflowError, struct.error)

_FIELDS = {
    # struct format and byte offset of each field in NIfTI-1 (348 bytes) and NIfTI-2 (540 bytes)
    348: {
        **{"datatype": ("h", 70), "offset": ("f", 108), "units": ("B", 123), "pixdim": ("8f", 76)},
        **{"codes": ("2h", 252), "quaternion": ("6f", 256), "rows": ("12f", 280), "dim": ("8h", 40)},
        **{"slope": ("2f", 112), "bitpix": ("h", 72)},
    },
    540: {
        **{"datatype": ("h", 12), "offset": ("q", 168), "units": ("i", 500), "pixdim": ("8d", 104)},
        **{"codes": ("2i", 344), "quaternion": ("6d", 352), "rows": ("12d", 400), "dim": ("8q", 16)},
        **{"slope": ("2d", 176), "bitpix": ("h", 14)},
    },
}


@dataclass(frozen=True)
class NiftiHeader:
    """Header fields: `size` is 348 or 540 bytes, `order` "<" or ">", `magic` empty for Analyze."""

    size: int
    order: str
    magic: bytes
    fields: Mapping[str, tuple[Any, ...]]

    @classmethod
    def parse(cls, start: bytes) -> NiftiHeader | None:
        """Parse the first bytes of a file, gzipped or not; None if they are not such a header."""
        if start.startswith(b"\x1f\x8b"):
            try:
                start = zlib.decompressobj(wbits=31).decompress(start, 1024)
            except zlib.error:
                return None
        for size, layout in _FIELDS.items():
            for order in "<>":
                if start[:4] == struct.pack(order + "i", size) and len(start) >= size:
                    magic = start[344:348] if size == 348 else start[4:8]
                    if size == 540 and not magic.startswith(b"n"):
                        return None
                    fields = {key: struct.unpack_from(order + form, start, at) for key, (form, at) in layout.items()}
                    if not magic.startswith(b"n"):
                        magic, fields["codes"] = b"", (0, 0)  # Analyze stores other data there
                    return cls(size, order, magic, fields)
        return None

    def as_nifti1(self) -> bytearray:
        """The 348 bytes of a NIfTI-1 header with these fields. Raises ValueError and struct.error for large values."""
        if not all(0 <= n < MAX_DIM for n in self.fields["dim"]):
            raise ValueError("too many voxels along an axis")
        raw = bytearray(348)
        struct.pack_into(self.order + "i", raw, 0, 348)
        fields = {**self.fields, "units": (self.fields["units"][0] & 0xFF,)}
        for key, (form, at) in _FIELDS[348].items():
            struct.pack_into(self.order + form, raw, at, *fields[key])
        return raw

    def affines(self) -> dict[str, np.ndarray]:
        """The "qform" and "sform" that are set: index to RAS, 4 x 4, in the units of the file."""
        affines, (qform, sform) = {}, self.fields["codes"]
        with np.errstate(all="ignore"):
            if qform > 0:
                affines["qform"] = _qform(np.array(self.fields["quaternion"]), np.array(self.fields["pixdim"]))
            if sform > 0:
                affines["sform"] = np.vstack([np.reshape(self.fields["rows"], (3, 4)), [0, 0, 0, 1]]).astype(float)
        return affines


def read_nifti(path: Path, header_file: Path, data_file: Path, start: bytes, name: str) -> VolumeHeader:
    """Parse `header_file`, whose first bytes are `start`; the voxels are in `data_file`. Raises InputError.

    `path` is the file that the user named, one of the two.
    """
    header = NiftiHeader.parse(start)
    if header is None:
        raise unreadable(name)
    fields = header.fields
    (datatype,), (offset,), (units,) = fields["datatype"], fields["offset"], fields["units"]
    # ITK reads header bytes as voxels where the offset points into the header.
    if not header.size * (header_file == data_file) <= offset < 2**62:
        raise incomplete(name)
    affines, new_sform, note = header.affines(), None, ""
    sform = affines.get("sform", np.eye(4))
    # Finite, and three axes that are linearly independent.
    if len(affines) == 2 and not (np.isfinite(sform).all() and np.linalg.matrix_rank(sform[:3, :3]) == 3):
        new_sform = np.zeros((4, 4))
        del affines["sform"]
        note = "has an sform with axes of zero length or in one plane, so its qform was used"
    problem = _contradiction(affines)
    if list(affines) == ["sform"]:
        new_sform, problem, note = _straightened(sform, fields["dim"][1:4])
        if new_sform is not None:
            affines["sform"] = new_sform
    sized = all(0 < step < math.inf for step in fields["pixdim"][1:4])
    missing = () if affines else ("orientation",) if sized else ("orientation", "spacing")
    gzipped = is_gzip(data_file)
    rewrite: Callable[[Path, bool], Path] | None = None
    if header.size == 540 or new_sform is not None or not _itk_finds_files(path, header_file, data_file, gzipped):
        rewrite = partial(_rewrite, header, header_file, data_file, int(offset), new_sform)
    to_mm = {1: 1000.0, 3: 0.001}.get(units & 7, 1.0)
    ras_to_lps = np.diag([-to_mm, -to_mm, to_mm, 1])
    return VolumeHeader(
        data_files=(data_file,),
        header_file=header_file,
        raw=not gzipped,
        offset=int(offset),
        # ITK reports float for integer voxels with a scale.
        voxel_bytes=next((size for size, types in _VOXEL_BYTES.items() if datatype in types), 0),
        compression="gzip" if gzipped else "",
        problem=problem,
        affines={key: ras_to_lps @ affine for key, affine in affines.items()},
        image_io="NiftiImageIO",
        float_type={16: f"{header.order}f4", 64: f"{header.order}f8"}.get(datatype, ""),
        missing=missing,
        note=note,
        rewrite=rewrite,
    )


def _rewrite(
    header: NiftiHeader,
    header_file: Path,
    data_file: Path,
    offset: int,
    sform: np.ndarray | None,
    folder: Path,
    voxels: bool,
) -> Path:
    """Write the volume uncompressed into `folder` and return the file that ITK opens; only its header without `voxels`.

    `sform` (index to RAS, 4 x 4) replaces that of the file; an sform of zeros removes it. NIfTI-2 becomes NIfTI-1 and a
    pair of files a single file. Analyze stays a pair, because ITK places it differently from NIfTI. Raises
    REWRITE_ERRORS.
    """
    if header.size == 540:
        raw = header.as_nifti1()
    else:
        with opened(header_file) as file:
            raw = bytearray(file.read(header.size))
    if not header.magic:
        target, copy = folder / "volume.hdr", folder / "volume.img"
        target.write_bytes(raw)
        start, offset = b"", 0
    else:
        struct.pack_into(header.order + "f", raw, 108, 352)
        struct.pack_into("4s", raw, 344, b"n+1")
        if sform is not None and not sform.any():
            struct.pack_into(header.order + "h", raw, 254, 0)
        elif sform is not None:
            struct.pack_into(header.order + "12f", raw, 280, *sform[:3].ravel())
        target = copy = folder / "volume.nii"
        start = bytes(raw) + bytes(4)
    with opened(data_file) as source, open(copy, "wb") as file:
        file.write(start)
        if voxels:
            source.seek(offset)
            shutil.copyfileobj(source, file)
    return target


def _itk_finds_files(path: Path, header_file: Path, data_file: Path, gzipped: bool) -> bool:
    """Whether ITK, which goes by the file name, opens these files and no others."""
    files = {path, header_file, data_file}
    endings = [match.group() for file in files if (match := ENDING.search(file.name))]
    if any(ending != ending.lower() for ending in endings):
        return False  # ITK warns about some capitals and does not recognise others
    if gzipped and not path.name.endswith(".gz"):
        return False
    stem = ENDING.sub("", path.name)
    try:
        siblings = list(path.parent.iterdir())
    except OSError:
        return False  # the folder's files can be opened, but not listed
    same_stem = (file for file in siblings if ENDING.search(file.name) and ENDING.sub("", file.name) == stem)
    # samefile: on a case-insensitive file system two names can be one file.
    return all(any(sibling.samefile(file) for file in files) for sibling in same_stem if sibling.is_file())


def _straightened(sform: np.ndarray, size: tuple[int, ...]) -> tuple[np.ndarray | None, str, str]:
    """For a file with an sform only: the sform with the nearest orthogonal axes, a problem, and a note.

    None if its axes are orthogonal already. A problem if straightening moves a voxel by half a voxel or more.
    """
    with np.errstate(all="ignore"):
        spacing = np.linalg.norm(sform[:3, :3], axis=0)
        unit = sform[:3, :3] / spacing
        cosine = float(np.abs(unit.T @ unit - np.eye(3)).max())  # the largest between two axes
    if not np.abs(sform).max() < MAX_AFFINE_ELEMENT or not cosine > SKEWED_COSINE:
        return None, "", ""  # also for NaN, and for an axis of length 0
    axes = linalg.polar(unit)[0] * spacing
    corners = np.array(np.meshgrid(*[(-n / 2, n / 2) for n in size])).reshape(3, -1)
    if np.abs((sform[:3, :3] - axes) @ corners).max() >= spacing.min() / 2:
        angle = math.degrees(math.acos(min(1.0, cosine)))
        problem = (
            f"has a sheared sform, its axes meet at {angle:.0f} degrees, as after a CT with a tilted gantry; resample "
            "it onto a grid with axes at right angles, in Slicer with 'Resample Scalar/Vector/DWI Volume'"
        )
        return None, problem, ""
    note = "has a slightly sheared sform, which was straightened by less than half a voxel"
    straight = np.block([[axes, sform[:3, 3:]], [np.zeros((1, 3)), 1]])
    return straight, "", note if cosine > ROUNDED_COSINE else ""


def _contradiction(affines: Mapping[str, np.ndarray]) -> str:
    """The problem where qform and sform differ in voxel size or handedness."""
    if len(affines) < 2 or not all(np.isfinite(affine).all() for affine in affines.values()):
        return ""
    spacings = {key: np.linalg.norm(affine[:3, :3], axis=0) for key, affine in affines.items()}
    qform, sform = (" x ".join(f"{step:.4g}" for step in spacings[key]) for key in ("qform", "sform"))
    if not np.allclose(spacings["qform"], spacings["sform"], rtol=SPACING_TOLERANCE):
        return f"has voxels of {qform} by its qform and of {sform} by its sform; correct one of them and save it again"
    if np.linalg.det(affines["qform"][:3, :3]) * np.linalg.det(affines["sform"][:3, :3]) < 0:
        return "is mirrored by its sform and not by its qform, or the other way round; correct one and save it again"
    return ""


def _qform(numbers: np.ndarray, pixdim: np.ndarray) -> np.ndarray:
    """The RAS affine of the quaternion (b, c, d) and offset of a NIfTI header; NaN if they are not finite."""
    quaternion, offset = np.split(numbers, 2)
    affine = np.full((4, 4), np.nan)
    if np.isfinite(quaternion).all():
        quaternion = quaternion / max(1.0, np.linalg.norm(quaternion))
        rotation = Rotation.from_quat([*quaternion, math.sqrt(max(0.0, 1 - quaternion @ quaternion))]).as_matrix()
        affine[:3, :3] = rotation * np.abs(pixdim[1:4]) * [1, 1, -1 if pixdim[0] < 0 else 1]
    affine[:3, 3], affine[3] = offset, [0, 0, 0, 1]
    return affine
