"""Runs and installation for models of every kind; callers need not know which kind a model is.

It has what the worker needs of an engine: `Request`, `ModelCache`, `segment` and `devices`.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from .errors import ModelError
from .model import installed
from .model.folder import find, find_by_digest
from .model.frozen import is_foreign
from .model.metadata import MONAI, NNUNET, folder_name, kind, read_metadata
from .segmentation import pipeline
from .segmentation.foreign_head import ForeignHead, Predict
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
    kind_of_model, folder = foreign_model(request.model)
    if folder is None:
        return pipeline.segment(request, progress, preview, cancel, models, _prediction(request.model))
    if request.facts:
        raise ModelError(
            f"The model '{folder_name(folder)}' has no samples that could follow corrections; choose another model."
        )
    if models is not None:
        models.clear()  # its memory is for the network of this run
    if kind_of_model == NNUNET:
        from .nnunet import run as nnunet_run

        return nnunet_run.segment(request, folder, progress, preview, cancel)
    from .monai_bundle import run as monai_run

    return monai_run.segment(request, folder, progress, preview, cancel)


def add(source: Path, name: str | None = None) -> Path:
    """Install a model as `installed.add` does, or one that others trained, which is converted; returns its folder.

    A trained nnU-Net v2 or a MONAI bundle is a folder, or a .zip or .tar archive of one. Raises ModelError.
    """
    from .monai_bundle.archive import bundle_folder
    from .monai_bundle.convert import convert as convert_bundle
    from .nnunet.convert import convert
    from .nnunet.trained_folder import trained_folder

    with trained_folder(source) as trained:
        if trained is not None:
            return installed.install(partial(convert, trained), source, name)
    with bundle_folder(source) as bundle:
        if bundle is not None:
            return installed.install(partial(convert_bundle, bundle), source, name)
    return installed.add(source, name, _require_runnable)


def _require_runnable(folder: Path) -> None:
    """Raise ModelError if the network of a converted bundle cannot be built, or its weights do not fit."""
    if kind(read_metadata(folder)["diffusion_segmentation"]) == MONAI:
        from .monai_bundle.model import read_model

        assert read_model(folder).network


def foreign_head(folder: Path) -> ForeignHead:
    """The network that others trained in a model folder, as the direct head of a sampler. Raises ModelError."""
    if kind(read_metadata(folder)["diffusion_segmentation"]) == NNUNET:
        from .nnunet.head import NnunetHead

        return NnunetHead(folder)
    from .monai_bundle.head import MonaiHead

    return MonaiHead(folder)


def head_of_sampler(folder: Path, section: dict[str, Any]) -> ForeignHead | None:
    """The foreign network that the sampler in a model folder was trained on top of; None for other models.

    `section` is ours of its metadata. Raises ModelError if the network is missing or cannot be run.
    """
    frozen = section.get("frozen")
    if frozen is None or not is_foreign(frozen):
        return None
    return foreign_head(find_by_digest(frozen["name"], frozen["sha256"], folder.resolve().parent))


def _prediction(model: str) -> Predict | None:
    """Prediction of the foreign network that a sampler is on top of; None for any other model, also a broken one."""
    folder = find(model)
    try:
        section = read_metadata(folder)["diffusion_segmentation"]
    except ModelError:
        return None  # the run says what is wrong
    head = head_of_sampler(folder, section)
    return None if head is None else Predict(head, section["frozen"])


def foreign_model(model: str) -> tuple[str, Path | None]:
    """Kind and folder of a model that others trained; no folder for any other, whose own reader says what is wrong.

    Raises ModelError if there is none, or one that was not added.
    """
    try:
        folder = find(model)
    except ModelError:
        what = _not_added(Path(model))
        if what is not None:
            sentence = f"is a {what}; add it first with `diffusion-segmentation models add`."
            raise ModelError(f"'{folder_name(Path(model))}' {sentence}") from None
        raise
    try:
        stated = kind(read_metadata(folder)["diffusion_segmentation"])
    except ModelError:
        return "", None
    return stated, folder if stated in (NNUNET, MONAI) else None


def _not_added(folder: Path) -> str | None:
    """What a folder is that can be added; None for any other."""
    from .monai_bundle.archive import is_bundle
    from .nnunet.trained_folder import is_trained_folder

    if is_trained_folder(folder):
        return "trained nnU-Net"
    return "MONAI bundle" if is_bundle(folder) else None
