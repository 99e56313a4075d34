"""The folder of a job as the relay fills it: files appear complete, finished samples only as a whole.

Samples that a run has finished arrive in a folder of their own and take the place of the ones before once they are
complete, so that a connection that is cut at any moment loses nothing that was complete.
"""

from __future__ import annotations

import shutil
from pathlib import Path

ARRIVING = "arriving-"
"""Beginning of the name of a folder of finished samples that is not complete."""


def move_into(name: str) -> str:
    """Where a received file is put: finished samples into a folder that is renamed once all have come."""
    return ARRIVING + name if "/" in name else name


def accept_finished(folder: Path, name: str) -> None:
    """Let the complete finished samples `name` take the place of the ones before."""
    arrived = folder / (ARRIVING + name)
    if not (arrived / "report.json").is_file() or (folder / name).exists():
        return
    earlier = list(folder.glob("finished-*"))
    arrived.rename(folder / name)
    for one in earlier:
        shutil.rmtree(one, ignore_errors=True)


def discard_finished(folder: Path) -> None:
    """Remove finished samples, once the result is complete."""
    for one in (*folder.glob("finished-*"), *folder.glob(f"{ARRIVING}*")):
        shutil.rmtree(one, ignore_errors=True)
