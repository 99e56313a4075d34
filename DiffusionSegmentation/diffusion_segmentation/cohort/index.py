"""The list of a cohort's cases and their states, `cohort.json`, in the folder of the results.

    {"version": 1, "cases": [{"key": "3f...", "case": "sub-01", "inputs": ["/data/sub-01.nii.gz"],
                              "model": "brain-structures", "state": "done", "error": null}, ...]}

`state` is "done", "failed" (`error` is the sentence) or "left". `key` is null until the files of the case were read.
The result of a case that is done lies in `cases/<key>`. The list holds the cases of the last command.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ..images.writing import write_report
from ..segmentation.result_folder import REPORT
from .cases import Case

INDEX, CASES = "cohort.json", "cases"
VERSION = 1


@dataclass
class Entry:
    """State of one case."""

    case: Case
    key: str | None = None
    state: Literal["done", "failed", "left"] = "left"
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        return {
            "key": self.key,
            "case": self.case.name,
            "inputs": [str(path) for path in self.case.inputs],
            "model": self.case.model,
            "state": self.state,
            "error": self.error,
        }


class Index:
    """Entries of all cases, in the order of the command.

    `dropped` is the number of finished cases of an earlier command that this one does not have; their results stay.
    """

    def __init__(self, folder: Path, cases: Iterable[Case]) -> None:
        """Take over what an earlier index says of the same cases, so that a command that goes on never shows less."""
        self.folder = folder
        self.entries = [Entry(case) for case in cases]
        earlier = {(e["case"], e["model"], *e["inputs"]): e["key"] for e in _earlier(folder) if e["state"] == "done"}
        for entry in self.entries:
            case = entry.case
            key = earlier.pop((case.name, case.model, *map(str, case.inputs)), None)
            if key is not None and is_done(folder, key):
                entry.key, entry.state = key, "done"
        self.dropped = len(earlier)

    def write(self) -> None:
        """Write the file; an existing one is replaced as a whole. Raises as `write_report`."""
        cases = [entry.as_json() for entry in self.entries]
        write_report(self.folder / INDEX, {"version": VERSION, "cases": cases})


def is_done(folder: Path, key: str) -> bool:
    """Whether the result with this key is in a cohort's folder."""
    return (folder / CASES / key / REPORT).is_file()


def _earlier(folder: Path) -> list[dict[str, Any]]:
    """Entries of the index in a folder; none if there is no readable one."""
    try:
        cases = json.loads((folder / INDEX).read_text(encoding="utf-8"))["cases"]
        return [entry for entry in cases if isinstance(entry["key"], str) and entry["state"] and entry["inputs"]]
    except (OSError, ValueError, LookupError, TypeError):
        return []
