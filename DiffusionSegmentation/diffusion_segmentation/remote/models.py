"""Models that travel: the files of a model and of the one that it is on top of, compared by SHA-256.

A model that the other computer lacks is sent once and kept there in the folder `received` beside the user's models.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ModelError, shown
from ..runtime.locations import user_models
from .names import is_model_file, is_model_name

SHIPPED = Path(__file__).parents[1] / "models"
METADATA, WEIGHTS = "metadata.json", "model.safetensors"
MAX_METADATA_BYTES = 4 * 2**20


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model: SHA-256 by name. `name` is that of its folder."""

    name: str
    files: dict[str, str]

    def as_json(self) -> dict[str, Any]:
        return {"name": self.name, "files": self.files}

    def are_in(self, folder: Path) -> bool:
        """Whether `folder` has these files with this content."""
        try:
            return all(file_sha256(folder / file) == digest for file, digest in self.files.items())
        except OSError:
            return False


def read_model_files(entries: Any) -> list[ModelFiles]:
    """What `as_json` gave, checked. Raises ModelError."""
    try:
        models = [ModelFiles(entry["name"], dict(entry["files"])) for entry in entries]
        valid = all(is_model_name(one.name) and all(map(is_model_file, one.files)) and one.files for one in models)
    except (TypeError, KeyError, ValueError):
        valid, models = False, []
    if not valid or not models:
        raise ModelError("The model has files that may not be sent; add it on the other computer.")
    return models


def local_models(name: str) -> list[tuple[Path, ModelFiles]]:
    """Folder and files of the model `name`, a name or a path, and of the one that it is on top of.

    Empty if there is no such model here; the other computer may have one of this name. Raises ModelError if it is
    incomplete.
    """
    folder = _find(name)
    if folder is None:
        return []
    section = _section(folder)
    found = [(folder, _files(folder, section))]
    frozen = section.get("frozen")
    if isinstance(frozen, dict):
        beneath = _by_digest(str(frozen.get("sha256")), folder.resolve().parent)
        if beneath is None:
            raise ModelError(f"This model needs the model '{shown(str(frozen.get('name')))}' that it was trained on.")
        found.append((beneath, _files(beneath, _section(beneath))))
    return found


def _find(name: str) -> Path | None:
    installed = [root / name for root in (SHIPPED, user_models())] if name == Path(name).name else []
    try:
        return next((folder for folder in (*installed, Path(name)) if (folder / METADATA).is_file()), None)
    except OSError:  # too long a name
        return None


def _by_digest(sha256: str, beside: Path) -> Path | None:
    for root in (SHIPPED, user_models(), beside):
        for folder in sorted(root.iterdir()) if root.is_dir() else []:
            if (folder / METADATA).is_file() and _section(folder).get("sha256") == sha256:
                return folder
    return None


def _section(folder: Path) -> dict[str, Any]:
    """Our section of the metadata; empty if they are not valid: the engine says what is wrong with them."""
    try:
        if (folder / METADATA).stat().st_size > MAX_METADATA_BYTES:
            return {}
        section = json.loads((folder / METADATA).read_text(encoding="utf-8"))["diffusion_segmentation"]
        return section if isinstance(section, dict) else {}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def _files(folder: Path, section: dict[str, Any]) -> ModelFiles:
    folds = section.get("folds") if section.get("kind") == "nnunet" else None
    files = [METADATA, *(str(fold.get("file")) for fold in folds or [{"file": WEIGHTS}])]
    name = os.path.basename(os.path.abspath(folder))
    if not all(map(is_model_file, files)) or not is_model_name(name):
        raise ModelError(f"The model '{shown(name)}' has a name or files that cannot be sent; rename its folder.")
    try:
        return ModelFiles(name, {file: file_sha256(folder / file) for file in files})
    except OSError as error:
        raise ModelError(f"The model '{shown(name)}' is incomplete; copy the whole model folder again.") from error


def file_sha256(path: Path) -> str:
    """SHA-256 of a file that is no link. Raises OSError."""
    status = path.lstat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=256)
def _sha256(path: Path, size: int, modified: int) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Store:
    """The models of this computer, as the agent sees them. `staging` is the folder of one that is being received."""

    def __init__(self, staging: Path) -> None:
        self.staging = staging

    def find(self, models: Sequence[ModelFiles]) -> Path | None:
        """Folder of the first of `models`, if all of them are here."""
        for root in (SHIPPED, user_models(), self._received(models)):
            folders = [self._in(one, root) for one in models]
            if all(folders):
                return folders[0]
        return None

    def missing(self, models: Sequence[ModelFiles]) -> list[str]:
        """Names of the models to send; those that come with the program are not received again."""
        return [one.name for one in models if not one.are_in(SHIPPED / one.name)]

    def place(self, models: Sequence[ModelFiles], name: str, file: str) -> Path | None:
        """Where a file of one of `models` is received; None if it is not one of theirs."""
        known = any(one.name == name and file in one.files for one in models)
        return self.staging / _key(models) / name / file if known else None

    def install(self, models: Sequence[ModelFiles]) -> Path:
        """Keep the received `models`; returns the folder of the first. Raises ModelError if one is not complete."""
        new, target = self.staging / _key(models), self._received(models)
        if not all(one.are_in(new / one.name) or one.are_in(SHIPPED / one.name) for one in models):
            raise ModelError("The model did not arrive completely; try again.")
        try:
            target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._move(new, target)
        except OSError:
            if (found := self.find(models)) is None:  # no place for it: it is used from where it is
                return new / models[0].name
            return found
        return target / models[0].name

    def _move(self, new: Path, target: Path) -> None:
        """Move a folder, also to another file system; the target is complete or absent."""
        part = target.with_name(f".part-{self.staging.parent.name}")
        try:
            shutil.copytree(new, part)
            part.rename(target)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    def clear(self) -> None:
        """Remove what is left of a model that was being kept."""
        for part in self._parts():
            shutil.rmtree(part, ignore_errors=True)

    def _parts(self) -> Iterator[Path]:
        return received().glob(f".part-{self.staging.parent.name}")

    def _received(self, models: Sequence[ModelFiles]) -> Path:
        return received() / _key(models)

    def _in(self, one: ModelFiles, root: Path) -> Path | None:
        return next((parent / one.name for parent in (root, SHIPPED) if one.are_in(parent / one.name)), None)


def received() -> Path:
    """The folder of the models that other computers have sent."""
    return user_models().with_name("received")


def _key(models: Sequence[ModelFiles]) -> str:
    text = json.dumps([[one.name, sorted(one.files.items())] for one in models])
    return hashlib.sha256(text.encode()).hexdigest()
