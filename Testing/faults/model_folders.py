"""Changes of a model folder, and how the loader refuses it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from diffusion_segmentation.errors import ModelError
from diffusion_segmentation.model import folder as models

Edit = Callable[[dict[str, Any], dict[str, Any]], Any]


def read(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metadata.json").read_text(encoding="utf-8"))


def change(folder: Path, edit: Edit) -> None:
    """`edit` gets the whole of the metadata and our section. Numbers may be NaN, text may be half a character."""
    metadata = read(folder)
    edit(metadata, metadata["diffusion_segmentation"])
    (folder / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")


def rewrite(folder: Path, weights: bytes) -> None:
    """Other weights, with their checksum in the metadata."""
    (folder / "model.safetensors").write_bytes(weights)
    change(folder, lambda _, section: section.update(sha256=hashlib.sha256(weights).hexdigest()))


def sentence(folder: Path) -> str:
    """Error text of a refused folder, which must not be listed among the models."""
    with pytest.raises(ModelError) as caught:
        models.load(folder)
    text = str(caught.value)
    assert text.endswith(".") and text.isprintable() and len(text) < 300 and str(folder.parent) not in text
    assert models.available(folder.parent) == []
    return text
