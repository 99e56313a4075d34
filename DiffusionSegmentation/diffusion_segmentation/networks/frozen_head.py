"""Encoder of a model on top of a frozen segmenter, whose logits are the direct head."""

from __future__ import annotations

import torch
from torch import nn

from .blocks import class_softmax, depth_to_space
from .encoder import Encoder


class FrozenHead(nn.Module):
    """A frozen encoder, whose logits over a temperature are the direct head, and a thin one for the denoiser.

    The thin encoder sees the image and the frozen probabilities: what the frozen network was not sure of, and what it
    lost, can only be told from the image. Input and output are those of `Encoder`.
    """

    def __init__(self, frozen: Encoder, thin: Encoder, temperature: float = 1.0) -> None:
        """`thin` has the channels of the image followed by those of the classes as inputs."""
        super().__init__()
        self.frozen, self.thin, self.temperature = frozen.requires_grad_(False).eval(), thin, temperature

    def train(self, mode: bool = True) -> FrozenHead:
        """As in `torch.nn.Module`; the frozen part stays in evaluation mode."""
        super().train(mode)
        self.frozen.eval()
        return self

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        with torch.no_grad():
            direct = self.frozen(image)[1] / self.temperature
            p = depth_to_space(class_softmax(direct))
        features, _ = self.thin(torch.cat([image, p.to(image.dtype)], 1))
        return features, direct


AnyEncoder = Encoder | FrozenHead
"""What gives a denoiser its features and the direct head's logits."""
