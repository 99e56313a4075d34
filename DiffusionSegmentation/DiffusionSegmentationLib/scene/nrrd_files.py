"""The worker's NRRD files, looked at before anything else reads them.

Slicer's segmentation reader does not fail at a broken file: it takes the whole application down.
"""

import math
from dataclasses import dataclass
from pathlib import Path

from ..i18n import tr as _

VOXEL_BYTES = {"uint8": 1, "uint16": 2, "float": 4}


class NrrdError(Exception):
    """A file is no whole, uncompressed NRRD. `str(error)` is a clause, without its full stop."""


@dataclass(frozen=True)
class Header:
    """`fields` as they stand in the file, `sizes` fastest axis first, `offset` of the voxels in bytes."""

    fields: dict[str, str]
    sizes: tuple[int, ...]
    offset: int


def readHeader(path: Path) -> Header:
    """Read the header of `path` and see that all voxels follow it. Raises NrrdError."""
    try:
        with open(path, "rb") as file:
            magic = file.readline()
            lines = [line.decode("utf-8") for line in iter(lambda: file.readline().rstrip(b"\r\n"), b"")]
            offset = file.tell()
        fields = dict(line.split(": ", 1) for line in lines if ":=" not in line)
        sizes = tuple(int(size) for size in fields["sizes"].split())
        voxelBytes = VOXEL_BYTES[fields["type"]] * math.prod(sizes)
        isWhole = magic.startswith(b"NRRD") and fields["encoding"] == "raw"
        isWhole = isWhole and path.stat().st_size == offset + voxelBytes
    except (OSError, ValueError, KeyError) as error:
        raise NrrdError(_("'{name}' is missing or broken").format(name=path.name)) from error
    if not isWhole:
        raise NrrdError(_("'{name}' is not whole").format(name=path.name))
    return Header(fields, sizes, offset)
