"""What goes wrong in k-space: motion, ghosts, ringing and spikes."""

from __future__ import annotations

import numpy as np
import torch
from monai.transforms import GibbsNoise, KSpaceSpikeNoise

from .shares import USUAL, Shares


def spoil(image: np.ndarray, rng: np.random.Generator, shares: Shares = USUAL) -> np.ndarray:
    """A scan float32 [z, y, x] with the artefacts that the draw gives it, most often none; new."""
    axis = int(rng.integers(3))
    if rng.random() < shares.motion:
        image = moved(image, axis, rng)
    if rng.random() < shares.ghosts:
        image = ghosted(image, axis, int(rng.integers(2, 6)), float(rng.uniform(0.02, 0.15)))
    if rng.random() < shares.ringing:
        image = np.abs(np.asarray(GibbsNoise(alpha=float(rng.uniform(0.2, 0.65)))(torch.from_numpy(image[None]))[0]))
    if rng.random() < shares.spikes:
        image = spiked(image, rng)
    return np.ascontiguousarray(image, dtype=np.float32)


def moved(image: np.ndarray, axis: int, rng: np.random.Generator) -> np.ndarray:
    """As if the head had moved between the lines that are encoded along `axis`: some sudden moves and a slow drift."""
    lines = image.shape[axis]
    other = (axis + 1) % 3
    steps = rng.random(lines) < rng.uniform(0.5, 4) / lines
    path = [np.cumsum(steps * rng.normal(0, rng.uniform(0.3, 1.5), lines)) for _ in range(2)]
    # The middle of k-space, which decides where the head is seen, defines rest.
    path = [torch.from_numpy(p - p[lines // 2]).float() for p in path]
    space = torch.fft.fftn(torch.from_numpy(image), dim=(axis, other))
    phase = torch.fft.fftfreq(lines) * torch.fft.ifftshift(path[0])
    along = _along(phase, axis)
    across = _along(torch.fft.fftfreq(image.shape[other]), other) * _along(torch.fft.ifftshift(path[1]), axis)
    space *= torch.exp(-2j * np.pi * (along + across))
    return torch.fft.ifftn(space, dim=(axis, other)).abs().numpy()


def ghosted(image: np.ndarray, axis: int, count: int, strength: float) -> np.ndarray:
    """With fainter copies along `axis`: every count-th line of k-space is weaker, as with breath or pulse."""
    space = torch.fft.fft(torch.from_numpy(image), dim=axis)
    weight = torch.ones(image.shape[axis])
    weight[::count] = 1 - strength
    weight[0] = 1  # the mean stays
    return torch.fft.ifft(space * _along(weight, axis), dim=axis).abs().numpy()


def spiked(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """With one wrong value in k-space: stripes over the whole volume."""
    where = [int(n / 2 + rng.uniform(-0.3, 0.3) * n) for n in image.shape]
    space = np.log(np.abs(np.fft.fftn(image)).max() + 1e-6) - rng.uniform(1.5, 3.5)
    spoilt = KSpaceSpikeNoise(loc=(0, *where), k_intensity=float(space))(torch.from_numpy(image[None]))
    return np.abs(np.asarray(spoilt)[0])


def _along(values: torch.Tensor, axis: int) -> torch.Tensor:
    """Values [n] as a tensor that broadcasts along one of three axes."""
    return values.reshape([-1 if a == axis else 1 for a in range(3)])
