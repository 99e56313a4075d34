"""Which models there are to choose from: read from their metadata alone, so that Slicer never imports the engine.

The worker checks a model fully (weights, checksum) before it uses it; here is only what the panel shows.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from .worker_client import ENGINE_FOLDER

SHIPPED = ENGINE_FOLDER / "diffusion_segmentation" / "models"


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
    return [path for path in parent.iterdir() if path.is_dir()] if parent.is_dir() else []


def _entry(folder: Path, key: str) -> Entry | None:
    try:
        metadata = json.loads((folder / "metadata.json").read_text(encoding="utf-8"))
        section = metadata["diffusion_segmentation"]
        return Entry(
            key=key,
            title=section["title"],
            description=metadata.get("description", ""),
            structures=tuple(label["name"] for label in section["labels"]),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
