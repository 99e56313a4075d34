"""Feeds damaged volume files to the reader: each must give an image or an error of one sentence within 5 s.

    python Testing/faults/fuzz_volumes.py --examples 100000 [--seed 0] [--keep FOLDER]

Small sound NRRD, NIfTI and MetaImage files are changed at random: header lines changed, removed or doubled, numbers
made extreme, bytes flipped, data cut. A child process reads them, so that a crash of ITK ends the child only; it is
counted and replaced by another child. The last line has the counts of results; the exit status is 1 if reading
crashed, hung or raised an unexpected exception. `--keep` keeps those files.
"""

from __future__ import annotations

import contextlib
import gzip
import random
import re
import shutil
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import fuzzing
import numpy as np
from fuzzing import Tally
from reader_process import Child

VOXELS = np.arange(4 * 5 * 6, dtype="<i2").reshape(4, 5, 6)

EXTREMES = [
    *["0", "-1", "1", "2", "5", "6", "7", "16", "17", "99", "255", "256", "32767", "32768", "65536", "-2147483648"],
    *["2147483647", "2147483648", "4294967295", "4294967296", "9223372036854775807", "18446744073709551616"],
    *[
        "1e-300",
        "1e-30",
        "0.001",
        "1e6",
        "1e30",
        "1e308",
        "1e999",
        "nan",
        "inf",
        "-inf",
        "-0",
        "",
        "x",
        "%s",
        "%n%n",
        "9" * 5000,
    ],
]

LINES = [
    *[b"encoding: gzip", b"encoding: bzip2", b"encoding: hex", b"encoding: text", b"data file: -", b"data file: d.raw"],
    *[b"data file: LIST", b"data file: %s%n", b"data file: s%d.raw 0 3 1", b"byte skip: -1", b"line skip: 9"],
    *[b"byte skip: -9", b"block size: 2", b"type: block", b"type: double", b"endian: big", b"spacings: 1 1 1"],
    *[b"space: left-posterior-superior-time", b"space dimension: 3", b"thicknesses: nan nan nan", b"units: a b c"],
    *[b"measurement frame: (1,0,0) (0,1,0) (0,0,1)", b"centerings: cell node cell", b"axis mins: 0 0 nan", b"#", b""],
    *[b"x:=" + b"y" * 5000, b"# " + b"x" * 5000, b"content: " + b"x" * 490, b"kinds: " + b"x" * 490, b"x" * 499 + b":"],
    *[b"labels: " + b'"' * 490, b"number: 5", b"space units: mm", b"old min: nan", b"min: 1", b"sample units: x"],
    *[b"CompressedData = True", b"CompressedDataSize = 4000000000", b"ElementNumberOfChannels = 3"],
    *[b"ElementType = MET_DOUBLE", b"ElementType = MET_STRING", b"BinaryData = False", b"HeaderSize = -1"],
    *[b"ElementDataFile = LIST", b"ElementDataFile = %s%n 0 3 1", b"ElementDataFile = d.raw", b"ID = 3"],
    *[b"Orientation = 1 1 1 1 1 1 1 1 1", b"ElementSize = 0 0 0", b"Comment = " + b"x" * 5000, b"Color = 1"],
]


def nrrd(data: bytes, encoding: str, *more: str) -> bytes:
    header = ["NRRD0004", "type: short", "dimension: 3", "space: left-posterior-superior", "sizes: 6 5 4"]
    header += ["space directions: (2,0,0) (0,3,0) (0,0,4)", "kinds: domain domain domain", "endian: little"]
    return "\n".join([*header, f"encoding: {encoding}", "space origin: (10,20,30)", *more, "", ""]).encode() + data


def nifti(data: bytes) -> bytes:
    header = bytearray(352)
    struct.pack_into("<i", header, 0, 348)
    struct.pack_into("<8h", header, 40, 3, 6, 5, 4, 1, 1, 1, 1)
    struct.pack_into("<2h", header, 70, 4, 16)
    struct.pack_into("<8f3f", header, 76, 1, 2, 3, 4, 0, 0, 0, 0, 352, 1, 0)
    header[123] = 2
    struct.pack_into("<2h6f12f", header, 252, 1, 1, 0, 0, 0, 10, 20, 30, 2, 0, 0, 10, 0, 3, 0, 20, 0, 0, 4, 30)
    header[344:348] = b"n+1\0"
    return bytes(header) + data


def nifti2(data: bytes) -> bytes:
    header = bytearray(544)
    struct.pack_into("<i8s2h8q", header, 0, 540, b"n+2\0\r\n\x1a\n", 4, 16, 3, 6, 5, 4, 1, 1, 1, 1)
    struct.pack_into("<8dq2d", header, 104, 1, 2, 3, 4, 0, 0, 0, 0, 544, 1, 0)
    struct.pack_into("<2i6d12d", header, 344, 1, 1, 0, 0, 0, 10, 20, 30, 2, 0, 0, 10, 0, 3, 0, 20, 0, 0, 4, 30)
    struct.pack_into("<i", header, 500, 2)
    return bytes(header) + data


def meta(data: bytes, *more: str, file: str = "LOCAL") -> bytes:
    header = ["ObjectType = Image", "NDims = 3", "BinaryData = True", "BinaryDataByteOrderMSB = False", *more]
    header += ["TransformMatrix = 1 0 0 0 1 0 0 0 1", "Offset = 10 20 30", "ElementSpacing = 2 3 4", "DimSize = 6 5 4"]
    return "\n".join([*header, "ElementType = MET_SHORT", f"ElementDataFile = {file}", ""]).encode() + data


def sound_files() -> dict[str, list[bytes]]:
    """Valid files by extension; detached headers refer to d.raw and s0.raw to s3.raw."""
    raw = VOXELS.tobytes()
    packed = zlib.compress(raw)
    return {
        "nrrd": [
            nrrd(raw, "raw"),
            nrrd(gzip.compress(raw), "gzip"),
            nrrd(raw.hex().encode(), "hex"),
            nrrd(" ".join(map(str, VOXELS.ravel())).encode(), "text"),
        ],
        "nhdr": [
            nrrd(b"", "raw", "data file: d.raw"),
            nrrd(b"", "raw", "data file: s%d.raw 0 3 1"),
            nrrd(b"", "raw", "data file: LIST", *[f"s{k}.raw" for k in range(4)])[:-1],
        ],
        "nii": [nifti(raw), nifti2(raw)],
        "nii.gz": [gzip.compress(nifti(raw))],
        "mha": [meta(raw), meta(packed, "CompressedData = True", f"CompressedDataSize = {len(packed)}")],
        "mhd": [meta(b"", file="d.raw"), meta(b"", file="LIST\ns0.raw\ns1.raw\ns2.raw\ns3.raw")],
    }


def write_data(folder: Path) -> None:
    (folder / "d.raw").write_bytes(VOXELS.tobytes())
    for k, voxels in enumerate(VOXELS):
        (folder / f"s{k}.raw").write_bytes(voxels.tobytes())


def mutated(rng: random.Random, sound: dict[str, list[bytes]]) -> tuple[str, bytes]:
    """The end of a name, and a file's content with one to four faults."""
    end = rng.choice(list(sound))
    content = rng.choice(sound[end])
    # What is packed is mostly changed before it is packed, or a check sum would find every fault.
    unpack = end == "nii.gz" and rng.random() < 0.8
    if unpack:
        content = gzip.decompress(content)
    for _ in range(rng.choice((1, 1, 1, 2, 2, 3, 4))):
        content = rng.choice(FAULTS)(rng, bytearray(content))
    if unpack:
        content = gzip.compress(content, 1)
    if rng.random() < 0.01:
        end = rng.choice([*sound, "hdr", "img", "dat"])
    return end, bytes(content)


def _flip(rng: random.Random, content: bytearray) -> bytearray:
    for _ in range(rng.choice((1, 1, 2, 8))):
        if content:
            content[rng.randrange(min(len(content), 500))] = rng.randrange(256)
    return content


def _cut(rng: random.Random, content: bytearray) -> bytearray:
    return content[: rng.randrange(len(content) + 1)]


def _enlarge(rng: random.Random, content: bytearray) -> bytearray:
    at = rng.randrange(len(content) + 1)
    return content[:at] + rng.randbytes(rng.choice((1, 2, 100, 5000))) + content[at:]


def _extreme_word(rng: random.Random, content: bytearray) -> bytearray:
    """A number of a binary header."""
    if len(content) < 16:
        return content
    form, values = rng.choice(
        [
            ("<h", (0, -1, 1, 7, 8, 32767, -32768, 256)),
            ("<i", (0, -1, 2**31 - 1, -(2**31), 348, 540)),
            ("<d", (0.0, -1.0, 1e300, float("nan"), float("inf"))),
            ("<q", (0, -1, 2**62, 40_000)),
            ("<f", (0.0, -1.0, 1e30, 1e-40, float("nan"), float("inf"), -352.0, 2.0**62)),
            (">h", (1, 7, 32767)),
        ]
    )
    struct.pack_into(form, content, 2 * rng.randrange((min(len(content), 550) - 8) // 2), rng.choice(values))
    return content


def _lines(rng: random.Random, content: bytearray) -> bytearray:
    """A line of a text header is removed, doubled, moved, replaced or joined to the next."""
    lines = bytes(content).split(b"\n")
    n = rng.randrange(min(len(lines), 18))
    match rng.randrange(6):
        case 0:
            del lines[n]
        case 1:
            lines.insert(n, lines[n])
        case 2:
            lines.insert(rng.randrange(min(len(lines), 18)), lines.pop(n))
        case 3:
            lines.insert(n, rng.choice(LINES))
        case 4:
            lines[n] = rng.choice(LINES)
        case 5 if n + 1 < len(lines):
            lines[n : n + 2] = [lines[n] + lines[n + 1]]
    return bytearray(b"\n".join(lines))


def _number(rng: random.Random, content: bytearray) -> bytearray:
    """A number of a text header becomes extreme."""
    numbers = list(re.finditer(rb"-?\d+(\.\d+)?", bytes(content[:600])))
    if not numbers:
        return content
    number = rng.choice(numbers)
    return content[: number.start()] + rng.choice(EXTREMES).encode() + content[number.end() :]


FAULTS = (_flip, _cut, _enlarge, _extreme_word, _lines, _lines, _number, _number, _number)


def look_at_volume(path: Path) -> str:
    """Read a volume file: "accepted" or what is wrong with the image."""
    from diffusion_segmentation.images.volume import read_volume

    return "accepted" if read_volume(path).GetDimension() == 3 else "an image that is not 3-D"


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="fuzz-volumes-") as folder:
        write_data(Path(folder))
        yield Path(folder)


def fuzz(examples: int, seed: int = 0, keep: Path | None = None) -> Tally:
    """Read `examples` damaged files; those that crash, hang or raise something else are copied to `keep`."""
    rng, sound, tally = random.Random(seed), sound_files(), Tally()
    child = Child(look_at_volume)
    with _folder() as folder:
        for number in range(examples):
            end, content = mutated(rng, sound)
            path = folder / f"patient.{end}"
            path.write_bytes(content)
            answer, seconds = child.ask(path)
            tally.count(answer, seconds)
            if answer in ("crash", "hang"):
                child = Child(look_at_volume)
            if keep and answer not in ("accepted", "refused"):
                shutil.copy(path, keep / f"{number}-{answer.partition(':')[0]}.{end}")
            path.unlink()
    child.end()
    return tally


if __name__ == "__main__":
    sys.exit(fuzzing.main(fuzz, __doc__))
