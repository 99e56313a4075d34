"""MedSegDiff's conditioning: frequency filters and an affinity between features of the state and the image."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from .conditioned_unets import Injected
from .unet import level_channels

BANDS = 9  # weights of a filter along each frequency axis, interpolated between; odd, so that one is for frequency 0


class FrequencyFilter(nn.Module):
    """Multiplies the spectrum of each channel by learnt weights.

    The FF-Parser of MedSegDiff (Wu et al., MIDL 2023, section 2.3) has one weight per frequency of a fixed grid. Here
    few weights, at frequencies in cycles per cell, are interpolated, so that a filter applies to grids of any size.
    They start at 1, so a new filter is the identity.

    `weight` [1, channels, ...] covers -1/2 to 1/2 on each axis but the last, and 0 to 1/2 on the last.
    """

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, *(BANDS,) * dims))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """[N, channels, ...] on any grid to the same shape."""
        axes = tuple(range(2, h.ndim))
        with torch.autocast(h.device.type, enabled=False):
            spectrum = torch.fft.rfftn(h.float().contiguous(), dim=axes, norm="ortho")
            spectrum = spectrum * self._weights(h.shape[2:])
            filtered = torch.fft.irfftn(spectrum, s=h.shape[2:], dim=axes, norm="ortho")
        return filtered.to(h.dtype)

    def _weights(self, size: torch.Size) -> torch.Tensor:
        """Weights at the frequencies of rfftn on a grid, [1, channels, ...]."""
        device = self.weight.device
        # Coordinates of grid_sample: -1 is the first weight, 1 the last.
        places = [2 * torch.fft.fftfreq(n, device=device) for n in size[:-1]]
        places.append(4 * torch.fft.rfftfreq(size[-1], device=device) - 1)
        grid = torch.stack(torch.meshgrid(*places, indexing="ij")[::-1], -1)[None]
        return functional.grid_sample(self.weight, grid, padding_mode="border", align_corners=True)


class Filtered(Injected):
    """Adds the image's features at each level, weighted by their affinity with the filtered features of the state.

    As in MedSegDiff (Wu et al., "MedSegDiff: Medical Image Segmentation with Diffusion Probabilistic Model", MIDL 2023,
    sections 2.2 and 2.3): (norm(image) * norm(filtered state)) * image.

    Differences: MedSegDiff runs the image encoder at every step, adds the product to the image's features and joins
    them with the state's at the lowest level; here the image is encoded once, and the product is added to the state's
    features. The norms are group norms. There is no direct head with a loss of its own. The image is an input channel,
    too: the affinity alone passes on little of it if the state is pure noise.
    """

    name = "filtered"

    def __init__(self, classes: int, dims: int, width: int, closed_form: bool = True, inputs: int = 1) -> None:
        super().__init__(classes, dims, width, closed_form, inputs)
        channels = level_channels(width)
        self.filters = nn.ModuleList(FrequencyFilter(c, dims) for c in channels)
        self.norms_image = nn.ModuleList(nn.GroupNorm(8, c) for c in channels)
        self.norms_state = nn.ModuleList(nn.GroupNorm(8, c) for c in channels)

    def inject(self, level: int, h: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
        filtered = self.filters[level](h)
        return filtered + self.norms_image[level](features) * self.norms_state[level](filtered) * features
