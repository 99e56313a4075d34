"""The loop over cases and their store on disk, so that an interrupted evaluation can be resumed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import sys
import time
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from ..errors import DiffusionSegmentationError, GeometryError, InputError
from ..images.writing import atomic_file, write_report
from ..runtime.terminal import ProgressLine

Json = Mapping[str, Any]
Records = dict[str, dict[str, Any]]
Work = Callable[[int], tuple[dict[str, Any], dict[str, np.ndarray]]]

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


def run_cases(
    names: Sequence[str], work: Work, store: CaseStore, files: Callable[[int], Json] = lambda index: {}
) -> tuple[Records, dict[str, str]]:
    """Evaluate the cases that are not stored yet; returns the records by name, and the error text of skipped cases.

    `work(index)` returns record and picture of a case. An InputError or GeometryError skips the case; any other error
    ends the run, with finished cases stored. Raises InputError when no case is left.
    """
    records: Records = {}
    skipped: dict[str, str] = {}
    new_line = "\n" if sys.stderr.isatty() else ""  # ends the progress line
    with ProgressLine() as line:
        progress = _Progress(len(names), line)
        try:
            for index, name in enumerate(names):
                progress.show(index)
                try:
                    about = files(index)
                    record = store.get(name, about)
                    if record is None:
                        record, picture = work(index)
                        store.put(name, record, picture, about)
                        progress.evaluated += 1
                except (InputError, GeometryError) as error:
                    skipped[name] = str(error)
                    print(f"{new_line}case {name} is skipped: {error}", file=sys.stderr, flush=True)
                else:
                    records[name] = record
        except KeyboardInterrupt:
            text = f"{len(records)} of {len(names)} cases are done and stored; repeat the command to resume."
            print(new_line + text, file=sys.stderr, flush=True)
            raise
    if not records:
        raise InputError(f"None of the {len(names)} cases can be used; the first: {next(iter(skipped.values()))}")
    return records, skipped


class _Progress:
    """Shows the current case and the time left, estimated from the cases that were not stored."""

    def __init__(self, total: int, line: ProgressLine) -> None:
        self.total, self.line, self.evaluated = total, line, 0
        self.start = self.shown = time.monotonic()
        self.period = 0.1 if sys.stderr.isatty() else 15.0  # s

    def show(self, index: int) -> None:
        now = time.monotonic()
        if 0 < index < self.total - 1 and now - self.shown < self.period:
            return
        self.shown, stage = now, f"case {index + 1} of {self.total}"
        if self.evaluated:
            seconds = (now - self.start) / self.evaluated * (self.total - index)
            stage += f", {f'{seconds:.0f} s' if seconds < 120 else f'{seconds / 60:.0f} min'} left"
        self.line(SimpleNamespace(stage=stage, steps=None, seconds_left=None))


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
