"""The folder that a run's results go to: it never holds the files of two runs as if they were of one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import InputError
from .results import replace

REPORT = "report.json"
FILES = (
    "segmentation.seg.nrrd",
    "entropy.nrrd",
    "disagreement.nrrd",
    "samples.seq.nrrd",
    "probabilities.seq.nrrd",
    "regions.nrrd",
)
"""What a run may write beside its report; reports before version 0.5 do not list what theirs wrote."""


@contextlib.contextmanager
def made(folder: Path) -> Iterator[Path]:
    """The folder, made if need be; where the work ends in an error, folders that were made and are empty go again."""
    new = [part for part in (folder, *folder.parents) if not part.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        for part in new:
            with contextlib.suppress(OSError):
                part.rmdir()
        raise


def require_unchanged(folder: Path) -> None:
    """Raise InputError where a result of an earlier run was changed since: it could be a person's correction."""
    for name, digest in (_earlier(folder) or {}).items():
        path = folder / name
        if digest is not None and path.is_file() and _digest(path) != digest:
            raise InputError(
                f"'{name}' in '{folder.name}' was changed after the run that wrote it; move it away, or choose another "
                "folder."
            )


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """An empty folder for the results of a run; at the end its files take the place of the earlier run's in `folder`.

    Files of an earlier run that have no successor are removed with its report. Where the work ends in an error, what
    was there is as it was. Other files are not touched.
    """
    part = folder / f".part-{uuid.uuid4().hex[:8]}"
    try:
        part.mkdir()
        yield part
        new = sorted(path.name for path in part.iterdir())
        old = _earlier(folder)
        if old is not None:
            for name in (REPORT, *(name for name in old if name not in new)):
                (folder / name).unlink(missing_ok=True)
        # The report last: a folder that has one is whole.
        for name in sorted(new, key=lambda name: name == REPORT):
            replace(part / name, folder / name)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the results in a folder, by name, for the report."""
    return {path.name: _digest(path) for path in sorted(folder.iterdir()) if path.name in FILES}


def _earlier(folder: Path) -> dict[str, str | None] | None:
    """The results of the run whose report is in the folder, with their digests if they are known; None without one."""
    try:
        report: Any = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        if not isinstance(report.get("model"), dict) or "schema" not in report:
            return None
        listed = report.get("files", dict.fromkeys(FILES))
        return {name: digest for name, digest in listed.items() if name in FILES}
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
