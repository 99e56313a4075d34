"""How a model is trained: the `optimisation` section of a configuration, checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..diffusion.process import LOG_SNR_MIN
from ..errors import InputError

HIGHEST_START = 3.0
"""Log-SNR; a loss curve from there on still has six bins, and above it voxels nearly name their classes."""


@dataclass(frozen=True)
class Optimisation:
    """Everything of a training that is not the network's shape."""

    iterations: int = 20_000
    """Optimiser steps; the learning rate falls along a cosine to 2 % at the end."""
    batch: int = 1
    """Images a step."""
    draws: int = 2
    """Noise levels an image: they share the encoder's cost."""
    shapes: tuple[tuple[int, ...], ...] = ((64, 64, 64),)
    """Voxels of a window, one shape drawn for each image; with `batch` above 1 there can be only one."""
    learning_rate: float = 1e-3
    warm_up: int = 200
    average: float = 0.999
    """Decay of the running average of the weights, which is what is kept."""
    precision: str = "auto"
    """bf16, float32, or auto: bf16 where the machine computes in it right and fast (see `precision.resolved`)."""
    seed: int = 0
    density: str = "cosine"
    """Where noise levels are drawn: from the shifted schedule (cosine), or where the loss falls (adapted)."""
    learns: str = "both"
    """Encoder and denoiser (both), or the denoiser alone on an encoder that stays as it is (denoiser)."""
    lowest_log_snr: float = LOG_SNR_MIN
    """No noise level below it is trained: for a sampler with a correlated start at this level or above."""
    crops: str = "image"
    """Where windows come from: anywhere in the body (image), or half of them around a labelled voxel (labels)."""
    dice_weight: float = 0.0
    class_weights: tuple[float, ...] | None = None
    """One for each class, background first; all alike if not given."""

    def __post_init__(self) -> None:
        """Raises InputError on a value that no training can have."""
        positive = ("iterations", "batch", "draws", "learning_rate", "warm_up")
        for name in positive:
            if not getattr(self, name) > 0:
                raise InputError(f"'{name}' in the training configuration must be above 0.")
        if not 0 <= self.seed < 2**32:
            raise InputError("'seed' in the training configuration must be 0 to 4294967295.")
        if not 0 <= self.average < 1 or self.dice_weight < 0:
            raise InputError("'average' in the training configuration must be in [0, 1), 'dice_weight' not negative.")
        if not LOG_SNR_MIN <= self.lowest_log_snr <= HIGHEST_START:
            raise InputError(
                f"'lowest_log_snr' in the training configuration must be {LOG_SNR_MIN:g} to {HIGHEST_START:g}."
            )
        choices = {
            "precision": ("auto", "bf16", "float32"),
            "density": ("cosine", "adapted"),
            "crops": ("image", "labels"),
            "learns": ("both", "denoiser"),
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise InputError(
                    f"'{name}' in the training configuration must be {', '.join(known[:-1])} or {known[-1]}."
                )
        if self.batch > 1 and len(self.shapes) > 1:
            raise InputError("Windows of several 'shapes' need a 'batch' of 1 in the training configuration.")
        if any(n < 1 for shape in self.shapes for n in shape) or not self.shapes:
            raise InputError("'shapes' in the training configuration must be a list of window sizes in voxels.")

    @property
    def builds_on_start(self) -> bool:
        """Whether an encoder or a covariance of the model that training starts from stays as it is."""
        return self.learns == "denoiser" or self.lowest_log_snr > LOG_SNR_MIN

    @classmethod
    def read(cls, section: Mapping[str, Any]) -> Optimisation:
        """From the `optimisation` section of a configuration. Raises InputError, one sentence."""
        known = {field.name: type(field.default) for field in fields(cls)}
        if unknown := sorted(set(section) - set(known)):
            raise InputError(
                f"The training configuration has an unknown entry '{unknown[0]}'; known are {', '.join(known)}."
            )
        values = dict(section)
        try:
            if "shapes" in values:
                values["shapes"] = tuple(tuple(int(n) for n in shape) for shape in values["shapes"])
            if values.get("class_weights") is not None:
                values["class_weights"] = tuple(float(w) for w in values["class_weights"])
            for name, kind in known.items():
                if name in values and kind in (int, float, str):
                    values[name] = kind(values[name])
        except (TypeError, ValueError):
            raise InputError("A value in the 'optimisation' of the training configuration has a wrong type.") from None
        return cls(**values)

    def as_json(self) -> dict[str, Any]:
        """As it goes into a model's metadata."""
        return json.loads(json.dumps(asdict(self)))

    def warnings(self) -> list[str]:
        """One sentence for each choice that voids calibration, which is what the samples are for."""
        found = []
        if self.dice_weight:
            found.append(
                "Dice is part of the loss: its optimum is not the true probability, so probabilities and samples"
            )
        if self.class_weights and len(set(self.class_weights)) > 1:
            found.append("Classes are weighted: the probabilities of the heavier ones")
        if self.crops == "labels":
            found.append(
                "Windows are drawn around labels: structures look more frequent than they are, so probabilities"
            )
        return [f"{start} will not be calibrated." for start in found]


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file: JSON, an object of sections. Raises InputError, one sentence."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(config, dict) or not all(isinstance(section, dict) for section in config.values()):
            raise ValueError
    except (OSError, ValueError):
        raise InputError(
            f"The training configuration '{path.name}' cannot be read as JSON; start from one of those that ship."
        ) from None
    return config


def merged(defaults: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`defaults` with what `changes` says otherwise, section by section at every depth."""
    result = dict(defaults)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result
