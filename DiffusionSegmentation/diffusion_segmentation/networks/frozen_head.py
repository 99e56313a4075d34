"""Encoder of a model on top of a frozen segmenter, whose logits are the direct head."""

from __future__ import annotations

import torch
from torch import nn

from .blocks import class_softmax, depth_to_space, space_to_depth
from .encoder import Encoder

ODDS_LIMIT = 28.0
"""Log-odds of a class against the background are cut to this range; probabilities in float32 rarely exceed it."""


class GivenLogits(nn.Module):
    """Stands for a network that runs elsewhere, such as an nnU-Net; its log-odds come as channels of the image.

    These follow the channels of the image, one for each class but the background: the log-odds against the background
    plus ODDS_LIMIT, so that padding with 0 adds certain background. Input and output are those of `Encoder`, with the
    image in place of features.
    """

    levels, width = 1, 0

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        odds = image[:, 1 - self.classes :].float() - ODDS_LIMIT
        return image, space_to_depth(torch.cat([torch.zeros_like(odds[:, :1]), odds], 1))


class FrozenHead(nn.Module):
    """A frozen network, whose logits over a temperature are the direct head, and a thin encoder for the denoiser.

    The thin encoder sees the image and the frozen probabilities: what the frozen network was not sure of, and what it
    lost, can only be told from the image. Input and output are those of the frozen network.
    """

    def __init__(self, frozen: Encoder | GivenLogits, thin: Encoder, temperature: float = 1.0) -> None:
        """`thin` has the channels of the image followed by those of the classes as inputs."""
        super().__init__()
        self.frozen, self.thin, self.temperature = frozen.requires_grad_(False).eval(), thin, temperature

    @property
    def trained(self) -> Encoder:
        """See `Encoder`."""
        return self.thin

    @property
    def levels(self) -> int:
        """See `Encoder`."""
        return max(self.frozen.levels, self.thin.levels)

    @property
    def width(self) -> int:
        """See `Encoder`."""
        return self.frozen.width + self.thin.width

    def train(self, mode: bool = True) -> FrozenHead:
        """As in `torch.nn.Module`; the frozen part stays in evaluation mode."""
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            direct = self.frozen(image)[1] / self.temperature
            p = depth_to_space(class_softmax(direct))
        inputs = self.thin.inputs - p.shape[1]
        features, _ = self.thin(torch.cat([image[:, :inputs], p.to(image.dtype)], 1))
        return features, direct


AnyEncoder = Encoder | FrozenHead
"""What gives a denoiser its features and the direct head's logits; `trained` is the network that is not frozen."""
