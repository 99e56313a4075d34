"""Models of this user: installation from a folder or an archive, list and removal."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

from ..errors import ModelError, explain, shown
from ..runtime.locations import user_models
from . import archive, monai_metadata, nnunet_metadata
from .folder import SHIPPED, available, load
from .metadata import DIFFUSION, MAX_BYTES, METADATA, NNUNET, kind, read_metadata
from .weights import WEIGHTS, read_weights, weight_files

SOURCE = "source.json"  # where an installed model comes from; written beside its metadata
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def installed() -> list[dict[str, Any]]:
    """Metadata of the models that come with the program, then of those of the user, each ordered by name.

    Each has an entry `installed`: {"folder", "bytes", "source"}; the source is "shipped", or the file or folder from
    which the model was added.
    """
    models = []
    for root in (SHIPPED, user_models()):
        for metadata in available(root):
            folder = root / metadata["diffusion_segmentation"]["name"]
            size = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
            source = "shipped" if root == SHIPPED else _source(folder)
            models.append({**metadata, "installed": {"folder": str(folder), "bytes": size, "source": source}})
    return models


Check = Callable[[Path], None]
"""Raises ModelError for a model folder that cannot be run."""


def _no_check(folder: Path) -> None:
    """For our own models, which are loaded."""


def add(source: Path, name: str | None = None, check: Check = _no_check) -> Path:
    """Install the model in a folder, a .zip or a .tar archive (plain or compressed) as `name`, by default its own name;
    returns its folder.

    Only the files of a model are read; they are checked completely, also by `check`, before anything is installed.
    Raises ModelError if there is no valid model, or if the name is taken.
    """
    return install(partial(_copy_model, source), source, name, check)


def install(write: Callable[[Path], None], source: Path, name: str | None = None, check: Check = _no_check) -> Path:
    """Install the model that `write` puts into the folder that it is given, as `add` does; returns its folder."""
    root = user_models()
    try:
        root.mkdir(parents=True, exist_ok=True)
        if name is not None:
            _free(root, name)  # before gigabytes are written
        with tempfile.TemporaryDirectory(prefix=".adding-", dir=root) as temporary:
            folder = Path(temporary) / "model"
            folder.mkdir()
            write(folder)
            section = _checked(folder)
            check(folder)
            name = name or section["name"]
            target = _free(root, name)
            if name != section["name"]:
                _rename(folder, name)
            facts = {"source": str(source.resolve())}
            (folder / SOURCE).write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8", errors="replace")
            folder.rename(target)
    except OSError as error:
        raise ModelError(explain(error)[1]) from error
    return target


def remove(name: str) -> Path:
    """Delete a model of the user; returns its folder. Raises ModelError if there is none of this name."""
    folder = user_models() / name
    if not NAME.fullmatch(name) or not (folder / METADATA).is_file():
        if (SHIPPED / name / METADATA).is_file():
            raise ModelError(f"The model '{shown(name)}' is part of the program and cannot be removed.")
        raise ModelError(f"There is no added model '{shown(name)}'; `diffusion-segmentation models` lists them.")
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise ModelError(explain(error)[1]) from error
    return folder


def dependents(name: str) -> list[str]:
    """Names of installed models on top of the model `name` of the user, which cannot run without it."""
    sections = [one["diffusion_segmentation"] for root in (SHIPPED, user_models()) for one in _metadata(root)]
    digests = [section["sha256"] for section in sections if section["name"] == name]
    others = {section["sha256"] for section in sections if section["name"] != name}
    frozen = ((section["name"], section.get("frozen") or {}) for section in sections)
    return [one for one, entry in frozen if entry.get("sha256") in digests and entry["sha256"] not in others]


def _metadata(root: Path) -> Iterator[dict[str, Any]]:
    """Valid metadata of the models in a folder, whose weights are not read."""
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        with suppress(ModelError):
            yield read_metadata(folder)


def removal_warning(dependents: Sequence[str]) -> str:
    """Part of a sentence on models that cannot run any more; "" if there are none."""
    if not dependents:
        return ""
    names = ", ".join(f"'{shown(name)}'" for name in dependents)
    return f"{names} {'was' if len(dependents) == 1 else 'were'} trained on top of it and cannot run without it"


def _free(root: Path, name: str) -> Path:
    """Folder of a new model. Raises ModelError if the name is unusable or taken."""
    if not NAME.fullmatch(name):
        raise ModelError(
            f"'{shown(name)}' cannot be the name of a model; give one of letters, digits, '-', '_' and '.' with --name."
        )
    if (root / name).exists() or (SHIPPED / name).exists():
        raise ModelError(f"There is a model '{name}' already; give another name with --name, or remove it first.")
    return root / name


def _copy_model(source: Path, folder: Path) -> None:
    """Copy the files of a model into `folder`: the metadata, and the weights that they name."""
    with _files(source) as opened:
        archive.copy(opened(METADATA), folder / METADATA, MAX_BYTES)
        for file, limit in weight_files(read_metadata(folder)).items():
            archive.copy(opened(file), folder / file, limit)


def _checked(folder: Path) -> dict[str, Any]:
    """Our section of the metadata of the model in `folder`, which is checked completely. Raises ModelError."""
    section = read_metadata(folder)["diffusion_segmentation"]
    if kind(section) == DIFFUSION:
        return load(folder).section
    if kind(section) != NNUNET:
        read_weights(folder, WEIGHTS, section["weights"]["sha256"], monai_metadata.MAX_NETWORK_WEIGHTS)
        return section
    for fold in section["folds"]:
        read_weights(folder, fold["file"], fold["sha256"], nnunet_metadata.MAX_FOLD_WEIGHTS)
    return section


@contextmanager
def _files(source: Path) -> Iterator[Callable[[str], IO[bytes]]]:
    """Function that opens a file of the model in a folder or an archive, by its name."""
    if source.is_dir():
        yield partial(_opened, source)
        return
    with archive.members(source) as members:
        folders = archive.model_folders(members)
        if len(folders) != 1:
            count = "no model" if not folders else f"{len(folders)} models"
            raise ModelError(f"The archive '{shown(source.name)}' has {count}; give the archive of one model folder.")
        yield lambda file: archive.opened(source, members, folders[0] / file)


def _opened(folder: Path, file: str) -> IO[bytes]:
    path = folder / file
    if not path.is_file() or path.is_symlink():
        raise ModelError(f"The folder '{shown(folder.name)}' has no {file}; give a model folder.")
    return path.open("rb")


def _rename(folder: Path, name: str) -> None:
    """Give the model in `folder` another name; its weights and their checksum stay."""
    metadata = json.loads((folder / METADATA).read_text(encoding="utf-8"))
    metadata["diffusion_segmentation"]["name"] = name
    (folder / METADATA).write_text(json.dumps(metadata, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _source(folder: Path) -> str:
    try:
        return str(json.loads((folder / SOURCE).read_text(encoding="utf-8"))["source"])
    except (OSError, ValueError, KeyError, TypeError):
        return "unknown"
