"""Bundles as folders, or in archives, as they are downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from ..errors import ModelError, explain
from ..model import archive
from ..model.metadata import METADATA as MODEL_METADATA
from ..model.monai_metadata import MAX_NETWORK_WEIGHTS
from ..model.refusal import Refusal
from .configuration import INFERENCE, MAX_JSON_BYTES, METADATA, read_configuration
from .translation import weights_file

MAX_WEIGHT_BYTES = 5 * MAX_NETWORK_WEIGHTS


def is_bundle(folder: Path) -> bool:
    """Whether a folder looks like a MONAI bundle."""
    try:
        return (folder / METADATA).is_file() and not (folder / MODEL_METADATA).is_file()
    except (OSError, ValueError):  # no permission, or not a valid file name
        return False


@contextmanager
def bundle_folder(source: Path) -> Iterator[Path | None]:
    """The bundle that `source` is, or the unpacked one of an archive; None if `source` is neither.

    Raises ModelError for a damaged archive and for one of several bundles.
    """
    try:
        is_archive = archive.is_archive(source)
    except OSError as error:
        raise ModelError(explain(error)[1]) from error
    if is_archive:
        unpack = partial(_unpack, source)
        with archive.unpacked(source, _root_of, "bundles", unpack, keeps_name=True) as folder:
            yield folder
    else:
        yield source if is_bundle(source) else None


def _root_of(path: PurePosixPath) -> PurePosixPath | None:
    return path.parents[1] if path.match(METADATA) else None


def _unpack(source: Path, members: archive.Members, inside: PurePosixPath, folder: Path) -> None:
    """Write the files that conversion reads."""
    for part in ("configs", "models"):
        (folder / part).mkdir(parents=True)
    for file in (METADATA, *(f"{INFERENCE}{end}" for end in (".json", ".yaml", ".yml"))):
        _copy(source, members, inside, folder, file, MAX_JSON_BYTES)
    if any(path.parent == inside / "models" and path.suffix == ".ts" for path in members):
        (folder / "models" / "model.ts").touch()  # its presence is part of the refusal
    try:
        file = weights_file(read_configuration(folder))
    except Refusal:
        return  # the conversion gives the reason
    _copy(source, members, inside, folder, f"models/{file}", MAX_WEIGHT_BYTES)


def _copy(source: Path, members: archive.Members, inside: PurePosixPath, folder: Path, file: str, limit: int) -> None:
    """Copy a member if it is there."""
    if inside / file in members:
        archive.copy(archive.opened(source, members, inside / file), folder / file, limit)
