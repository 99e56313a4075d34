"""Digest of input files, to detect changes by content rather than by name or time."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np

from ..errors import InputError, shown
from .headers import nnunet_spacing_file, read_header


def files_sha256(*paths: Path) -> str:
    """SHA-256 of files in the given order, including the files that belong to a volume; names do not count.

    Raises InputError and GeometryError where a file or the header of a volume cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        name = f"The file '{shown(path.name)}'"
        try:
            header, spacing_file = read_header(path, name), nnunet_spacing_file(path)
            files = (path, header.header_file or path, *header.data_files, spacing_file or path)
            for file in dict.fromkeys(files):
                with open(file, "rb") as stream:
                    digest.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise InputError(f"{name} cannot be opened; check that it is there and that you may read it.") from error
    return digest.hexdigest()


def array_sha256(values: np.ndarray) -> str:
    """SHA-256 of the values of an array."""
    return hashlib.sha256(np.ascontiguousarray(values).data).hexdigest()
