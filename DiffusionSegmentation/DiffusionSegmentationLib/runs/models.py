"""Which models there are to choose from: read from their metadata alone, so that Slicer never imports the engine.

The worker checks a model fully (weights, checksum) before it uses it; here is only what the panel shows.
"""

import json
import stat
from dataclasses import dataclass
from pathlib import Path

from .worker_client import ENGINE_FOLDER

SHIPPED = ENGINE_FOLDER / "diffusion_segmentation" / "models"
LARGEST_BYTES = 4 * 2**20
"""Of metadata.json, as the engine has it."""


@dataclass(frozen=True)
class Entry:
    """One model. `key` is what the worker gets as `model`: the name of a shipped one, the folder of another.

    `structures` are the names of its segments, without the background.
    """

    key: str
    title: str
    description: str
    structures: tuple[str, ...]


def models(folders: tuple[Path, ...] = ()) -> list[Entry]:
    """The shipped models and those in other `folders` of models, by title; what is no model is left out."""
    entries = [_entry(folder, folder.name) for folder in _subfolders(SHIPPED)]
    for parent in folders:
        entries += [_entry(folder, str(folder)) for folder in _subfolders(parent)]
    return sorted((entry for entry in entries if entry is not None), key=lambda entry: entry.title)


def _subfolders(parent: Path) -> list[Path]:
    try:
        return [path for path in parent.iterdir() if path.is_dir()]
    except OSError:  # it is not there, or may not be read
        return []


def _entry(folder: Path, key: str) -> Entry | None:
    try:
        # A half-copied model lacks one of the two. A pipe in the place of a file would stop Slicer for ever.
        sizes = [_sizeOfFile(folder / name) for name in ("metadata.json", "model.safetensors")]
        if None in sizes or sizes[0] > LARGEST_BYTES:
            return None
        metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        section = metadata["diffusion_segmentation"]
        title, description = section["title"], metadata.get("description", "")
        structures = tuple(label["name"] for label in section["labels"])
        if not all(isinstance(text, str) for text in (title, description, *structures)):
            return None
        return Entry(key, title, description, structures)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def _sizeOfFile(path: Path) -> int | None:
    """Bytes of a file; None for a link, a folder or a pipe."""
    found = path.lstat()
    return found.st_size if stat.S_ISREG(found.st_mode) else None
