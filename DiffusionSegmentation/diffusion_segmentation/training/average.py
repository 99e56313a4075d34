"""Mean of the weights of two models of the same origin.

A model that was trained further, on other data, often loses on the data before what it gains on the new ones. The mean
of its weights and those of its ancestor, or of two descendants, can be better than both on both (Wortsman et al.,
"Robust fine-tuning of zero-shot models", 2022; "Model soups", 2022). It costs nothing at inference.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ..errors import InputError, ModelError
from ..model import folder as models
from ..model.building import conventions
from ..model.folder import Model

FITTED = ("calibration", "own_cases", "map_prior", "card")
"""Entries of the metadata that were measured with the weights of one model."""
MOST_COARSER = 1.5
"""Largest ratio of the voxel sizes of two models; `brain-structures` is the mean of models of 1.5 and 2 mm."""

OPTIONS = {"strata": 0, "gain": 0.0, "pools": [], "pool_variances": False, "facts": False}
"""What a model's metadata may leave out in the entry of its denoiser."""


def average(model: str, other: str, output: Path, share: float = 0.5) -> dict[str, Any]:
    """Write `model` with the mean of its weights and those of `other`, which count `share`, to the folder `output`.

    The denoisers are averaged if they have the same layers; otherwise that of `model` is kept. All other settings are
    those of `model`; its calibration is left out. Returns name, share and whether the denoiser was averaged. Raises
    ModelError for models that have other structures, inputs or encoders, very different voxel sizes, or no common
    origin, and InputError if `output` is the folder of one of them.
    """
    folders = [models.find(name) for name in (model, other)]
    if output.resolve() in [folder.resolve() for folder in folders]:
        raise InputError("The mean would overwrite one of the two models; choose another folder for it.")
    first, second = map(models.load, folders)
    _require_alike(first, second)
    first.encoder.load_state_dict(_mean(first.encoder, second.encoder, share))
    layers, others = ({**OPTIONS, **one.section["network"]["denoiser"]} for one in (first, second))
    same_denoiser = layers == others
    if same_denoiser:
        first.denoiser.load_state_dict(_mean(first.denoiser, second.denoiser, share))
    metadata = copy.deepcopy(first.metadata)
    section = metadata["diffusion_segmentation"]
    for name in FITTED:
        section.pop(name, None)
    section["map_source"] = "direct"  # as after training
    facts = {"name": second.section["name"], "version": second.metadata["version"], "sha256": second.section["sha256"]}
    added = {**facts, "share": share, "denoiser": same_denoiser, "training": second.section.get("training")}
    section["training"] = {**section.get("training", {}), "averaged_with": added}
    models.save(output, metadata, first.encoder, first.denoiser)
    return {"name": section["name"], "share": share, "denoiser": same_denoiser}


def text(result: Mapping[str, Any], output: Path) -> str:
    """Summary for a terminal."""
    lines = [f"The model with the mean of the weights is {output}"]
    if not result["denoiser"]:
        lines.append("The denoisers have other layers, so that of the first model was kept; train it alone.")
    return "\n".join([*lines, "Its spread is not fitted; `diffusion-segmentation calibrate` fits it."])


def _mean(first: nn.Module, second: nn.Module, share: float) -> dict[str, Any]:
    other = second.state_dict()
    return {name: tensor.float().lerp(other[name].float(), share) for name, tensor in first.state_dict().items()}


def _require_alike(first: Model, second: Model) -> None:
    """Raise ModelError unless the mean of the weights of both models can be a network."""
    one, two = first.section, second.section
    names = f"'{one['name']}' and '{two['name']}'"
    if "frozen" in one or "frozen" in two:
        raise ModelError("Samplers on top of a frozen model cannot be averaged.")
    if [entry["id"] for entry in first.labels] != [entry["id"] for entry in second.labels]:
        raise ModelError(f"The models {names} have other structures, so their weights have no mean.")
    see = [{**conventions(section), "working_spacing_mm": None} for section in (one, two)]
    if see[0] != see[1] or one["network"]["encoder"] != two["network"]["encoder"]:
        raise ModelError(f"The models {names} have other inputs or encoders, so their weights have no mean.")
    sizes = sorted((first.spacing, second.spacing))
    if sizes[1] > MOST_COARSER * sizes[0]:
        differ = f"have voxels of {sizes[0]:g} and {sizes[1]:g} mm"
        raise ModelError(f"The models {names} {differ}, which is too different for a mean of their weights.")
    if not _origins(one) & _origins(two):
        raise ModelError(
            f"The models {names} did not start from the same weights; the mean of unrelated weights is no network."
        )


def _origins(section: Mapping[str, Any]) -> set[str]:
    """Checksums of a model and of all models that it started from."""
    found, training = {section["sha256"]}, section.get("training")
    while training and (before := training.get("started_from")):
        found.add(before.get("sha256"))
        training = before.get("training")
    return found - {None, ""}
