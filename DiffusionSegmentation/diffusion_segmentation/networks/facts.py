"""Facts: voxels whose class is known, and the network that predicts the other voxels from them."""

from __future__ import annotations

import torch
from torch import nn

from ..diffusion.process import one_hot_state
from .blocks import CONV, class_softmax, zero_initialised
from .encoder import Encoder
from .fact_attention import FactAttention

UNKNOWN = 255
"""Label of the voxels of a label map of facts that are not known."""
CERTAIN = 30.0
"""Logit of a known class above zero, of the others below. Noise in a state that is diffused from the fact adds at least
-8 to their distance: with snr the signal-to-noise ratio and noise of four standard deviations 2 snr - 8 sqrt(snr)."""
SHIFT_GAIN = 8.0  # of the logits: one fact can decide an object that the image leaves at even odds


class FactsNetwork(Encoder):
    """U-Net that shifts the direct head's logits, and the features for the denoiser, to what holds given facts.

    It sees the encoder's features, the direct head's probabilities and the facts. Its logits are those of each voxel
    given the facts, as the direct head's are without any, so the denoiser's closed form stays valid. Both outputs are
    zero-initialised: training starts from the direct head with the known voxels in place.
    """

    def __init__(self, classes: int, features: int, channels: tuple[int, ...], dims: int) -> None:
        """`features` of the encoder; `channels` of each level, finest first."""
        super().__init__(classes, channels, (1,) * len(channels), dims, inputs=2 * classes)
        self.classes = classes
        self.condition = CONV[dims](features, channels[0], 1)
        self.attend = FactAttention(channels[0])
        self.shift = zero_initialised(CONV[dims](channels[0], features, 1))
        zero_initialised(self.head)

    def given(
        self, features: torch.Tensor, direct: torch.Tensor, facts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Features and float32 logits given facts, shaped as `features` and `direct` of an encoder's output.

        `facts` are labels [N, 2^dims, *cells] in space-to-depth layout, UNKNOWN where nothing is known.
        """
        known = one_hot_state(facts, self.classes)
        direct = self.clamped(direct.float(), known)
        inputs = torch.cat([known, class_softmax(direct).mul(2).sub(1)], 1).to(features.dtype)
        h = self.stem(inputs) + self.condition(features)
        h = self.levels_of(self.attend(h, (facts != UNKNOWN).any(1)))
        hidden, shift = self.outputs(h)
        logits = self.clamped(torch.add(direct, shift, alpha=SHIFT_GAIN), known)
        return features + self.shift(nn.functional.silu(hidden)), logits

    @staticmethod
    def clamped(logits: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
        """`logits` with those of known voxels certain; `known` is their state, 0 elsewhere."""
        return torch.where(known == 0, logits, CERTAIN * known)


def clamp_known(p: torch.Tensor, facts: torch.Tensor) -> torch.Tensor:
    """Class probabilities `p` [N, 2^dims * C, *cells] with those of known voxels 0 and 1; `facts` as for `given`."""
    known = one_hot_state(facts, p.shape[1] // facts.shape[1])
    return torch.where(known == 0, p, (known + 1) / 2)
