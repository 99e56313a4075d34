"""Job folders in the temporary folder: removal, finished results in them, clean-up of old ones; complete files.

A failed run keeps its folder, because it may contain finished samples; a killed Slicer cannot remove anything.
"""

import contextlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

PREFIX = "DiffusionSegmentation-"
FINISHED = "finished-"
"""Subfolders of a job folder, finished-1, finished-2, finished-4, ...: complete results of that many samples."""
DAYS = 7
"""Age at which job and log folders are removed."""


def newestFinished(folder: Path) -> tuple[Path, dict] | None:
    """Folder and report of the complete result with the most samples in the job folder `folder`, or None.

    The report is written last: a folder with a report is complete. The job folder itself is complete if the run ended
    but its last message was lost.
    """
    parts = sorted(folder.glob(f"{FINISHED}*"), key=lambda part: (len(part.name), part.name))  # by number
    for part in (folder, *reversed(parts)):
        try:
            report = json.loads((part / "report.json").read_text(encoding="utf-8"))
            if isinstance(report["samples"], int):
                return part, report
        except (OSError, ValueError, KeyError, TypeError):
            continue
    return None


def sweep(temporaryFolder: str | None = None, days: float = DAYS) -> threading.Thread:
    """Remove this user's job and log folders (not links) that were not modified for `days`, on the returned thread."""
    return _startThread(_sweep, temporaryFolder, days)


def _sweep(temporaryFolder: str | None, days: float) -> None:
    oldest = time.time() - 86400 * days
    for folder in Path(temporaryFolder or tempfile.gettempdir()).glob(f"{PREFIX}*"):
        try:
            isOwned = not hasattr(os, "getuid") or folder.lstat().st_uid == os.getuid()
            if folder.is_symlink() or not folder.is_dir() or not isOwned:
                continue
            if max(path.lstat().st_mtime for path in (folder, *folder.rglob("*"))) < oldest:
                shutil.rmtree(folder)
        except OSError:  # removed by another process, or a file is in use: removed the next time
            continue


def removeInBackground(*paths: Path, after: Callable[[], None] = lambda: None) -> threading.Thread:
    """Remove the files or folders `paths` after `after` has returned, on the returned thread."""
    return _startThread(_removeAll, paths, after)


def _startThread(function: Callable[..., None], *arguments: Any) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def _removeAll(paths: Sequence[Path], after: Callable[[], None]) -> None:
    after()
    for path in paths:
        _remove(path)


def _remove(path: Path) -> None:
    for _attempt in range(20):  # a virus scanner (Windows) or a worker about to end may hold a file open
        with contextlib.suppress(OSError):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        if not path.exists():
            return
        time.sleep(0.5)


def writeCompletely(path: Path, text: str, encoding: str = "utf-8") -> None:
    """Write `text` with line feeds to `path`, which keeps its earlier content if that fails. Raises OSError."""
    draft = path.with_name(path.name + ".part")
    try:
        draft.write_text(text, encoding=encoding, newline="\n")
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
