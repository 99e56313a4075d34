"""k-space artefacts: motion, ghosts, ringing and spikes."""

from __future__ import annotations

import numpy as np
import torch
from monai.transforms import GibbsNoise, KSpaceSpikeNoise

from .scan_probabilities import TRAINING_SCANS, ScanProbabilities


def add_artefacts(
    image: np.ndarray, rng: np.random.Generator, probabilities: ScanProbabilities = TRAINING_SCANS
) -> np.ndarray:
    """A new scan float32 [z, y, x] with randomly chosen artefacts, most often none."""
    axis = int(rng.integers(3))
    if rng.random() < probabilities.motion:
        image = with_motion(image, axis, rng)
    if rng.random() < probabilities.ghosts:
        image = with_ghosts(image, axis, int(rng.integers(2, 6)), float(rng.uniform(0.02, 0.15)))
    if rng.random() < probabilities.ringing:
        image = np.abs(np.asarray(GibbsNoise(alpha=float(rng.uniform(0.2, 0.65)))(torch.from_numpy(image[None]))[0]))
    if rng.random() < probabilities.spikes:
        image = with_spike(image, rng)
    return np.ascontiguousarray(image, dtype=np.float32)


def with_motion(image: np.ndarray, axis: int, rng: np.random.Generator) -> np.ndarray:
    """Sudden translations of the head between the k-space lines encoded along `axis`."""
    lines = image.shape[axis]
    other = (axis + 1) % 3
    steps = rng.random(lines) < rng.uniform(0.5, 4) / lines
    paths = [np.cumsum(steps * rng.normal(0, rng.uniform(0.3, 1.5), lines)) for _ in range(2)]
    # Displacements are relative to that at the centre of k-space, which determines the visible position.
    first, second = (torch.fft.ifftshift(torch.from_numpy(p - p[lines // 2]).float()) for p in paths)
    space = torch.fft.fftn(torch.from_numpy(image), dim=(axis, other))
    along = _along(torch.fft.fftfreq(lines) * first, axis)
    across = _along(torch.fft.fftfreq(image.shape[other]), other) * _along(second, axis)
    space *= torch.exp(-2j * np.pi * (along + across))
    return torch.fft.ifftn(space, dim=(axis, other)).abs().numpy()


def with_ghosts(image: np.ndarray, axis: int, count: int, strength: float) -> np.ndarray:
    """Fainter copies along `axis`: every count-th k-space line is weaker, as with breathing or pulsation."""
    space = torch.fft.fft(torch.from_numpy(image), dim=axis)
    weight = torch.ones(image.shape[axis])
    weight[::count] = 1 - strength
    weight[0] = 1  # keeps the mean
    return torch.fft.ifft(space * _along(weight, axis), dim=axis).abs().numpy()


def with_spike(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One wrong value in k-space: stripes over the whole volume."""
    where = [int(n / 2 + rng.uniform(-0.3, 0.3) * n) for n in image.shape]
    intensity = np.log(np.abs(np.fft.fftn(image)).max() + 1e-6) - rng.uniform(1.5, 3.5)
    spike = KSpaceSpikeNoise(loc=(0, *where), k_intensity=float(intensity))
    return np.abs(np.asarray(spike(torch.from_numpy(image[None])))[0])


def _along(values: torch.Tensor, axis: int) -> torch.Tensor:
    """Values [n] as a tensor that broadcasts along one of three axes."""
    return values.reshape([-1 if a == axis else 1 for a in range(3)])
