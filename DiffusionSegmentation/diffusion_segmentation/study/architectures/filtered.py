"""The noisy mask's features are filtered by frequency and meet the image's in an attention."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from ...networks.blocks import space_to_depth
from .interface import Architecture, Condition
from .unet import ImageLevels, UNet, level_channels

BANDS = 9
"""Values along each axis of a learnt filter, from one end of the frequencies to the other; interpolated between.

An odd number, so that the mean has a value of its own."""


class FrequencyFilter(nn.Module):
    """A learnt weight for each channel and spatial frequency: transform, multiply, transform back.

    The FF-Parser of MedSegDiff (Wu et al., MIDL 2023, section 2.3) learns one weight for each frequency of one grid.
    Here the weights are few, stand for frequencies in cycles a cell and are interpolated, so that a filter means the
    same on grids of any size. They start at 1, so a new filter is the identity.

    `weight` [1, channels, ...] covers -1/2 to 1/2 on each axis but the last, and 0 to 1/2 on that.
    """

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(1, channels, *(BANDS,) * dims))

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        """[N, channels, ...] of any grid to the same shape."""
        axes = tuple(range(2, h.ndim))
        with torch.autocast(h.device.type, enabled=False):
            spectrum = torch.fft.rfftn(h.float().contiguous(), dim=axes, norm="ortho")
            spectrum = spectrum * self._weights(h.shape[2:])
            filtered = torch.fft.irfftn(spectrum, s=h.shape[2:], dim=axes, norm="ortho")
        return filtered.to(h.dtype)

    def _weights(self, size: torch.Size) -> torch.Tensor:
        """One for each frequency that rfftn gives of a grid, [1, channels, ...]."""
        device = self.weight.device
        # In grid_sample's terms: the first value lies at -1, the last at 1.
        places = [2 * torch.fft.fftfreq(n, device=device) for n in size[:-1]]
        places.append(4 * torch.fft.rfftfreq(size[-1], device=device) - 1)
        grid = torch.stack(torch.meshgrid(*places, indexing="ij")[::-1], -1)[None]
        return functional.grid_sample(self.weight, grid, padding_mode="border", align_corners=True)


class Filtered(Architecture):
    """At each level the state's features are filtered, and their affinity with the image's weighs what is added.

    As in MedSegDiff (Wu et al., "MedSegDiff: Medical Image Segmentation with Diffusion Probabilistic Model", MIDL 2023,
    sections 2.2 and 2.3): (norm(image) * norm(filtered state)) * image, on the U-Net that all architectures share.

    What differs: MedSegDiff adds the outcome to the image's features, whose encoder runs at every step, and joins them
    with the state's at the bottom; here the image is encoded once, and the outcome is added to the state's features.
    The norms are group norms. A direct head, and the loss of its own that MedSegDiff gives it, there is none.
    """

    name = "filtered"

    def __init__(self, classes: int, dims: int, width: int, closed_form: bool = True) -> None:
        super().__init__(classes, dims, width, closed_form)
        cells, channels = 2**dims, level_channels(width)
        self.encoder = ImageLevels(width, dims)
        self.filters = nn.ModuleList(FrequencyFilter(c, dims) for c in channels)
        self.norms_image = nn.ModuleList(nn.GroupNorm(8, c) for c in channels)
        self.norms_state = nn.ModuleList(nn.GroupNorm(8, c) for c in channels)
        # The state enters beside the image's cells: by the affinity alone, little is seen where the state says nothing.
        self.unet = UNet(cells * (classes + 1), cells * classes, width, dims)

    def encode(self, image: torch.Tensor) -> Condition:
        cells = space_to_depth(image)
        return (cells, *self.encoder(cells))

    def denoise(self, x: torch.Tensor, log_snr: torch.Tensor, condition: Condition) -> torch.Tensor:
        cells, *features = condition

        def attend(level: int, h: torch.Tensor) -> torch.Tensor:
            filtered = self.filters[level](h)
            affinity = self.norms_image[level](features[level]) * self.norms_state[level](filtered)
            return filtered + affinity * features[level]

        return self.unet(torch.cat([x, cells.expand(len(x), *cells.shape[1:])], 1), log_snr, attend)
