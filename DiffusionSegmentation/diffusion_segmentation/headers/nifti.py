"""The header of a NIfTI-1 or Analyze file."""

from __future__ import annotations

import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from .stored import Stored, incomplete, unreadable

_NIFTI_BYTES = {1: (2, 256), 2: (4, 512), 4: (8, 16, 768), 8: (64, 1024, 1280)}
"""Bytes of a voxel: the numbers of NIfTI's types of scalars."""


def stored_nifti(header: Path, data: Path, start: bytes, name: str) -> Stored:
    """Of NIfTI-1 and Analyze; ITK reads no NIfTI-2."""
    if start.startswith(b"\x1f\x8b"):
        start = _inflated_start(start)
    order = {struct.pack("<i", 348): "<", struct.pack(">i", 348): ">"}.get(start[:4])
    if order is None or len(start) < 348:
        raise unreadable(name)

    def take(place: int, form: str) -> tuple[Any, ...]:
        return struct.unpack_from(order + form, start, place)

    (datatype,), (offset,), (units,) = take(70, "h"), take(108, "f"), take(123, "B")
    pixdim = np.array(take(76, "8f"))
    qform, sform = take(252, "2h") if start[344:345] == b"n" else (0, 0)  # Analyze has something else there
    # Where the offset points into the header, ITK takes what is there for voxels.
    if not 348 * (header == data) <= offset < 2**62:
        raise incomplete(name)
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
    return Stored((data,), not gzipped, int(offset), voxel, data if gzipped else None, **place)


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
