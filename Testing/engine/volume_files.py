"""Small volume files with any header, valid or not, and what `read_volume` says of a file."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from diffusion_segmentation.errors import GeometryError, InputError
from diffusion_segmentation.images.volume import VolumeFile

VOXELS = np.random.default_rng(0).integers(1, 1000, (20, 22, 24)).astype(np.float32)
"""[k, j, i]"""

SAME = np.diag([2.0, 2.0, 2.0])


def nifti(
    path: Path,
    voxels: np.ndarray = VOXELS,
    sform: np.ndarray | None = SAME,
    qform: tuple[float, float, float] | None = None,
    spacing: tuple[float, float, float] = (2, 2, 2),
    flip: float = 1,
    version: int = 1,
    order: str = "<",
    compressed: bool | None = None,
) -> Path:
    """Write NIfTI-1 or -2: `sform` 3 x 3 in RAS, `qform` a quaternion's b, c, d; None sets their code to 0.

    `path` may end in .nii, .nii.gz or .hdr, which is written with its .img; `compressed` is None
    for what the name says.
    """
    pair = path.suffix == ".hdr"
    codes = int(qform is not None), int(sform is not None)
    quaternion = (*(qform or (0, 0, 0)), 0, 0, 0)
    rows = np.column_stack([np.zeros((3, 3)) if sform is None else sform, np.zeros(3)]).ravel()
    size, pixdim = voxels.shape[::-1], (flip, *spacing, 0, 0, 0, 0)
    kind, bits = {"<f4": (16, 32), "<i2": (4, 16), "|u1": (2, 8)}[voxels.dtype.str]
    header = bytearray(352 if version == 1 else 544)
    if version == 1:
        struct.pack_into(f"{order}i", header, 0, 348)
        struct.pack_into(f"{order}8h", header, 40, 3, *size, 1, 1, 1, 1)
        struct.pack_into(f"{order}2h", header, 70, kind, bits)
        struct.pack_into(f"{order}8f3f", header, 76, *pixdim, 0 if pair else 352, 1, 0)
        header[123] = 2
        struct.pack_into(f"{order}2h6f12f", header, 252, *codes, *quaternion, *rows)
        header[344:348] = b"ni1\0" if pair else b"n+1\0"
    else:
        struct.pack_into(f"{order}i8s2h8q", header, 0, 540, b"n+2\0\r\n\x1a\n", kind, bits, 3, *size, 1, 1, 1, 1)
        struct.pack_into(f"{order}8dq2d", header, 104, *pixdim, 544, 1, 0)
        struct.pack_into(f"{order}2i6d12d", header, 344, *codes, *quaternion, *rows)
        struct.pack_into(f"{order}i", header, 500, 2)
    data = voxels.astype(voxels.dtype.newbyteorder(order)).tobytes()
    pack = gzip.compress if (path.suffix == ".gz" if compressed is None else compressed) else bytes
    if pair:
        path.write_bytes(bytes(header[:348]))
        path.with_suffix(".img").write_bytes(data)
    else:
        path.write_bytes(pack(bytes(header) + data))
    return path


def read_warnings(path: Path, **options) -> list[str]:
    """Warnings of a file that is read."""
    file = VolumeFile(path, **options)
    file.read()
    return file.warnings


def refusal(path: Path, **options) -> str:
    """Error text of a file that is not read: one sentence that does not contain the folder's path."""
    with pytest.raises((InputError, GeometryError)) as caught:
        VolumeFile(path, **options).read()
    sentence = str(caught.value)
    assert sentence.endswith(".") and ". " not in sentence and "; " in sentence and str(path.parent) not in sentence
    return sentence


def write_image(path: Path) -> Path:
    """Write VOXELS with 2 mm voxels in the format of the file's extension."""
    image = sitk.GetImageFromArray(VOXELS)
    image.SetSpacing((2, 2, 2))
    sitk.WriteImage(image, str(path))
    return path


def write_analyze(path: Path) -> Path:
    """Write VOXELS as an Analyze 7.5 pair: a NIfTI pair without the magic bytes."""
    nifti(path, sform=None)
    raw = bytearray(path.read_bytes())
    raw[344:348] = bytes(4)
    path.write_bytes(raw)
    return path


def remove_lines(path: Path, *fields: bytes, add: bytes = b"", keep: bytes = b"") -> Path:
    """Remove the lines of a text header that start with `fields`; insert spacings with `add`, or the lines `keep`."""
    raw = path.read_bytes()
    end = raw.index(b"\n\n") if b"\n\n" in raw[:2000] else raw.index(b"ElementDataFile")
    lines = [line for line in raw[:end].split(b"\n") if not line.startswith(fields)]
    at = next((n + 1 for n, line in enumerate(lines) if line.startswith(b"dimension")), len(lines))
    more = [b"spacings: 2 2 2"] * bool(add) + [keep] * bool(keep)
    path.write_bytes(b"\n".join([*lines[:at], *more, *lines[at:]]) + raw[end:])
    return path
