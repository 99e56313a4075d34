"""Runs and installation for models of every kind; callers need not know which kind a model is.

It has what the worker needs of an engine: `Request`, `ModelCache`, `segment` and `devices`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from .errors import ModelError
from .model import installed
from .model.folder import find
from .model.metadata import MAX_BYTES, METADATA, NNUNET, read_limited
from .segmentation import pipeline
from .segmentation.pipeline import ModelCache as ModelCache
from .segmentation.pipeline import devices as devices
from .segmentation.request import Outcome, Preview, Progress
from .segmentation.request import Request as Request


def segment(
    request: Request,
    progress: Callable[[Progress], None] = lambda progress: None,
    preview: Callable[[Preview], None] = lambda preview: None,
    cancel: Callable[[], Literal["keep", "drop"] | None] = lambda: None,
    models: ModelCache | None = None,
) -> Outcome:
    """Segment as `pipeline.segment` does, with a model of any kind."""
    folder = _nnunet_folder(request.model)
    if folder is None:
        return pipeline.segment(request, progress, preview, cancel, models)
    if models is not None:
        models.clear()  # its memory is for the network of this run
    from .nnunet import run

    return run.segment(request, folder, progress, preview, cancel)


def add(source: Path, name: str | None = None) -> Path:
    """Install a model as `installed.add` does, or a trained nnU-Net v2 folder, which is converted; returns its folder.

    Raises ModelError.
    """
    from .nnunet.convert import convert, is_nnunet_folder

    if is_nnunet_folder(source):
        return installed.install(partial(convert, source), source, name)
    return installed.add(source, name)


def _nnunet_folder(model: str) -> Path | None:
    """Folder of a model whose metadata say that it is an nnU-Net; None for any other model, and if there is none."""
    try:
        folder = find(model)
        data = read_limited(folder, METADATA, MAX_BYTES)
        return folder if json.loads(data or b"")["diffusion_segmentation"].get("kind") == NNUNET else None
    except (ModelError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None
