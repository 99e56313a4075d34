"""The models to choose from, read from their metadata without importing the engine.

The worker checks a model completely (weights, checksum) before it uses it.
"""

import json
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from diffusion_segmentation.images.input_names import ONE_INPUT, Input, inputs_of
from diffusion_segmentation.runtime.locations import user_models

from .worker_client import ENGINE_FOLDER

SHIPPED = ENGINE_FOLDER / "diffusion_segmentation" / "models"
MAX_METADATA_BYTES = 4 * 2**20
"""Largest metadata.json that is read, as in the engine."""


@dataclass(frozen=True)
class Entry:
    """One model. `key` is `model` in messages to the worker: the name of a shipped model, or the folder of another one.

    `structures` are the names of its segments, without the background. `bytes` is the size of its folder, `source` what
    it was added from, empty for a shipped one. `isAdded`: it was added with `models add`. `isSampling`: it draws
    samples of the whole volume; models of other kinds, which others trained, give class probabilities alone. `inputs`
    are the volumes that it segments together. `isForPictures`: it segments single slices. `digest` is its checksum,
    `frozen` that of the model that it was trained on top of and needs to run, if any. `modality` is that of its input.
    `followsFacts`: its samples can be drawn given facts, unless it is on top of several folds; `folds` is their number.
    """

    key: str
    title: str
    description: str
    structures: tuple[str, ...]
    folder: Path
    bytes: int
    source: str
    isAdded: bool
    isSampling: bool
    inputs: tuple[Input, ...] = ONE_INPUT
    isForPictures: bool = False
    digest: str = ""
    frozen: str = ""
    modality: str = ""
    followsFacts: bool = False
    folds: int = 1


def models(folders: tuple[Path, ...] = ()) -> list[Entry]:
    """The shipped models and those in `folders`, sorted by title; invalid folders are skipped."""
    entries = [_entry(folder, folder.name) for folder in SHIPPED.glob("*/")]
    entries += [_entry(folder, str(folder)) for parent in folders for folder in parent.glob("*/")]
    return sorted((entry for entry in entries if entry is not None), key=lambda entry: (entry.title, entry.key))


def dependents(entry: Entry, entries: Sequence[Entry]) -> list[Entry]:
    """The `entries` that cannot run without the model `entry`, of which there is no other copy among them."""
    copies = [one for one in entries if one.digest == entry.digest]
    return [one for one in entries if entry.digest and one.frozen == entry.digest] if len(copies) == 1 else []


def _entry(folder: Path, key: str) -> Entry | None:
    try:
        # All files must be regular ones: an incomplete copy lacks one, and reading a pipe would block Slicer.
        file = (folder / "metadata.json").lstat()
        if not stat.S_ISREG(file.st_mode) or file.st_size > MAX_METADATA_BYTES:
            return None
        metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        section = metadata["diffusion_segmentation"]
        folds = section["folds"] if section.get("kind") == "nnunet" else [{"file": "model.safetensors"}]
        files = [file, *((folder / fold["file"]).lstat() for fold in folds)]
        if not all(stat.S_ISREG(file.st_mode) for file in files):
            return None
        title, description = section["title"], metadata.get("description", "")
        structures = tuple(label["name"] for label in section["labels"])
        inputs = inputs_of(section)
        names = [one.name for one in inputs]
        if not all(isinstance(text, str) for text in (title, description, *structures, *names)):
            return None
        if not all(isinstance(one.channels, int) for one in inputs):
            return None
        isForPictures = section.get("kind") != "nnunet" and section.get("network", {}).get("dims") == 2
        size, isAdded = sum(file.st_size for file in files), folder.parent == user_models()
        source = "" if folder.parent == SHIPPED else _source(folder)
        isSampling = section.get("kind", "diffusion") == "diffusion"
        where = folder, size, source, isAdded
        digests = str(section.get("sha256", "")), str((section.get("frozen") or {}).get("sha256", ""))
        modality = str((section.get("input_range") or {}).get("modality") or "")
        about = inputs, isForPictures, *digests, modality
        follows = isSampling and _followsFacts(section)
        return Entry(key, title, description, structures, *where, isSampling, *about, follows, len(folds))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _followsFacts(section: dict) -> bool:
    """Whether the engine draws samples of the model given facts: copula masks, or by a denoiser trained for it."""
    start = section.get("start")
    isCopula = start is not None and start.get("log_snr") is None
    return isCopula or bool(section.get("network", {}).get("denoiser", {}).get("facts"))


def _source(folder: Path) -> str:
    """The file or folder from which a model was added; its own folder if that is not known."""
    try:
        return str(json.loads((folder / "source.json").read_text(encoding="utf-8"))["source"])
    except (OSError, ValueError, KeyError, TypeError):
        return str(folder)
