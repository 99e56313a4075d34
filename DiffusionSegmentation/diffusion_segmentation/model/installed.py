"""Models of this user: installation from a folder or an archive, list and removal."""

from __future__ import annotations

import json
import re
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any

from ..errors import ModelError, explain, shown
from ..runtime.locations import user_models
from . import nnunet_metadata
from .folder import SHIPPED, available, load
from .metadata import DIFFUSION, MAX_BYTES, METADATA, kind, read_metadata
from .weights import read_weights, weight_files

SOURCE = "source.json"  # where an installed model comes from; written beside its metadata
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_MEMBERS = 10_000  # of an archive
ARCHIVE_ERRORS = (zipfile.BadZipFile, tarfile.TarError, EOFError, NotImplementedError, RuntimeError, ValueError)


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


def add(source: Path, name: str | None = None) -> Path:
    """Install the model in a folder, a .zip or a .tar archive (plain or compressed) as `name`, by default its own name;
    returns its folder.

    Only the files of a model are read; they are checked completely before anything is installed. Raises ModelError if
    there is no valid model, or if the name is taken.
    """
    return install(partial(_copy_model, source), source, name)


def install(write: Callable[[Path], None], source: Path, name: str | None = None) -> Path:
    """Install the model that `write` puts into the folder that it is given, as `add` does; returns its folder."""
    root = user_models()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".adding-", dir=root) as temporary:
            folder = Path(temporary) / "model"
            folder.mkdir()
            write(folder)
            section = _checked(folder)
            name = name or section["name"]
            target = _free(root, name)
            if name != section["name"]:
                _rename(folder, name)
            facts = {"source": str(source.resolve())}
            (folder / SOURCE).write_text(json.dumps(facts, ensure_ascii=False), encoding="utf-8")
            folder.rename(target)
    except ARCHIVE_ERRORS as error:
        raise ModelError(f"The archive '{shown(source.name)}' is damaged; copy it again.") from error
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
        _copy(opened(METADATA), folder / METADATA, MAX_BYTES)
        for file, limit in weight_files(read_metadata(folder)).items():
            _copy(opened(file), folder / file, limit)


def _checked(folder: Path) -> dict[str, Any]:
    """Our section of the metadata of the model in `folder`, which is checked completely. Raises ModelError."""
    section = read_metadata(folder)["diffusion_segmentation"]
    if kind(section) == DIFFUSION:
        return load(folder).section
    for fold in section["folds"]:
        read_weights(folder, fold["file"], fold["sha256"], nnunet_metadata.MAX_FOLD_WEIGHTS)
    return section


@contextmanager
def _files(source: Path) -> Iterator[Callable[[str], IO[bytes]]]:
    """Function that opens a file of the model in a folder or an archive, by its name."""
    if source.is_dir():
        yield partial(_opened, source)
        return
    with _archive(source) as members:
        paths = [PurePosixPath(path) for path in members]
        weights = {path.parent for path in paths if path.suffix == ".safetensors"}
        folders = [path.parent for path in paths if path.name == METADATA and path.parent in weights]
        if len(folders) != 1:
            count = "no model" if not folders else f"{len(folders)} models"
            raise ModelError(f"The archive '{shown(source.name)}' has {count}; give the archive of one model folder.")

        def opened(file: str) -> IO[bytes]:
            open_member = members.get(str(folders[0] / file))
            if open_member is None:
                raise ModelError(f"The model in '{shown(source.name)}' has no {file}; archive the whole model folder.")
            stream = open_member()
            if stream is None:
                raise ModelError(f"The {file} in '{shown(source.name)}' is a link; put the file itself there.")
            return stream

        yield opened


def _opened(folder: Path, file: str) -> IO[bytes]:
    path = folder / file
    if not path.is_file() or path.is_symlink():
        raise ModelError(f"The folder '{shown(folder.name)}' has no {file}; give a model folder.")
    return path.open("rb")


@contextmanager
def _archive(source: Path) -> Iterator[dict[str, Any]]:
    """Functions that open the members of an archive, by path."""
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as zipped:
            yield {name: lambda name=name: zipped.open(name) for name in zipped.namelist()[:MAX_MEMBERS]}
    elif source.is_file() and tarfile.is_tarfile(source):
        with tarfile.open(source) as tar:
            members = [member for member, _ in zip(tar, range(MAX_MEMBERS), strict=False)]
            yield {m.name: lambda m=m: tar.extractfile(m) if m.isreg() else None for m in members}
    else:
        raise ModelError(f"'{shown(source.name)}' is no model folder and no .zip or .tar archive; give one of these.")


def _copy(stream: IO[bytes], path: Path, limit: int) -> None:
    """Write a stream to a file. Raises ModelError if it is longer than `limit` bytes."""
    with stream, path.open("wb") as file:
        left = limit
        while chunk := stream.read(min(2**20, left + 1)):
            left -= len(chunk)
            if left < 0:
                raise ModelError(f"The {path.name} is larger than {limit / 1e6:.0f} MB; it is no model's.")
            file.write(chunk)


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
