"""Finished cases on disk, so that an interrupted evaluation can be resumed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DiffusionSegmentationError
from ..images.writing import atomic_file, write_report

Json = Mapping[str, Any]

SCHEMA = 4  # increased whenever the stored data of a case change; older cases are then evaluated again


class CaseStore:
    """A folder of evaluated cases, each with a record (JSON) and the arrays of its picture (.npz).

    `key` describes the evaluation; cases stored with another key are ignored.
    """

    def __init__(self, folder: Path, key: Json) -> None:
        self.folder = folder
        self.key = json.loads(json.dumps({"schema": SCHEMA, **key}))  # tuples become lists, as in the files

    def get(self, name: str, files: Json | None = None) -> dict[str, Any] | None:
        """The record of a case, or None. `files` describes the input files of the case, see `put`."""
        path = self._path(name)
        try:
            entry = json.loads(path.read_text(encoding="utf-8"))
            same = entry["key"] == self.key and entry["name"] == name and entry["files"] == dict(files or {})
            return entry["record"] if same and path.with_suffix(".npz").exists() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def put(self, name: str, record: Json, picture: Json, files: Json | None = None) -> None:
        """Store a case and the arrays of its picture; the record is written last, so a record always has its picture.

        Raises DiffusionSegmentationError, one sentence, when it cannot be written.
        """
        path = self._path(name)
        make_folder(self.folder)
        with atomic_file(path.with_suffix(".npz")) as file:
            np.savez_compressed(file, **picture)
        write_report(path, {"name": name, "key": self.key, "files": dict(files or {}), "record": record})

    def picture(self, name: str) -> dict[str, np.ndarray]:
        """The picture arrays of a stored case; empty if the file is damaged."""
        try:
            with np.load(self._path(name).with_suffix(".npz"), allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, ValueError, zipfile.BadZipFile):
            return {}

    def _path(self, name: str) -> Path:
        """A portable file name; the hash distinguishes names that become equal."""
        plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._")[:60] or "case"
        return self.folder / f"{plain}-{hashlib.sha256(name.encode()).hexdigest()[:8]}.json"


def make_folder(folder: Path) -> None:
    """Create a folder and its parents. Raises DiffusionSegmentationError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        text = f"The folder '{folder.name}' could not be written ({error.strerror}); choose another folder."
        raise DiffusionSegmentationError(text) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file, creating its folder. Raises DiffusionSegmentationError."""
    make_folder(path.parent)
    with atomic_file(path) as file:
        file.write(content)


def write_rows(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write rows as a CSV file, creating its folder. Raises DiffusionSegmentationError."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_bytes(path, text.getvalue().encode("utf-8"))
