"""The frozen model that another one was trained on top of, by the entry `frozen` of the metadata.

name, sha256       of the frozen model, which is found by its checksum
kind               its kind, missing for our own models; those of other kinds run apart from the sampler's networks
temperature        by which its logits are divided; of an nnU-Net those of a single fold
mean_temperature   for other kinds, that of the mean of the class probabilities of all folds
folds              for each fold of an nnU-Net, the training cases that it predicted, because it had not seen them
trained            for each fold of an nnU-Net, the cases that it was trained on, if the nnU-Net does not list them
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..networks import Encoder, FrozenHead, GivenLogits
from .building import conventions
from .metadata import DIFFUSION, METADATA, file_error, kind, read_metadata


def is_foreign(frozen: dict[str, Any]) -> bool:
    """Whether the frozen model is one that others trained, such as an nnU-Net."""
    return kind(frozen) != DIFFUSION


def given_logits(section: dict[str, Any]) -> GivenLogits:
    """What takes the place of a foreign network in a model with our `section` of its metadata."""
    return GivenLogits(len(section["labels"]) + 1)


def on_frozen(network: Encoder | GivenLogits, thin: Encoder, frozen: dict[str, Any]) -> FrozenHead:
    """The encoder on top of a frozen network."""
    return FrozenHead(network, thin, head_temperature(frozen))


def head_temperature(frozen: dict[str, Any]) -> float:
    """Temperature of the frozen head: log-odds of a foreign network are divided before they become channels."""
    return 1.0 if is_foreign(frozen) else frozen["temperature"]


def require_fit(found: Path, folder: Path, section: dict[str, Any]) -> None:
    """Raise ModelError unless the model in `found` is of the kind, and sees images and classes as the one in `folder`.

    `section` is that of the latter.
    """
    frozen, theirs = section["frozen"], read_metadata(found)["diffusion_segmentation"]
    if kind(theirs) != kind(frozen):
        fits = False
    elif is_foreign(frozen):
        fits = [entry["id"] for entry in theirs["labels"]] == [entry["id"] for entry in section["labels"]]
    else:
        fits = theirs.get("frozen") is None and conventions(theirs) == conventions(section)
    if not fits:
        raise file_error(folder, METADATA, f"does not fit the model '{frozen['name']}' that it was trained on")
