"""Reading single files of .zip and .tar archives; nothing else of an archive is unpacked."""

from __future__ import annotations

import gzip
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..errors import ModelError, shown
from .metadata import METADATA

MAX_MEMBERS = 10_000
DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError),
    *(EOFError, NotImplementedError, RuntimeError, ValueError),
)
"""What the readers of archives raise for damaged and encrypted ones."""

Members = Mapping[PurePosixPath, Callable[[], Any]]
"""Functions that open the members of an archive, by their paths; they return None for links."""


def is_archive(source: Path) -> bool:
    """Whether a path is that of a .zip or .tar archive, plain or compressed."""
    return source.is_file() and (zipfile.is_zipfile(source) or tarfile.is_tarfile(source))


@contextmanager
def members(source: Path) -> Iterator[Members]:
    """The members of an archive. Raises ModelError if there is none, or if it is damaged, also while it is read."""
    try:
        if not is_archive(source):
            sentence = "is no model folder and no .zip or .tar archive; give one of these."
            raise ModelError(f"'{shown(source.name)}' {sentence}")
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as zipped:
                yield {PurePosixPath(name): partial(zipped.open, name) for name in zipped.namelist()[:MAX_MEMBERS]}
        else:
            with tarfile.open(source) as tar:
                listed = [member for member, _ in zip(tar, range(MAX_MEMBERS), strict=False)]
                yield {PurePosixPath(m.name): partial(tar.extractfile, m) if m.isreg() else _nothing for m in listed}
    except DAMAGED as error:
        raise ModelError(f"The archive '{shown(source.name)}' is damaged; copy it again.") from error


def _nothing() -> None:
    """In place of the stream of a link."""


def model_folders(members: Members) -> list[PurePosixPath]:
    """Folders of an archive that have metadata and weights of a model."""
    weights = {path.parent for path in members if path.suffix == ".safetensors"}
    return [path.parent for path in members if path.name == METADATA and path.parent in weights]


def opened(source: Path, members: Members, file: PurePosixPath) -> IO[bytes]:
    """The stream of a member of the archive `source`. Raises ModelError if it is missing or a link."""
    open_member = members.get(file)
    if open_member is None:
        raise ModelError(f"The model in '{shown(source.name)}' has no {file.name}; archive the whole model folder.")
    stream = open_member()
    if stream is None:
        raise ModelError(f"The {file.name} in '{shown(source.name)}' is a link; put the file itself there.")
    return stream


def copy(stream: IO[bytes], path: Path, limit: int) -> None:
    """Write a stream to a file. Raises ModelError if it is longer than `limit` bytes."""
    with stream, path.open("wb") as file:
        left = limit
        while chunk := stream.read(min(2**20, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise ModelError(f"The {path.name} is larger than {limit / 1e6:.0f} MB; it is no model's.")
            file.write(chunk)
