"""The folder that a run's results go to: it never holds the files of two runs as if they were of one."""

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

from ..errors import InputError
from ..images.writing import replace

REPORT = "report.json"
FILES = (
    "segmentation.seg.nrrd",
    "entropy.nrrd",
    "disagreement.nrrd",
    "samples.seq.nrrd",
    "probabilities.seq.nrrd",
    "regions.nrrd",
)
"""What a run may write beside its report."""


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


def require_ours(folder: Path) -> None:
    """Raise InputError where a file that a run would replace is not as a run has left it: it could be a person's."""
    problem = _foreign(folder)
    if problem:
        raise InputError(f"{problem}; move it away, or choose another folder.")


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """An empty folder for the results of a run; at the end its files take the place of the earlier run's in `folder`.

    Files of an earlier run that have no successor go with its report; other files are not touched. Where the work ends
    in an error, what was there is as it was. Raises InputError where somebody has changed a result meanwhile; the new
    one then stays in a folder of its own, which the sentence names.
    """
    mark = uuid.uuid4().hex[:8]
    part, aside = folder / f".part-{mark}", folder / f".old-{mark}"
    try:
        part.mkdir()
        yield part
        problem = _foreign(folder)
        if problem:
            kept = folder / f"result-{mark}"
            os.replace(part, kept)
            raise InputError(f"{problem}; the new result is in '{kept.name}' there.")
        _exchange(part, folder, aside)
    finally:
        for left in (part, aside):
            shutil.rmtree(left, ignore_errors=True)


def _exchange(part: Path, folder: Path, aside: Path) -> None:
    """Put the files of `part` in the place of the earlier run's, which wait in `aside` until all is done."""
    new = sorted(path.name for path in part.iterdir())
    old = [name for name in (REPORT, *FILES) if (folder / name).is_file()]
    placed = []
    aside.mkdir()
    try:
        for name in old:
            replace(folder / name, aside / name)
        # The report last: a folder that has one is whole.
        for name in sorted(new, key=lambda name: name == REPORT):
            replace(part / name, folder / name)
            placed.append(name)
    except BaseException:
        for name in placed:
            with contextlib.suppress(OSError):
                (folder / name).unlink()
        for name in reversed(old):
            with contextlib.suppress(OSError):
                replace(aside / name, folder / name)
        raise


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the results in a folder, by name, for the report."""
    return {path.name: _digest(path) for path in sorted(folder.iterdir()) if path.name in FILES}


def _foreign(folder: Path) -> str:
    """Which file is in a run's way, and why, words for a sentence; empty where none is."""
    there = [name for name in (REPORT, *FILES) if os.path.lexists(folder / name)]
    if not there:
        return ""
    listed = _listed(folder)
    for name in there:
        if listed is None or (name != REPORT and name not in listed):
            return f"'{name}' in '{folder.name}' was not written by a run whose report is there"
        if name != REPORT and (not (folder / name).is_file() or _digest(folder / name) != listed[name]):
            return f"'{name}' in '{folder.name}' was changed after the run that wrote it"
    return ""


def _listed(folder: Path) -> dict[str, str] | None:
    """The files of the run whose report is in the folder, with their digests; None without such a report.

    Older reports list none: what lies beside them could be anybody's.
    """
    try:
        report: Any = json.loads((folder / REPORT).read_text(encoding="utf-8"))
        return dict(report["files"]) if isinstance(report["model"], dict) else None
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return None


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
