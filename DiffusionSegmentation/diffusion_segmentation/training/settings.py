"""The `optimisation` section of a training configuration, validated, and reading of configuration files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from ..diffusion.process import LOG_SNR_MIN
from ..errors import InputError

MAX_LOWEST_LOG_SNR = 3.0
"""Largest `lowest_log_snr`: six bins of the loss curve lie above it, where the state nearly determines the classes."""
CHOICES = {
    "precision": ("auto", "bf16", "float32"),
    "density": ("cosine", "adapted"),
    "crops": ("image", "labels"),
    "learns": ("both", "denoiser", "facts"),
}


@dataclass(frozen=True)
class Optimisation:
    """All settings of a training except the network's shape."""

    iterations: int = 20_000  # optimiser steps; the learning rate falls along a cosine to 2 % at the end
    batch: int = 1  # images per step
    draws: int = 2  # noise levels per image, which share the encoder's cost
    shapes: tuple[tuple[int, ...], ...] = ((64, 64, 64),)
    """Windows in voxels, one chosen at random for each image; only one shape with `batch` above 1."""
    learning_rate: float = 1e-3
    warm_up: int = 200
    average: float = 0.999  # decay of the exponential moving average of the weights, which is what is saved
    precision: str = "auto"  # bf16, float32, or auto: bf16 where it is fast and correct (see `resolved_precision`)
    seed: int = 0
    density: str = "cosine"
    """Distribution of the noise levels: the shifted cosine schedule, or adapted to the loss curve."""
    learns: str = "both"
    """encoder and denoiser (both), the denoiser with a frozen encoder (denoiser), or its network for facts (facts)."""
    lowest_log_snr: float = LOG_SNR_MIN
    """Lowest trained noise level, for a sampler with a correlated start at this level or above."""
    crops: str = "image"  # windows anywhere in the body (image), or half of them around a labelled voxel (labels)
    dice_weight: float = 0.0
    class_weights: tuple[float, ...] | None = None  # one for each class, background first; equal if not given

    def __post_init__(self) -> None:
        """Raises InputError on a value out of range."""

        def require(valid: bool, rule: str) -> None:
            if not valid:
                raise InputError(f"{rule}.")

        of = "in the training configuration must be"
        for name in ("iterations", "batch", "draws", "learning_rate", "warm_up"):
            require(getattr(self, name) > 0, f"'{name}' {of} above 0")
        require(0 <= self.seed < 2**32, f"'seed' {of} 0 to 4294967295")
        require(0 <= self.average < 1, f"'average' {of} in [0, 1)")
        require(self.dice_weight >= 0, f"'dice_weight' {of} 0 or more")
        require(
            LOG_SNR_MIN <= self.lowest_log_snr <= MAX_LOWEST_LOG_SNR,
            f"'lowest_log_snr' {of} {LOG_SNR_MIN:g} to {MAX_LOWEST_LOG_SNR:g}",
        )
        for name, known in CHOICES.items():
            require(getattr(self, name) in known, f"'{name}' {of} {', '.join(known[:-1])} or {known[-1]}")
        sizes = [n for shape in self.shapes for n in shape]
        require(bool(self.shapes) and min(sizes, default=1) > 0, f"'shapes' {of} a list of window sizes in voxels")
        require(self.batch == 1 or len(self.shapes) == 1, f"'batch' {of} 1 where there are several 'shapes'")

    @property
    def builds_on_start(self) -> bool:
        """Whether the encoder or the covariance of the model that training starts from is not trained."""
        return self.learns != "both" or self.lowest_log_snr > LOG_SNR_MIN

    @classmethod
    def read(cls, section: Mapping[str, Any]) -> Optimisation:
        """From the `optimisation` section of a configuration. Raises InputError."""
        known = vars(cls())
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
            for name, value in values.items():
                if isinstance(known[name], int | float | str):
                    values[name] = type(known[name])(value)
        except (TypeError, ValueError):
            raise InputError("A value in the 'optimisation' of the training configuration has a wrong type.") from None
        return cls(**values)

    def as_json(self) -> dict[str, Any]:
        """Entry of a model's metadata."""
        return json.loads(json.dumps(asdict(self)))

    def warnings(self) -> list[str]:
        """A sentence for each setting with which probabilities and samples are not calibrated."""
        causes = []
        if self.dice_weight:
            causes.append("Dice in the loss moves its optimum from the true probability, so probabilities and samples")
        if self.class_weights and len(set(self.class_weights)) > 1:
            causes.append("Classes are weighted: the probabilities of those with larger weights")
        if self.crops == "labels":
            causes.append(
                "Windows are drawn around labels: structures look more frequent than they are, so probabilities"
            )
        return [f"{cause} will not be calibrated." for cause in causes]


def resolved_precision(precision: str) -> str:
    """`bf16` or `float32` for the configuration's `auto`, `bf16` or `float32` on this machine.

    `auto` is bf16 on GPUs with bfloat16 and on processors with AMX. On other processors bf16 takes seven times as long
    as float32, and the weight gradient of a 3-D convolution with an input two voxels wide reads uninitialised memory
    (torch 2.13, AMD EPYC with AVX512-BF16). Raises InputError for bf16 on such a processor.
    """
    if torch.cuda.is_available():
        capable = torch.cuda.is_bf16_supported()
    else:
        # Public from torch 2.11 on; earlier versions do not report AMX, and float32 is the safe choice.
        capabilities: dict[str, bool] = getattr(torch.cpu, "get_capabilities", dict)()
        capable = bool(capabilities.get("amx_bf16"))
    if precision == "bf16" and not capable:
        raise InputError(
            "The training configuration asks for bf16, which needs a graphics card with bfloat16 or a processor with "
            "AMX; give 'precision' as auto or float32."
        )
    return ("bf16" if capable else "float32") if precision == "auto" else precision


def read_config(path: Path) -> dict[str, Any]:
    """A configuration file: JSON, an object of sections. Raises InputError."""
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
    """`defaults` with the entries of `changes` in their place, recursively."""
    result = dict(defaults)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result
