"""Whether files have changed: by what they hold, not by name or time."""

from __future__ import annotations

import hashlib
from pathlib import Path

from ..errors import InputError, shown
from .headers import files_of


def content(*paths: Path) -> str:
    """SHA-256 over files in their order, of volumes with the files that belong to them; names do not count.

    Raises InputError and GeometryError, one sentence, where a file or the header of a volume cannot be read.
    """
    found = hashlib.sha256()
    for path in paths:
        name = f"The file '{shown(path.name)}'"
        try:
            for file in files_of(path, name):
                with open(file, "rb") as stream:
                    found.update(hashlib.file_digest(stream, "sha256").digest())
        except OSError as error:
            raise InputError(f"{name} cannot be opened; check that it is there and that you may read it.") from error
    return found.hexdigest()
