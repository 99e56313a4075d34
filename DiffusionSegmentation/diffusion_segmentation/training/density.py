"""Density of the noise levels in training."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn

from ..diffusion.process import LOG_SNR_MAX, LOG_SNR_MIN, sample_log_snr
from .loss import BINS, bin_centres, bin_numbers

AVERAGED_DRAWS = 20_000  # draws over which the loss curve is averaged, exponentially
MIN_DRAWS = 8  # draws in every bin of the curve before it is used; 50 would take hundreds of steps of two volumes
UNIFORM_SHARE = 0.3  # share of the draws that is uniform in log-SNR, so that every level is trained


class Density(nn.Module):
    """Draws log-SNR for training: from the shifted cosine schedule, or adapted to the task's loss curve.

    Where the loss does not change with the noise level there is nothing to learn: the mask is either fully visible or
    not at all. `adapted` draws in proportion to the decrease of the loss that training records (cf. Dieleman et al.,
    "Continuous diffusion for categorical data", 2022, section 3.3). The draws are not weighted: the optimum of the
    cross-entropy is the same at every level, whatever the density.

    The curve is a buffer, so that a resumed training continues with it.
    """

    total: torch.Tensor
    count: torch.Tensor

    def __init__(self, input_scale: float, adapted: bool, lowest: float = LOG_SNR_MIN) -> None:
        """No level below `lowest` is drawn."""
        super().__init__()
        self.input_scale, self.adapted, self.lowest = input_scale, adapted, lowest
        self._trained = torch.from_numpy(bin_centres() > lowest)
        self.register_buffer("total", torch.zeros(BINS, dtype=torch.float64))
        self.register_buffer("count", torch.zeros(BINS, dtype=torch.float64))

    def draw(self, images: int, draws: int, rng: np.random.Generator) -> torch.Tensor:
        """Stratified log-SNR float32 [images, draws], interleaved so that each image gets the whole range."""
        count = images * draws
        uniform = (np.arange(count) + rng.random(count)) / count
        if self.adapted and float(self.count[self._trained].min()) >= MIN_DRAWS:
            levels = torch.from_numpy(self._invert(uniform)).float()
        else:
            levels = sample_log_snr(torch.from_numpy(uniform), self.input_scale)
        flat = torch.from_numpy(rng.uniform(self.lowest, LOG_SNR_MAX, count)).float()
        replaced = torch.from_numpy(rng.random(count) < UNIFORM_SHARE) | (levels < self.lowest)
        return torch.where(replaced, flat, levels).view(draws, images).T.contiguous()

    def record(self, log_snr: np.ndarray, loss: np.ndarray) -> None:
        """Add the cross-entropies [N] in nats per voxel at the log-SNR [N] of one training step to the curve."""
        where, decay = bin_numbers(log_snr), (1 - 1 / AVERAGED_DRAWS) ** len(loss)
        self.total.mul_(decay).add_(torch.as_tensor(np.bincount(where, loss, BINS)).to(self.total.device))
        self.count.mul_(decay).add_(torch.as_tensor(np.bincount(where, minlength=BINS)).to(self.count.device))

    def _invert(self, uniform: np.ndarray) -> np.ndarray:
        """Log-SNR at the shares `uniform` of the curve's total decrease."""
        loss = (self.total / self.count)[self._trained].cpu().numpy()
        # The loss left at the last bin falls to 0 there; a small slope keeps flat stretches invertible.
        falling = np.minimum.accumulate(np.concatenate([loss, [0.0]]))
        decrease = falling[0] - falling + np.linspace(0, 1e-6, len(falling))
        levels = np.concatenate([bin_centres()[self._trained.numpy()], [LOG_SNR_MAX]])
        return np.interp(uniform * decrease[-1], decrease, levels)
