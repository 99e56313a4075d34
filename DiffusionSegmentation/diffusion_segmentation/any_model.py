"""Runs and installation for models of every kind; callers need not know which kind a model is.

It has what the worker needs of an engine: `Request`, `ModelCache`, `segment` and `devices`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from .errors import ModelError
from .model import installed
from .model.folder import find
from .model.metadata import NNUNET, folder_name, kind, read_metadata
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
    """Install a model as `installed.add` does, or a trained nnU-Net v2, which is converted; returns its folder.

    A trained nnU-Net is a folder, or a .zip or .tar archive of one. Raises ModelError.
    """
    from .nnunet.convert import convert
    from .nnunet.trained_folder import trained_folder

    with trained_folder(source) as trained:
        if trained is None:
            return installed.add(source, name)
        return installed.install(partial(convert, trained), source, name)


def _nnunet_folder(model: str) -> Path | None:
    """Folder of a model that is an nnU-Net; None for any other model, whose own reader says what is wrong with it.

    Raises ModelError if there is none, or a trained nnU-Net that was not added.
    """
    from .nnunet.trained_folder import is_trained_folder

    try:
        folder = find(model)
    except ModelError:
        if is_trained_folder(Path(model)):
            name = folder_name(Path(model))
            sentence = "is a trained nnU-Net; add it first with `diffusion-segmentation models add`."
            raise ModelError(f"'{name}' {sentence}") from None
        raise
    try:
        return folder if kind(read_metadata(folder)["diffusion_segmentation"]) == NNUNET else None
    except ModelError:
        return None
