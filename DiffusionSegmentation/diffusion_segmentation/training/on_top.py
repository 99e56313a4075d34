"""Training on top of a frozen segmenter: configuration, cases that it has not seen, temperature of its logits."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from ..errors import InputError, ModelError
from ..model.folder import Model, find_by_digest
from ..model.frozen import on_frozen
from ..model.seen_cases import seen_cases
from ..networks import CHANNELS_LAST, AnyEncoder, Encoder, FrozenHead, GivenLogits
from . import defaults
from .folder import Folder
from .loss import cross_entropy, repeat_each, targets
from .settings import Optimisation, merged
from .sources import Source

logger = logging.getLogger(__name__)

COPIED = ("labels", "working_spacing_mm", "input_range", "window")
"""Entries of our section of the metadata that are those of the frozen model."""
FEWEST_CASES = 4  # that the frozen model has not seen
MOST_CELLS = 4096  # of a window on which it is fitted, for the memory of many classes
TEMPERATURES = (0.2, 10.0)  # range in which the temperature is fitted


class FrozenModel:
    """A model of ours as the frozen part of another one.

    Methods are in the order in which a training calls them.
    """

    def __init__(self, section: dict[str, Any], network: Encoder | GivenLogits) -> None:
        self.section, self.network = section, network

    @classmethod
    def of(cls, model: Model) -> FrozenModel:
        """Raises ModelError for a model that was itself trained on top of another one."""
        if model.encoder.trained is not model.encoder:
            raise ModelError(f"'{model.section['name']}' was itself trained on top of another model; name that one.")
        return cls(model.section, model.encoder.trained)

    def unseen_part(self, source: Source) -> Source:
        """`source` without the cases that it was trained on: there its errors are too small to learn from.

        Raises InputError if too few remain.
        """
        if isinstance(source, Folder):
            self.leave_out(source, seen_cases(self.section, source.dataset.name))
        return source

    def leave_out(self, source: Folder, seen: set[str]) -> None:
        """Leave out cases that it was trained on. Raises InputError if too few remain."""
        if not seen:
            return
        remaining, name = source.without(seen), self.section["name"]
        if remaining < FEWEST_CASES:
            raise InputError(
                f"'{name}' was trained on all but {remaining} of these cases, and its errors on the others are too "
                f"small to learn from; give {FEWEST_CASES} or more cases that it has not seen."
            )
        logger.info(f"training on the {remaining} cases that {name} has not seen")

    def settings(self, suggested: dict[str, Any]) -> dict[str, Any]:
        """`suggested`, the settings for the data, for a model on top of this one. Raises ModelError."""
        theirs, section = self.section, suggested["diffusion_segmentation"]
        dims = theirs["network"].get("dims", 3)
        if dims != section["network"].get("dims", 3):
            raise ModelError(f"'{theirs['name']}' was made for {dims} axes and the data have others.")
        settings = settings_on(theirs, suggested, COPIED)
        changed = settings["diffusion_segmentation"]
        changed["network"]["inputs"] = theirs["network"].get("inputs", 1)
        for key in ("inputs", "intensity"):
            changed.pop(key, None)
            if key in theirs:
                changed[key] = copy.deepcopy(theirs[key])
        return settings

    def require_found(self, output: Path) -> None:
        """Raise ModelError unless a model in the folder `output` would find this one."""
        find_by_digest(self.section["name"], self.section["sha256"], output.resolve().parent)

    def require_same_labels(self, source: Source) -> None:
        """Raise InputError unless the data number the structures as this model does."""
        if source.order(self.section["labels"]) != list(range(len(self.section["labels"]) + 1)):
            raise InputError("The data number the labels in another order than the model; give them the same numbers.")

    def fit(self, source: Source, optimisation: Optimisation, frozen: dict[str, Any]) -> None:
        """Fit the temperatures in the entry `frozen` of the sampler's metadata to cases unseen by this model."""
        frozen["temperature"] = self.fitted_temperature(source.unseen(optimisation))

    def fitted_temperature(self, batches: Iterable[tuple[torch.Tensor, torch.Tensor]], of: str = "the frozen") -> float:
        """See `fitted_temperature`."""
        return fitted_temperature(self.network, len(self.section["labels"]) + 1, batches, of)

    def encoder(self, thin: Encoder, frozen: dict[str, Any]) -> FrozenHead:
        """The encoder of a model on top of this one."""
        return on_frozen(self.network, thin, frozen)


def settings_on(theirs: dict[str, Any], suggested: dict[str, Any], copied: Iterable[str]) -> dict[str, Any]:
    """`suggested` with name, title, networks and frozen model of a sampler on top, and `copied` entries of `theirs`."""
    section = suggested["diffusion_segmentation"]
    changes = {"dims": section["network"].get("dims", 3), "inputs": section["network"].get("inputs", 1)}
    network = merged(defaults.config("on-top")["diffusion_segmentation"]["network"], changes)
    changed = {
        **section,
        **{key: copy.deepcopy(theirs[key]) for key in copied},
        "name": f"{theirs['name']}-sampler"[:64],
        "title": f"Sampler on top of {theirs['title']}",
        "network": {**network, "denoiser": section["network"]["denoiser"]},
        "frozen": {"name": theirs["name"], "sha256": theirs["sha256"], "temperature": 1.0},
    }
    return {**suggested, "diffusion_segmentation": changed}


def fitted_temperature(
    network: AnyEncoder | GivenLogits | Callable[[torch.Tensor], tuple[Any, torch.Tensor]],
    classes: int,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    of: str = "the frozen",
) -> float:
    """Temperature by which frozen logits are divided, of the lowest cross-entropy on `batches` (Guo et al. 2017).

    `network` returns the logits as its second output. Networks that were trained with Dice are over-confident: their
    temperature is above 1.
    """
    logits, labels, generator = [], [], torch.Generator().manual_seed(0)
    with torch.inference_mode():
        for image, masks in batches:
            image = image.contiguous(memory_format=CHANNELS_LAST[image.ndim - 2])
            outputs, target = repeat_each(network(image)[1], masks.shape[1]).flatten(2), targets(masks).flatten(2)
            some = torch.randperm(target.shape[2], generator=generator)[:MOST_CELLS].sort().values
            logits.append(outputs[..., some])
            labels.append(target[..., some])

    def loss(log_t: float) -> float:
        parts = [
            float(cross_entropy(part / np.exp(log_t), target, classes).mean())
            for part, target in zip(logits, labels, strict=True)
        ]
        return float(np.mean(parts))

    fit = minimize_scalar(loss, bounds=tuple(np.log(TEMPERATURES)), method="bounded", options={"xatol": 1e-3})
    temperature = round(float(np.exp(fit.x)), 4)
    logger.info(
        f"temperature of {of} logits {temperature:.2f}: cross-entropy {loss(0.0):.4f} nats before, "
        f"{float(fit.fun):.4f} after"
    )
    return temperature
