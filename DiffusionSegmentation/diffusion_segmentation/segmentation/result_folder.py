"""Output folder of a run: results are replaced as a whole and files of the user are never overwritten."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..dicom.export import NAMES as DICOM_FILES
from ..errors import InputError
from ..images.writing import replace

REPORT, FACTS = "report.json", "facts.nrrd"
FILES = (
    "segmentation.seg.nrrd",
    "entropy.nrrd",
    "disagreement.nrrd",
    "mutual_information.nrrd",
    "samples.seq.nrrd",
    "probabilities.seq.nrrd",
    "regions.nrrd",
    FACTS,
    *DICOM_FILES,
)
"""Result files of a run besides its report."""


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """Create `folder` and its parents where missing; on an error remove those that were created and are empty."""
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        yield folder
    except BaseException:
        for path in created:
            with contextlib.suppress(OSError):
                path.rmdir()
        raise


def require_replaceable(folder: Path) -> None:
    """Raise InputError if a file that a run would replace was not written by a run, or was changed since."""
    if problem := _user_file(folder):
        raise InputError(f"{problem}; move it away, or choose another folder.")


@contextlib.contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield an empty folder for new results, which at the end replace all results of an earlier run in `folder`.

    Other files are not touched; on an error `folder` is left as it was. Raises InputError if a result was changed in
    the meantime; the new results then stay in a subfolder that the message names.
    """
    suffix = uuid.uuid4().hex[:8]
    new, backup = folder / f".part-{suffix}", folder / f".old-{suffix}"
    try:
        new.mkdir()
        yield new
        if problem := _user_file(folder):
            separate = folder / f"result-{suffix}"
            os.replace(new, separate)
            raise InputError(f"{problem}; the new result is in '{separate.name}' there.")
        _replace_results(folder, new, backup)
    finally:
        for path in (new, backup):
            shutil.rmtree(path, ignore_errors=True)


def _replace_results(folder: Path, new: Path, backup: Path) -> None:
    """Move the old results of `folder` to `backup` and those of `new` into `folder`; undone on an error."""
    old_names = [name for name in (REPORT, *FILES) if (folder / name).is_file()]
    # The report is moved last: a folder that has one is complete.
    new_names = sorted((path.name for path in new.iterdir()), key=lambda name: (name == REPORT, name))
    moved = []
    backup.mkdir()
    try:
        for name in old_names:
            replace(folder / name, backup / name)
        for name in new_names:
            replace(new / name, folder / name)
            moved.append(name)
    except BaseException:
        for name in moved:
            with contextlib.suppress(OSError):
                (folder / name).unlink()
        for name in reversed(old_names):
            with contextlib.suppress(OSError):
                replace(backup / name, folder / name)
        raise


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the result files in a folder, by name; the report lists them."""
    return {path.name: _digest(path) for path in sorted(folder.iterdir()) if path.name in FILES}


def _user_file(folder: Path) -> str:
    """Beginning of a message about the first file that must not be replaced; "" if there is none."""
    existing = [name for name in (REPORT, *FILES) if os.path.lexists(folder / name)]
    listed = _listed(folder)
    for name in existing:
        if listed is None or (name != REPORT and name not in listed):
            return f"'{name}' in '{folder.name}' was not written by a run whose report is there"
        if name != REPORT and (not (folder / name).is_file() or _digest(folder / name) != listed[name]):
            return f"'{name}' in '{folder.name}' was changed after the run that wrote it"
    return ""


def _listed(folder: Path) -> dict[str, str] | None:
    """Digests of the result files that report.json lists, by name; None without a report that lists them.

    Reports of old versions list none, so files beside them could be the user's.
    """
    try:
        report: Any = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        return dict(report["files"]) if isinstance(report["model"], dict) else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
