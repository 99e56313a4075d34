"""Pictures of a turned camera and PNG files of grey values with transparency, of which ITK reads neither rightly.

A copy that ITK reads takes their place. Sources: JPEG and Exif 2.3 (tag Orientation, which is TIFF's), PNG (W3C, 11.2.1
IHDR, 11.3.4.5 eXIf), TIFF 6.0 (sections 2 and 8). Of TIFF files only those of one picture are turned.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk

from .volume_header import HEADER_BYTES, VolumeHeader

Change = Callable[[np.ndarray], np.ndarray]
"""Of the values [y, x] or [y, x, channels] of a picture."""
UNSTATED = ("orientation", "spacing")
ORIENTATION, SHORT = 0x0112, 3  # tag and type of the entry in Exif
UPRIGHT = 1
TURNS: dict[int, Change] = {
    2: lambda rows: rows[:, ::-1],
    3: lambda rows: rows[::-1, ::-1],
    4: lambda rows: rows[::-1],
    5: lambda rows: rows.swapaxes(0, 1),
    6: lambda rows: np.rot90(rows, -1),
    7: lambda rows: rows[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90,
}
"""For each orientation what makes an array [y, x, ...] upright."""
NOTE = (
    "has an entry of the camera (EXIF) that it was turned or mirrored, and was put upright, as viewers of pictures do"
)
IHDR_END = 33  # bytes: signature, and the chunk with its length, name, 13 bytes and checksum
DEPTH, COLOUR_TYPE = 24, 25
GREY, RGBA, GREY_WITH_ALPHA = 0, 6, 4  # colour types


def read_jpeg(path: Path, start: bytes) -> VolumeHeader:
    """The header of a JPEG file that begins with `start`."""
    turn = TURNS.get(orientation(start))
    return VolumeHeader() if turn is None else _turned(partial(_upright, turn, path, ".jpg"))


def _turned(rewrite: Callable[[Path, bool], Path]) -> VolumeHeader:
    return VolumeHeader(note=NOTE, missing=UNSTATED, image_io="MetaImageIO", rewrite=rewrite, turns=True)


def orientation(jpeg: bytes) -> int:
    """The orientation, 1 to 8, that the Exif part of a JPEG file states; 1 if it states none."""
    at = 2
    try:
        while jpeg[at] == 0xFF and jpeg[at + 1] != 0xDA:  # up to the start of the scan
            (length,) = struct.unpack_from(">H", jpeg, at + 2)
            if jpeg[at + 1] == 0xE1 and jpeg[at + 4 : at + 10] == b"Exif\0\0":
                return _entry(jpeg[at + 10 : at + 2 + length])
            at += 2 + length
    except (struct.error, IndexError):  # cut off
        pass
    return UPRIGHT


def _entry(tiff: bytes) -> int:
    """The orientation in a directory in the format of TIFF. Raises struct.error if it is cut off."""
    return _read_entry(io.BytesIO(tiff))[0]


def _read_entry(tiff: BinaryIO) -> tuple[int, int, bool]:
    """The orientation in the first directory of a TIFF, where its two bytes are, and whether a directory follows.

    Raises struct.error if the directory is cut off.
    """
    order = "<" if tiff.read(4).startswith(b"II") else ">"
    (at,) = struct.unpack(f"{order}I", tiff.read(4))
    tiff.seek(at)
    (count,) = struct.unpack(f"{order}H", tiff.read(2))
    entries = tiff.read(12 * count)
    following = tiff.read(4)
    for entry in range(0, 12 * count, 12):
        tag, kind, _, value = struct.unpack_from(f"{order}HHIH", entries, entry)
        if (tag, kind) == (ORIENTATION, SHORT):
            return value, at + 2 + entry + 8, any(following)
    return UPRIGHT, 0, any(following)


def read_tiff(path: Path) -> VolumeHeader:
    """The header of a TIFF file. Raises OSError."""
    try:
        with path.open("rb") as file:
            value, at, several = _read_entry(file)
    except struct.error:
        return VolumeHeader()
    turn = None if several else TURNS.get(value)
    return VolumeHeader() if turn is None else _turned(partial(_upright_tiff, turn, path, at))


def read_png(path: Path, start: bytes) -> VolumeHeader:
    """The header of a PNG file that begins with `start`. Raises OSError."""
    turn = TURNS.get(_png_orientation(path))
    is_grey = len(start) >= IHDR_END and start[COLOUR_TYPE] == GREY_WITH_ALPHA and start[DEPTH] in (8, 16)
    if is_grey and turn is None:
        return VolumeHeader(missing=UNSTATED, image_io="MetaImageIO", rewrite=partial(_grey, None, path))
    if turn is None:
        return VolumeHeader()
    return _turned(partial(_grey, turn, path) if is_grey else partial(_upright, turn, path, ".png"))


def _png_orientation(path: Path) -> int:
    """The orientation in the chunk eXIf, which can follow the pixels."""
    with path.open("rb") as file:
        file.seek(8)  # the signature
        while len(head := file.read(8)) == 8:
            length = int.from_bytes(head[:4], "big")
            if head[4:] == b"eXIf" and length <= HEADER_BYTES:
                try:
                    return _entry(file.read(length))
                except struct.error:
                    return UPRIGHT
            file.seek(length + 4, io.SEEK_CUR)
    return UPRIGHT


def _upright(turn: Change, path: Path, ending: str, folder: Path, _voxels: bool) -> Path:
    return _rewritten(path.read_bytes(), ending, turn, folder)


def _upright_tiff(turn: Change, path: Path, at: int, folder: Path, _voxels: bool) -> Path:
    """As `_upright`; the orientation at byte `at` is removed, because ITK follows it in some kinds of TIFF."""
    data = bytearray(path.read_bytes())
    data[at : at + 2] = (UPRIGHT).to_bytes(2, "little" if data.startswith(b"II") else "big")
    return _rewritten(bytes(data), ".tif", turn, folder)


def _grey(turn: Change | None, path: Path, folder: Path, _voxels: bool) -> Path:
    """Write the grey values, and the transparency if a pixel has some.

    A pixel of two bytes can be read as a grey value of 16 bits, one of four bytes as a colour with transparency.
    """
    data = bytearray(path.read_bytes())
    is_16_bit = data[DEPTH] == 16
    data[DEPTH], data[COLOUR_TYPE] = (8, RGBA) if is_16_bit else (16, GREY)
    data[IHDR_END - 4 : IHDR_END] = struct.pack(">I", zlib.crc32(data[12 : IHDR_END - 4]))

    def parts(values: np.ndarray) -> np.ndarray:
        pairs = values.view(">u2") if is_16_bit else values.astype(">u2").view(np.uint8)  # high bytes come first
        grey, alpha = np.moveaxis(pairs.reshape(*values.shape[:2], 2), -1, 0)
        is_opaque = bool((alpha == np.iinfo(alpha.dtype).max).all())
        shown = (grey if is_opaque else np.stack([grey, alpha], -1)).astype(grey.dtype.newbyteorder("="))
        return shown if turn is None else turn(shown)

    return _rewritten(bytes(data), ".png", parts, folder)


def _rewritten(data: bytes, ending: str, change: Change, folder: Path) -> Path:
    """Write the picture in the bytes of a file with its values changed. Raises RuntimeError if it is damaged."""
    copy = folder / "picture.mha"
    if not copy.exists():
        readable = folder / f"readable{ending}"
        readable.write_bytes(data)
        values = np.ascontiguousarray(change(sitk.GetArrayFromImage(sitk.ReadImage(str(readable)))))
        sitk.WriteImage(sitk.GetImageFromArray(values, isVector=values.ndim == 3), str(copy))
    return copy
