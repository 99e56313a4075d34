"""The header of a NIfTI-1, NIfTI-2 or Analyze file."""

from __future__ import annotations

import math
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .staging import stage_nifti
from .stored import Stored, incomplete, unreadable

_NIFTI_BYTES = {1: (2, 256), 2: (4, 512), 4: (8, 16, 768), 8: (64, 1024, 1280)}
"""Bytes of a voxel: the numbers of NIfTI's types of scalars."""

ENDING = re.compile(r"\.(nii|hdr|img|nia)(\.gz)?$", re.IGNORECASE)
"""ITK looks for a volume's other half, and for its voxels, by all of these."""

LARGEST = 1e9
"""No place or step of a volume is as large; of NaN and larger ones the place is refused after ITK has read them."""

SAME_SCALE = 0.01
"""Voxel sizes of qform and sform differ by less where they mean the same; float32 and rounded headers differ less."""

ROUNDED = 1e-3
"""Cosine between two axes below which rounding explains it: a quarter of a voxel across 256."""

SKEWED = 1e-5
"""Cosine between two axes of an sform above which ITK may refuse it."""

_FIELDS = {
    # of NIfTI-1 and NIfTI-2: format and place of each field
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
    """The fields that matter here; `size` is 348 or 540 bytes, `order` "<" or ">". `magic` is empty for Analyze."""

    size: int
    order: str
    magic: bytes
    fields: Mapping[str, tuple[Any, ...]]

    @classmethod
    def read(cls, start: bytes) -> NiftiHeader | None:
        """From the first bytes of a file, gzipped or not; None where they are no such header."""
        if start.startswith(b"\x1f\x8b"):
            start = _inflated_start(start)
        for size, fields in _FIELDS.items():
            for order in "<>":
                if start[:4] == struct.pack(order + "i", size) and len(start) >= size:
                    magic = start[344:348] if size == 348 else start[4:8]
                    if size == 540 and not magic.startswith(b"n"):
                        return None
                    found = {key: struct.unpack_from(order + form, start, at) for key, (form, at) in fields.items()}
                    if not magic.startswith(b"n"):
                        magic, found["codes"] = b"", (0, 0)  # Analyze has something else there
                    return cls(size, order, magic, found)
        return None

    def affines(self) -> dict[str, np.ndarray]:
        """Those of "qform" and "sform" that are given: 4 x 4, index to RAS, in the units of the file."""
        found, (qform, sform) = {}, self.fields["codes"]
        with np.errstate(all="ignore"):
            if qform > 0:
                found["qform"] = _qform(np.array(self.fields["quaternion"]), np.array(self.fields["pixdim"]))
            if sform > 0:
                found["sform"] = np.vstack([np.reshape(self.fields["rows"], (3, 4)), [0, 0, 0, 1]]).astype(float)
        return found


def stored_nifti(path: Path, header: Path, data: Path, start: bytes, name: str) -> Stored:
    """Of NIfTI and Analyze: what `header`, which begins with `start`, says of the voxels in `data`.

    `path` is the file that was named, one of the two. Raises InputError.
    """
    found = NiftiHeader.read(start)
    if found is None:
        raise unreadable(name)
    fields, single = found.fields, header == data
    (datatype,), (offset,), (units,) = fields["datatype"], fields["offset"], fields["units"]
    # Where the offset points into the header, ITK takes what is there for voxels.
    if not found.size * single <= offset < 2**62:
        raise incomplete(name)
    affines, note = found.affines(), ""
    upright = None
    if len(affines) == 2 and not _has_extent(affines["sform"]):
        upright = np.zeros((4, 4))
        del affines["sform"]
        note = "has an sform without extent, so its qform was used"
    problem = _skew(found, affines) or _contradiction(affines)
    lone = not problem and list(affines) == ["sform"] and np.abs(affines["sform"]).max() < LARGEST
    if lone and (cosine := _cosine(affines["sform"])) > SKEWED:
        upright = affines["sform"] = _upright(affines["sform"])
        if cosine > ROUNDED:
            note = "has a slightly sheared sform, which was straightened by less than half a voxel"
    pixdim = np.array(fields["pixdim"][1:4])
    unstated = () if affines else ("orientation",)
    if not affines and not (np.isfinite(pixdim) & (pixdim > 0)).all():
        unstated = ("orientation", "spacing")
    with open(data, "rb") as file:
        gzipped = file.read(2) == b"\x1f\x8b"
    staged = found.size == 540 or upright is not None or not _as_itk_expects(path, header, data, gzipped)
    scale = {1: 1000.0, 3: 0.001}.get(units & 7, 1.0)
    lps = np.diag([-scale, -scale, scale, 1])
    # ITK tells float for voxels that it scales.
    voxel = next((size for size, types in _NIFTI_BYTES.items() if datatype in types), 0)
    return Stored(
        files=(data,),
        others=(header,) * (not single),
        as_is=not gzipped,
        offset=int(offset),
        voxel=voxel,
        gzipped=data if gzipped else None,
        problem=problem,
        affines={key: lps @ affine for key, affine in affines.items()},
        reader="NiftiImageIO",
        floats={16: f"{found.order}f4", 64: f"{found.order}f8"}.get(datatype, ""),
        unstated=unstated,
        note=note,
        stage=partial(stage_nifti, found, header, data, int(offset), upright) if staged else None,
    )


def _as_itk_expects(path: Path, header: Path, data: Path, gzipped: bool) -> bool:
    """Whether ITK, which goes by the name, reads these files and no others."""
    mine = {path, header, data}
    endings = [ENDING.search(file.name).group() for file in mine]
    if any(ending != ending.lower() for ending in endings):
        return False  # it complains of some capitals and overlooks others
    if gzipped and not path.name.endswith(".gz"):
        return False
    stem = ENDING.sub("", path.name)
    own = [file.stat() for file in mine]
    try:
        beside = list(path.parent.iterdir())
    except OSError:
        return False  # a folder whose files may be opened and not listed
    twins = (file for file in beside if ENDING.search(file.name) and ENDING.sub("", file.name) == stem)
    # Where capitals do not count, two names may be one file.
    return all(any(_same_file(twin, one) for one in own) for twin in twins if twin.is_file())


def _same_file(path: Path, own: Any) -> bool:
    found = path.stat()
    return (found.st_ino, found.st_dev) == (own.st_ino, own.st_dev)


def _has_extent(affine: np.ndarray) -> bool:
    """Whether an affine is one: numbers, and three axes that do not lie in a plane."""
    return bool(np.isfinite(affine).all() and np.linalg.matrix_rank(affine[:3, :3]) == 3)


def _cosine(affine: np.ndarray) -> float:
    """The largest cosine between two axes of an affine; 0 where they are at right angles, NaN for axes of no length."""
    with np.errstate(all="ignore"):
        unit = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return float(np.abs(unit.T @ unit - np.eye(3)).max())


def _upright(affine: np.ndarray) -> np.ndarray:
    """The affine with the nearest axes at right angles (polar decomposition) and the same spacing."""
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    u, _, v = np.linalg.svd(affine[:3, :3] / steps)
    return np.block([[(u @ v) * steps, affine[:3, 3:]], [np.zeros((1, 3)), 1]])


def _skew(header: NiftiHeader, affines: Mapping[str, np.ndarray]) -> str:
    """Why an sform that is the only affine cannot be read: axes that are not at right angles, half a voxel or more."""
    if list(affines) != ["sform"] or not np.abs(affines["sform"]).max() < LARGEST:
        return ""
    affine = affines["sform"]
    steps = np.linalg.norm(affine[:3, :3], axis=0)
    if not steps.all() or not _cosine(affine) > SKEWED:
        return ""
    size = np.array(header.fields["dim"][1:4], float)
    corners = np.array(np.meshgrid(*[(-n / 2, n / 2) for n in size])).reshape(3, -1)
    off = np.abs((affine - _upright(affine))[:3, :3] @ corners).max()
    if off < steps.min() / 2:
        return ""
    angle = math.degrees(math.acos(min(1.0, _cosine(affine))))
    return (
        f"has a sheared sform, its axes meet at {angle:.0f} degrees, as after a CT with a tilted gantry; resample it "
        "onto a grid with axes at right angles, in Slicer with 'Resample Scalar/Vector/DWI Volume'"
    )


def _contradiction(affines: Mapping[str, np.ndarray]) -> str:
    """Why qform and sform cannot both be right: voxels of other sizes, or one mirrors the other."""
    if len(affines) < 2 or not all(np.isfinite(affine).all() for affine in affines.values()):
        return ""
    sizes = {key: np.linalg.norm(affine[:3, :3], axis=0) for key, affine in affines.items()}
    told = {key: " x ".join(f"{step:.4g}" for step in steps) for key, steps in sizes.items()}
    if not np.allclose(sizes["qform"], sizes["sform"], rtol=SAME_SCALE):
        return (
            f"has voxels of {told['qform']} by its qform and of {told['sform']} by its sform; correct one of them "
            "and save it again"
        )
    if np.linalg.det(affines["qform"][:3, :3]) * np.linalg.det(affines["sform"][:3, :3]) < 0:
        return "is mirrored by its sform and not by its qform, or the other way round; correct one and save it again"
    return ""


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
