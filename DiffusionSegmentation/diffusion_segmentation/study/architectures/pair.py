"""Our own: an encoder that sees the image once, and a light denoiser that knows Bayes' rule."""

from __future__ import annotations

import torch

from ...networks.denoiser import Denoiser
from ...networks.encoder import Encoder
from .interface import Architecture, Condition


class Pair(Architecture):
    """`Encoder` and `Denoiser`, with the shape that tasks with a known answer are trained with at a width of 16.

    Trained directly it is the encoder alone: its head is the direct model, and the denoiser has no part in it.
    """

    name = "pair"

    def __init__(self, classes: int, dims: int, width: int, closed_form: bool = True) -> None:
        super().__init__(classes, dims, width, closed_form)
        channels = (width, 2 * width, 2 * width)
        self.encoder = Encoder(classes, channels, (2, 2, 2), dims)
        self.denoiser = Denoiser(classes, width, (width, 2 * width), 4, dims, strata=8, gain=32.0)

    def encode(self, image: torch.Tensor) -> Condition:
        features, direct = self.encoder(image)
        return self.denoiser.prepare(features, direct), direct

    def denoise(self, x: torch.Tensor, log_snr: torch.Tensor, condition: Condition) -> torch.Tensor:
        prepared, direct = condition
        # The head is trained by its own loss only; the denoiser takes it as given, as it will when sampling.
        if self.closed_form:
            return self.denoiser(x, log_snr, prepared, direct.detach())
        return self.denoiser.network_output(x, log_snr, prepared, direct.detach())

    def head(self, condition: Condition) -> torch.Tensor:
        return condition[1]

    def direct(self, image: torch.Tensor) -> torch.Tensor:
        return self.encoder(image)[1]
