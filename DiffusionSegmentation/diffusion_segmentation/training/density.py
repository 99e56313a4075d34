"""At which noise levels a denoiser is trained: everywhere, and most where the task is decided."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ..diffusion.process import LOG_SNR_MAX, LOG_SNR_MIN, sample_log_snr
from .loss import BINS, bin_centres, bin_numbers

MEMORY = 20_000
"""Draws over which the loss curve is averaged: enough for a curve, few enough to follow the training."""
LEAST = 50
"""Draws in every bin of the curve before it is used."""
EVERYWHERE = 0.3
"""Share of the draws that does not follow the curve, so that no level goes unseen."""


class Density(nn.Module):
    """Draws log-SNR for training: from the shifted cosine schedule, or adapted to the task's own loss curve.

    Where the loss does not change with the noise level there is nothing to learn: either the mask can be read off, or
    nothing of it is left. `adapted` draws in proportion to the fall of the loss that training itself records (cf.
    Dieleman et al., "Continuous diffusion for categorical data", 2022, section 3.3). The draws stay unweighted: the
    optimum of the cross-entropy is the same at every level, whatever the density.

    The curve is a buffer, so that a resumed training goes on with it.
    """

    def __init__(self, input_scale: float, adapted: bool, lowest: float = LOG_SNR_MIN) -> None:
        """No level below `lowest` is drawn."""
        super().__init__()
        self.input_scale, self.adapted, self.lowest = input_scale, adapted, lowest
        self._drawn = torch.from_numpy(bin_centres() > lowest)
        self.register_buffer("total", torch.zeros(BINS, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(BINS, dtype=torch.float64))

    def draw(self, images: int, draws: int, rng: np.random.Generator) -> torch.Tensor:
        """Stratified log-SNR float32 [images, draws], dealt out so that each image gets some of the whole range."""
        count = images * draws
        uniform = (np.arange(count) + rng.random(count)) / count
        if self.adapted and float(self.count[self._drawn].min()) >= LEAST:
            followed = torch.from_numpy(self._invert(uniform)).float()
        else:
            followed = sample_log_snr(torch.from_numpy(uniform), self.input_scale)
        flat = torch.from_numpy(rng.uniform(self.lowest, LOG_SNR_MAX, count)).float()
        everywhere = torch.from_numpy(rng.random(count) < EVERYWHERE) | (followed < self.lowest)
        return torch.where(everywhere, flat, followed).view(draws, images).T.contiguous()

    def record(self, log_snr: np.ndarray, loss: np.ndarray) -> None:
        """Take in cross-entropies [N] in nats a voxel at the log-SNR [N] of one training step."""
        where, keep = bin_numbers(log_snr), (1 - 1 / MEMORY) ** len(loss)
        self.total.mul_(keep).add_(torch.as_tensor(np.bincount(where, loss, BINS)).to(self.total.device))
        self.count.mul_(keep).add_(torch.as_tensor(np.bincount(where, minlength=BINS)).to(self.count.device))

    def _invert(self, uniform: np.ndarray) -> np.ndarray:
        """Log-SNR at shares `uniform` of the whole fall of the curve."""
        loss = (self.total / self.count)[self._drawn].cpu().numpy()
        # What is left at the last bin is lost there; a hair of slope keeps flat stretches invertible.
        falling = np.minimum.accumulate(np.concatenate([loss, [0.0]]))
        fallen = falling[0] - falling + np.linspace(0, 1e-6, len(falling))
        levels = np.concatenate([bin_centres()[self._drawn.numpy()], [LOG_SNR_MAX]])
        return np.interp(uniform * fallen[-1], fallen, levels)
