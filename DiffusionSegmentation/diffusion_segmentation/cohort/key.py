"""The key under which the result of a case is kept: what the result depends on, and nothing of names or places."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..dicom.slices import dicom_files, is_dicom
from ..images.file_digest import files_sha256
from ..model.folder import find
from ..model.metadata import read_metadata
from .cases import Case

LENGTH = 20  # characters; with 80 bits two of a million cases have one key with a probability of 4e-13
VERSION = 1  # of what the key is made of


@dataclass(frozen=True)
class Settings:
    """Settings of a run that change its result; as those of `segmentation.request.Request`."""

    samples: int | Literal["auto"] | None = None
    steps: int | None = None
    seed: int = 0
    region_mm: float | None = None
    spacing: tuple[float, float, float] | None = None


def content_key(case: Case, model_sha256: str, settings: Settings) -> str:
    """Hexadecimal key of a case's files, model and settings; equal for copies of the files under other names.

    Raises InputError and GeometryError for a file that cannot be read.
    """
    digests = [path_sha256(path) for path in case.inputs]
    names = case.input_names or [str(n) for n in range(len(digests))]
    content: dict[str, Any] = {
        "version": VERSION,
        "inputs": dict(zip(names, digests, strict=True)),
        "series": case.series,
        "model": model_sha256,
        **asdict(settings),
    }
    return _digest(content)[:LENGTH]


def path_sha256(path: Path) -> str:
    """SHA-256 of a volume with the files that belong to it, or of the DICOM images in a folder in any order."""
    if path.is_dir():
        return _digest(sorted(_file_sha256([file]) for file in dicom_files(path)))
    return _file_sha256([path]) if is_dicom(path) else files_sha256(path)


def model_sha256(model: str) -> str:
    """SHA-256 of what a model's metadata say about its runs, with the checksums of its weights. Raises ModelError."""
    return _digest(read_metadata(find(model))["diffusion_segmentation"])


def _file_sha256(paths: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with open(path, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _digest(content: Any) -> str:
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()
