"""Whether files have changed: by what they hold, not by name or time."""

from __future__ import annotations

import hashlib
from pathlib import Path

from .headers import files_of


def content(*paths: Path) -> str:
    """SHA-256 over files in their order, of volumes with the files that belong to them; names do not count.

    Raises InputError and GeometryError where the header of a volume cannot be read, and OSError.
    """
    found = hashlib.sha256()
    for path in paths:
        for file in files_of(path, f"The file '{path.name}'"):
            with open(file, "rb") as stream:
                found.update(hashlib.file_digest(stream, "sha256").digest())
    return found.hexdigest()
