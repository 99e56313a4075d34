"""This program's architecture: an encoder that runs once per image and a light denoiser."""

from __future__ import annotations

import torch

from ...networks.denoiser import Denoiser
from ...networks.encoder import Encoder
from ...networks.frozen_head import AnyEncoder, FrozenHead
from .interface import Architecture, Condition

POOLS = {2: (), 3: (0, 8, 4, 2)}
"""Edges (cells) of the denoiser's blocks by number of axes. In 3-D, many voxels share what a sample has to fix.

The other architectures have no such blocks.
"""


class Pair(Architecture):
    """`Encoder` and `Denoiser`; a width of 16 is that of the models of tasks with a known answer.

    As a direct network it is the encoder with its head.
    """

    name = "pair"
    encoder: AnyEncoder

    def __init__(self, classes: int, dims: int, width: int, closed_form: bool = True, inputs: int = 1) -> None:
        super().__init__(classes, dims, width, closed_form, inputs)
        channels = (width, 2 * width, 2 * width)
        self.encoder = Encoder(classes, channels, (2, 2, 2), dims, inputs)
        pools = POOLS[dims] if closed_form else ()  # what they give are shifts of logits
        sizes = width, (width, 2 * width), 4
        self.denoiser = Denoiser(classes, *sizes, dims, strata=8, gain=32.0, pools=pools, pool_variances=True)

    def encode(self, image: torch.Tensor) -> Condition:
        features, direct = self.encoder(image)
        return self.denoiser.prepare(features, direct), direct

    def denoise(self, x: torch.Tensor, log_snr: torch.Tensor, condition: Condition) -> torch.Tensor:
        prepared, direct = condition
        # Detached: the head is trained by its own loss only.
        if self.closed_form:
            return self.denoiser(x, log_snr, prepared, direct.detach())
        return self.denoiser.network_output(x, log_snr, prepared, direct.detach())

    def observe(self, condition: Condition, x0: torch.Tensor) -> None:
        direct = condition[1].detach()
        self.denoiser.observe(direct.repeat_interleave(len(x0) // len(direct), 0), x0)

    def head(self, condition: Condition) -> torch.Tensor:
        return condition[1]

    def direct(self, image: torch.Tensor) -> torch.Tensor:
        return self.encoder(image)[1]


class OnTop(Pair):
    """A thin encoder and the denoiser on top of a frozen direct network, as `train --on` makes them."""

    name = "on top"

    def __init__(self, frozen: Pair, temperature: float) -> None:
        super().__init__(frozen.classes, frozen.dims, frozen.width, inputs=frozen.inputs)
        assert isinstance(frozen.encoder, Encoder)
        width, inputs = frozen.width, frozen.inputs + frozen.classes
        thin = Encoder(frozen.classes, (width, 2 * width), (1, 1), frozen.dims, inputs)
        self.encoder = FrozenHead(frozen.encoder, thin, temperature)
