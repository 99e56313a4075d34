"""Noise with a spectrum: unit variance at every voxel, correlated between voxels."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import fft

from ..diffusion.copula import gaussian_spectrum, period
from ..networks import space_to_depth


@dataclass(frozen=True)
class Spectrum:
    """Shares of the variance: white noise, Gaussian correlations by width (SD in voxels), and a constant."""

    white: float
    widths: tuple[tuple[float, float], ...]
    constant: float

    def power(self, size: tuple[int, ...]) -> np.ndarray:
        """Power of the part that is not constant on a periodic grid, float64 in the half spectrum of `rfftn`."""
        power = np.full((*size[:-1], size[-1] // 2 + 1), self.white)
        for width, share in self.widths:
            power += share * gaussian_spectrum(size, width)
        return power

    def draw(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> torch.Tensor:
        """Fields float32 [N, C, *shape], independent for each of the N * C; drawn on the CPU.

        The grid of the Fourier transform is padded, so that opposite faces are independent (`copula.period`).
        """
        n, classes, *size = shape
        padded = period(size, [width for width, _ in self.widths])
        white = torch.randn((n, classes, *padded), generator=generator)
        axes = tuple(range(2, 2 + len(size)))
        amplitude = torch.from_numpy(np.sqrt(self.power(padded))).float()
        field = torch.fft.irfftn(torch.fft.rfftn(white, dim=axes) * amplitude, s=padded, dim=axes)
        common = torch.randn((n, classes, *(1,) * len(size)), generator=generator)
        return field[(..., *(slice(m) for m in size))] + math.sqrt(self.constant) * common

    def decided_at(self, difference: np.ndarray) -> float:
        """Log-SNR at which two masks that differ in the voxels `difference` (bool [*shape]) can be told apart.

        Where exp(log-SNR) d' S^-1 d = 8, with d the difference of their states, 2 and -2 in the channels of two
        classes, and S the covariance of the noise. For white noise that is 0 for one voxel and -log n for n of them.
        """
        waves = np.abs(fft.fftn(2.0 * difference)) ** 2
        size = difference.shape
        half = self.power(size)
        power = np.concatenate([half, half[..., 1 : (size[-1] + 1) // 2][..., ::-1]], -1)
        power[(0,) * len(size)] += self.constant * difference.size
        return math.log(8 / (2 * float((waves / power).mean())))


MIXED = Spectrum(white=0.4, widths=((2.0, 0.25), (8.0, 0.2)), constant=0.15)
SPECTRA = {"white": Spectrum(1.0, (), 0.0), "mixed": MIXED}


def unit_noise(kind: str, cells: torch.Size, classes: int, generator: torch.Generator | None = None) -> torch.Tensor:
    """Noise float32 in the shape `cells` of a state [N, 2^dims * classes, *size / 2], of a kind of `SPECTRA`."""
    n, _, *size = cells
    return space_to_depth(SPECTRA[kind].draw((n, classes, *(2 * m for m in size)), generator))
