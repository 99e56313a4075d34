"""Training on top of a frozen segmenter: configuration, cases that it has not seen, temperature of its logits."""

from __future__ import annotations

import copy
import logging
from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from ..errors import InputError, ModelError
from ..model.folder import Model
from ..networks import CHANNELS_LAST, AnyEncoder, FrozenHead
from . import defaults
from .folder import Folder
from .loss import cross_entropy, repeat_each, targets
from .settings import merged
from .sources import Source

logger = logging.getLogger(__name__)

COPIED = ("labels", "working_spacing_mm", "input_range", "window")
"""Entries of our section of the metadata that are those of the frozen model."""
FEWEST_CASES = 4  # that the frozen model has not seen
TEMPERATURES = (0.2, 10.0)  # range in which the temperature is fitted


def settings_on(frozen: Model, settings: dict[str, Any]) -> dict[str, Any]:
    """`settings`, those that the data suggest, for a model on top of `frozen`. Raises ModelError."""
    theirs, section = frozen.section, settings["diffusion_segmentation"]
    if isinstance(frozen.encoder, FrozenHead):
        raise ModelError(f"'{theirs['name']}' was itself trained on top of another model; name that one.")
    if frozen.dims != section["network"].get("dims", 3):
        raise ModelError(f"'{theirs['name']}' was made for {frozen.dims} axes and the data have others.")
    network = merged(defaults.config("on-top")["diffusion_segmentation"]["network"], {"dims": frozen.dims})
    network["denoiser"] = section["network"]["denoiser"]
    network["inputs"] = theirs["network"].get("inputs", 1)
    changed = {
        **section,
        **{key: copy.deepcopy(theirs[key]) for key in COPIED},
        "name": f"{theirs['name']}-sampler"[:64],
        "title": f"Sampler on top of {theirs['title']}",
        "network": network,
        "frozen": {"name": theirs["name"], "sha256": theirs["sha256"], "temperature": 1.0},
    }
    for key in ("inputs", "intensity"):
        changed.pop(key, None)
        if key in theirs:
            changed[key] = copy.deepcopy(theirs[key])
    return {**settings, "diffusion_segmentation": changed}


def unseen_part(source: Source, frozen: Model) -> Source:
    """`source` without the cases that `frozen` was trained on: there its errors are too small to learn from.

    Raises InputError if too few remain.
    """
    if not isinstance(source, Folder):
        return source
    seen = seen_cases(frozen.section, source.dataset.name)
    if not seen:
        return source
    remaining = source.without(seen)
    if remaining < FEWEST_CASES:
        raise InputError(
            f"'{frozen.section['name']}' was trained on all but {remaining} of these cases, and its errors on the "
            f"others are too small to learn from; give {FEWEST_CASES} or more cases that it has not seen."
        )
    logger.info(f"training on the {remaining} cases that {frozen.section['name']} has not seen")
    return source


def seen_cases(section: dict[str, Any], name: str) -> set[str]:
    """Cases of the data set `name` on which a model was trained, or the model that it started from."""
    training, seen = section.get("training", {}), set()
    while training:
        facts = training.get("data", {})
        if facts.get("kind") == "folder" and facts.get("name") == name:
            seen |= set(facts.get("cases", ()))
        training = (training.get("started_from") or {}).get("training") or {}
    return seen


def require_same_labels(source: Source, frozen: Model) -> None:
    """Raise InputError unless the data number the structures as the frozen model does."""
    if source.order(frozen.labels) != list(range(frozen.classes)):
        raise InputError("The data number the labels in another order than the model; give them the same numbers.")


class Segmenter(Protocol):
    """A network whose encoder returns features and logits: a model, or one of a study."""

    @property
    def encoder(self) -> AnyEncoder: ...

    @property
    def classes(self) -> int: ...


def fitted_temperature(frozen: Segmenter, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> float:
    """Temperature by which the frozen logits are divided, of the lowest cross-entropy on `batches` (Guo et al. 2017).

    Networks that were trained with Dice are over-confident: theirs is above 1.
    """
    logits, labels = [], []
    with torch.inference_mode():
        for image, masks in batches:
            image = image.contiguous(memory_format=CHANNELS_LAST[image.ndim - 2])
            logits.append(repeat_each(frozen.encoder(image)[1], masks.shape[1]))
            labels.append(targets(masks))

    def loss(log_t: float) -> float:
        parts = [
            float(cross_entropy(part / np.exp(log_t), target, frozen.classes).mean())
            for part, target in zip(logits, labels, strict=True)
        ]
        return float(np.mean(parts))

    fit = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-3})
    temperature = round(float(np.exp(fit.x)), 4)
    logger.info(
        f"temperature of the frozen logits {temperature:.2f}: cross-entropy {loss(0.0):.4f} nats before, "
        f"{float(fit.fun):.4f} after"
    )
    return temperature
