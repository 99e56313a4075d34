"""Building the networks that a model's metadata describe."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import ModelError
from ..images.input_names import inputs_of, intensities_of
from ..networks import Denoiser, Encoder
from .metadata import dims
from .weights import MAX_WEIGHTS


def build(network: dict[str, Any], classes: int, on_top: bool = False) -> tuple[Encoder, Denoiser]:
    """Networks with random weights from a valid entry `network`. Raises ModelError if they are too large.

    With `on_top` the encoder is the thin one of `FrozenHead`.
    """
    build_on_meta_device(network, classes, on_top)
    return _build(network, classes, on_top)


def conventions(section: dict[str, Any]) -> dict[str, Any]:
    """Entries that determine how networks see an image and what their classes mean."""
    return {
        "labels": [entry["id"] for entry in section["labels"]],
        "working_spacing_mm": section["working_spacing_mm"],
        "inputs": inputs_of(section),
        "intensity": intensities_of(section),
        "dims": dims(section["network"]),
    }


def _build(network: dict[str, Any], classes: int, on_top: bool = False) -> tuple[Encoder, Denoiser]:
    inputs = network.get("inputs", 1) + (classes if on_top else 0)
    encoder, denoiser, axes = network["encoder"], network["denoiser"], dims(network)
    channels, fine_and_coarse = tuple(encoder["channels"]), tuple(denoiser["channels"])
    pools = tuple(denoiser.get("pools", ())), denoiser.get("pool_variances", False)
    options = denoiser.get("strata", 0), denoiser.get("gain", 0.0), *pools
    facts = channels if denoiser.get("facts") else None
    return (
        Encoder(classes, channels, tuple(encoder["blocks"]), axes, inputs),
        Denoiser(classes, channels[0], fine_and_coarse, denoiser["blocks"], axes, *options, facts),
    )


def build_on_meta_device(network: dict[str, Any], classes: int, on_top: bool = False) -> tuple[Encoder, Denoiser]:
    """Networks whose weights take no memory. Raises ModelError if they have more than MAX_WEIGHTS."""
    with torch.device("meta"):
        networks = _build(network, classes, on_top)
    count = sum(parameter.numel() for network in networks for parameter in network.parameters())
    if count > MAX_WEIGHTS:
        raise ModelError(
            f"The model's metadata describe a network of {count / 1e6:.0f} million weights and the limit is "
            f"{MAX_WEIGHTS / 1e6:.0f} million; choose a smaller model."
        )
    return networks
