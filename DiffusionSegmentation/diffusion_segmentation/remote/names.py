"""Files of a job that may travel, and the messages that name them.

A message travels with names in place of paths; a name has no folder but that of finished samples. Both sides check it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DiffusionSegmentationError, InputError, shown

RESULT_FILES = (
    "segmentation.seg.nrrd",
    "entropy.nrrd",
    "disagreement.nrrd",
    "mutual_information.nrrd",
    "samples.seq.nrrd",
    "probabilities.seq.nrrd",
    "regions.nrrd",
    "facts.nrrd",
    "segmentation.dcm",
    "probabilities.dcm",
    "entropy.dcm",
    "volumes.dcm",
    "report.json",
)
"""Files of a result, the report last: a folder with a report is complete. As in `segmentation/result_folder.py`."""
ASKED_FILES = ("segmentation.seg.nrrd", "samples.seq.nrrd", "report.json")
"""Files of a result that questions are answered from."""
FINISHED = re.compile(r"finished-\d{1,9}")
"""Folder of the samples that an unfinished run has finished."""
_PREVIEW = re.compile(r"preview-[a-z0-9-]{1,40}(\.seg)?\.nrrd")
_INPUT = re.compile(r"in-\d{1,4}(\.[a-z0-9]{1,5}){1,2}")
_MODEL = re.compile(r"metadata\.json|model\.safetensors|fold_[A-Za-z0-9]{1,20}\.safetensors")
_SINGLE = (
    *(".nrrd", ".seg.nrrd", ".nii", ".nii.gz", ".mha", ".mgz", ".mgh", ".npz", ".json"),
    *(".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp"),
)
_PAIR = {".hdr": ".img", ".img": ".hdr"}  # header and voxels of the Analyze and NIfTI formats


class UnknownFileError(DiffusionSegmentationError):
    """A file that the protocol does not know."""


def is_input(name: Any) -> bool:
    """Whether a file may travel to the other computer."""
    return isinstance(name, str) and (name in ASKED_FILES or _INPUT.fullmatch(name) is not None)


def is_result(name: Any) -> bool:
    """Whether a file may come back from the other computer."""
    if not isinstance(name, str):
        return False
    folder, _, file = name.rpartition("/")
    return (file in RESULT_FILES and (not folder or FINISHED.fullmatch(folder) is not None)) or (
        not folder and _PREVIEW.fullmatch(name) is not None
    )


def is_model_file(name: Any) -> bool:
    return isinstance(name, str) and _MODEL.fullmatch(name) is not None


def is_model_name(name: Any) -> bool:
    """Whether a name can be that of a model's folder: no path, no hidden file."""
    return (
        isinstance(name, str)
        and 0 < len(name) <= 100
        and name.isprintable()
        and not name.startswith(".")
        and not re.search(r'[/\\:*?"<>|]', name)
    )


class Packed:
    """A message to the worker as it travels: `message` has names in place of paths, `files` the paths by names."""

    def __init__(self, message: Mapping[str, Any]) -> None:
        """Raises InputError for a folder, and for a file whose voxels are in another one with a name of its own."""
        self.files: dict[str, Path] = {}
        self._names: dict[Path, str] = {}
        self.message = dict(message)
        if message["type"] == "ask":
            self.message["folder"] = "."
            self.files = {name: Path(message["folder"]) / name for name in ASKED_FILES}
            return
        self.message["folder"] = "."
        for field in ("volume", "labels", "facts"):
            if message.get(field):
                self.message[field] = self._add(Path(message[field]))
        if message.get("inputs"):
            self.message["inputs"] = {name: self._add(Path(path)) for name, path in message["inputs"].items()}
        if message.get("masks"):
            self.message["masks"] = [self._add(Path(path)) for path in message["masks"]]
        if message.get("source"):
            self.message["source"] = self._source(Path(message["source"]))

    def _add(self, path: Path) -> str:
        if path in self._names:
            return self._names[path]
        ending = _ending(path)
        if path.is_dir():
            raise InputError(
                f"'{shown(path.name)}' is a folder; save the series as one NRRD file to segment it on another computer."
            )
        if not path.is_file():
            raise InputError(f"'{shown(path.name)}' does not exist or is not a file; check its name and folder.")
        if not ending:
            raise InputError(
                f"'{shown(path.name)}' cannot be sent to another computer, because it is not one file with header and "
                "voxels; save it as NRRD."
            )
        stem = f"in-{len(self.files)}"
        if ending in _PAIR:
            other = path.with_suffix(_PAIR[ending])
            if not other.is_file():
                raise InputError(f"'{shown(other.name)}' is missing beside '{shown(path.name)}'; put it there.")
            self.files[stem + _PAIR[ending]] = other
        self.files[stem + ending] = path
        self._names[path] = stem + ending
        return stem + ending

    def _source(self, path: Path) -> str | None:
        """The file that a volume was loaded from, if it can travel; DICOM, which names the patient, does not."""
        try:
            return self._add(path)
        except InputError:
            return None


def _ending(path: Path) -> str:
    """The ending of a file that can be read without another one, or the one of a pair; "" for others."""
    name = path.name.lower()
    endings = [ending for ending in (*_SINGLE, *_PAIR) if name.endswith(ending)]
    return max(endings, key=len, default="")


def unpack(message: Mapping[str, Any], inputs: Path, results: Path) -> dict[str, Any]:
    """The message with paths: names of files in the folder `inputs`, and `results` as the folder of the results.

    Raises UnknownFileError for a name that may not travel.
    """

    def placed(name: Any) -> str:
        if not is_input(name):
            raise UnknownFileError("A message names a file that may not be sent.")
        return str(inputs / name)

    unpacked = dict(message)
    unpacked["folder"] = str(inputs if message["type"] == "ask" else results)
    for field in ("volume", "labels", "facts", "source"):
        if message.get(field):
            unpacked[field] = placed(message[field])
    if message.get("inputs"):
        unpacked["inputs"] = {name: placed(file) for name, file in message["inputs"].items()}
    if message.get("masks"):
        unpacked["masks"] = [placed(file) for file in message["masks"]]
    return unpacked
