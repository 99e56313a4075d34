"""What runs leave in the temporary folder: which of it is a whole result, and what is old enough to go.

A run that fails keeps its folder, because finished samples may be in it; a Slicer that is killed can remove nothing.
"""

import json
import os
import shutil
import tempfile
import threading
import time
from pathlib import Path

PREFIX = "DiffusionSegmentation-"
FINISHED = "finished-"
"""Folders in a job folder, finished-1, finished-2, finished-4 and so on: the whole result of so many samples."""
DAYS = 7


def newestFinished(folder: Path) -> tuple[Path, dict] | None:
    """The folder and the report of the largest number of samples of which everything is written, or None.

    The report is written last, so a folder that has one is whole; the job folder itself may be, where the end of the
    run was not told any more.
    """
    for part in (folder, *sorted(folder.glob(f"{FINISHED}*"), key=_samples, reverse=True)):
        try:
            report = json.loads((part / "report.json").read_text(encoding="utf-8"))
            if isinstance(report["samples"], int):
                return part, report
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def sweep(temporaryFolder: str | None = None, days: float = DAYS) -> threading.Thread:
    """Remove this user's job and log folders that nobody has written into for `days`; on a thread, which is returned.

    Links, and what belongs to somebody else, are left alone.
    """
    thread = threading.Thread(target=_sweep, args=(temporaryFolder, days), name="sweep", daemon=True)
    thread.start()
    return thread


def _sweep(temporaryFolder: str | None, days: float) -> None:
    oldest = time.time() - 86400 * days
    for folder in Path(temporaryFolder or tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            if folder.is_symlink() or not folder.is_dir() or not _own(folder):
                continue
            if max(path.lstat().st_mtime for path in (folder, *folder.rglob("*"))) < oldest:
                shutil.rmtree(folder)
        except OSError:  # somebody else removes it too, or a program holds one of its files: the next time
            continue


def _own(folder: Path) -> bool:
    return not hasattr(os, "getuid") or folder.lstat().st_uid == os.getuid()


def _samples(folder: Path) -> int:
    number = folder.name.removeprefix(FINISHED)
    return int(number) if number.isdecimal() else 0
