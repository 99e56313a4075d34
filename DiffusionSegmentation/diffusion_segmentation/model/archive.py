"""Reading single files of .zip and .tar archives; nothing else of an archive is unpacked."""

from __future__ import annotations

import errno
import gzip
import lzma
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..errors import ModelError, explain, shown
from ..runtime.locations import user_models
from .metadata import METADATA

MAX_MEMBERS = 10_000
MAX_RATIO = 200  # of a file to its archive; weights are nearly incompressible
MAX_TAR_HEADER = 8192  # bytes of the extended header of a member, such as a long path
TAR_HEADERS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, gzip.BadGzipFile, zlib.error, lzma.LZMAError),
    *(EOFError, NotImplementedError, RuntimeError, ValueError, MemoryError),
)
"""What the readers of archives raise for damaged and encrypted ones."""

Members = Mapping[PurePosixPath, Callable[[], Any]]
"""Functions that open the members of an archive, by their paths; they return None for links."""


class _Header(tarfile.TarInfo):
    """Header of a member of a .tar archive without sizes that the reader would allocate, or go back by."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        header = super().frombuf(buf, encoding, errors)
        if header.size < 0 or (header.size > MAX_TAR_HEADER and header.type in TAR_HEADERS):
            raise tarfile.ReadError("a header of this size")
        return header


def is_archive(source: Path) -> bool:
    """Whether a path is that of a .zip or .tar archive, plain or compressed. Raises OSError if it cannot be read."""
    if not source.is_file():
        return False
    try:
        if not zipfile.is_zipfile(source):
            tarfile.open(source, tarinfo=_Header).close()
    except DAMAGED:
        return False
    except OSError as error:
        if _is_of_content(error):
            return False
        raise
    return True


@contextmanager
def members(source: Path) -> Iterator[Members]:
    """The members of an archive. Raises ModelError if there is none, or if it is damaged, also while it is read, or its
    files are much larger than the archive.
    """
    try:
        if not is_archive(source):
            sentence = "is no model folder and no .zip or .tar archive; give one of these."
            raise ModelError(f"'{shown(source.name)}' {sentence}")
        limit = MAX_RATIO * source.stat().st_size + 2**20
        listed: dict[str, Callable[[], Any]] = {}
        if zipfile.is_zipfile(source):
            with zipfile.ZipFile(source) as zipped:
                for entry in zipped.infolist()[:MAX_MEMBERS]:
                    _require_size(source, entry.file_size, limit)
                    listed[entry.filename] = partial(zipped.open, entry.filename)
                yield _within(listed)
        else:
            with tarfile.open(source, tarinfo=_Header) as tar:
                for member, _ in zip(tar, range(MAX_MEMBERS), strict=False):
                    _require_size(source, max(tar.offset, member.offset_data + member.size), limit)
                    listed[member.name] = partial(tar.extractfile, member) if member.isreg() else _nothing
                yield _within(listed)
    except DAMAGED as error:
        raise _damaged(source) from error
    except OSError as error:
        raise (_damaged(source) if _is_of_content(error) else ModelError(explain(error)[1])) from error


def _is_of_content(error: OSError) -> bool:
    """Whether a reader, and not the system, raised an error: one of bzip2, or of an offset below 0."""
    return error.errno in (None, errno.EINVAL)


def _damaged(source: Path) -> ModelError:
    return ModelError(f"The archive '{shown(source.name)}' is damaged; copy it again.")


def _require_size(source: Path, size: int, limit: int) -> None:
    if size > limit:
        raise ModelError(
            f"The archive '{shown(source.name)}' has files of more than {MAX_RATIO} times its size; it is no model's."
        )


def _within(members: Mapping[str, Callable[[], Any]]) -> Members:
    """Members by their paths, which are taken to begin in the archive and not to lead upwards."""
    paths = {PurePosixPath(name): opens for name, opens in members.items() if "\0" not in name}
    return {
        PurePosixPath(*(part for part in path.parts if part.strip("/") not in ("", ".."))): opens
        for path, opens in paths.items()
    }


def _nothing() -> None:
    """In place of the stream of a link."""


def model_folders(members: Members) -> list[PurePosixPath]:
    """Folders of an archive that have metadata and weights of a model."""
    weights = {path.parent for path in members if path.suffix == ".safetensors"}
    return [path.parent for path in members if path.name == METADATA and path.parent in weights]


@contextmanager
def unpacked(
    source: Path,
    root_of: Callable[[PurePosixPath], PurePosixPath | None],
    what: str,
    unpack: Callable[[Members, PurePosixPath, Path], None],
    keeps_name: bool = False,
) -> Iterator[Path | None]:
    """A temporary folder that `unpack` fills from the members below the only root of an archive; None if there is none.

    `root_of` returns the root by a file that each has, such as its metadata; `what` are several of them in a message. A
    folder of our own model is none. The temporary folder has the name of the archive, or with `keeps_name` of the root.
    Raises ModelError for an archive that is damaged, or has several roots.
    """
    with members(source) as listed:
        found = [root for path in listed if (root := root_of(path)) is not None]
        if found and model_folders(listed):
            found = []
    if len(found) > 1:
        raise ModelError(f"The archive '{shown(source.name)}' has {len(found)} {what}; give the archive of one.")
    if not found:
        yield None
        return
    models = user_models()  # there is room for a model
    try:
        models.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".unpacked-", dir=models) as temporary:
            name = found[0].name if keeps_name else ""
            folder = Path(temporary) / (name or source.name.partition(".")[0] or "archive")
            with members(source) as listed:
                unpack(listed, found[0], folder)
            yield folder
    except OSError as error:
        raise ModelError(explain(error)[1]) from error


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
