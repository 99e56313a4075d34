"""Correlated masks with given class probabilities: a Gaussian copula of the direct head.

Each class k has a latent Gaussian field f_k with unit variance. Independent fields, turned into Gumbel noise voxel by
voxel, choose the class (Gumbel-max; Maddison et al., "A* sampling", 2014, section 2):

    label(v) = argmax_k [ log p_k(v) - log(-log Phi(f_k(v))) ].

At every voxel the noise of the classes is independent and Gumbel, so class k comes out with probability p_k(v) exactly,
whatever the correlation of the fields between voxels; no order of the classes is needed. What the correlation decides
is the spread of volumes and shapes. It is a sum of Gaussians of several widths, as Monteiro et al., "Stochastic
segmentation networks", 2020, let a network predict it, but stationary and fitted to data (`calibration.covariance`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy import fft
from scipy.special import log_ndtr

SURE = 1e-4
"""A voxel whose most probable class leaves less than this to the others is not drawn."""
NEGLIGIBLE = 1e-5
"""Classes less probable than this at a voxel are not drawn there."""


@dataclass(frozen=True)
class Covariance:
    """Correlation of each class's latent field with itself over a lag h in mm:

        shared_k + sum_s weights[k, s] * exp(-h^2 / (2 scales_mm[s]^2)),

    with the sum of a row of `weights` and its `shared` equal to 1. `shared` is the part that a whole structure has in
    common. `weights` float64 [C, S], `shared` float64 [C]; background first. The Gaussians are band-limited to the
    voxel grid, so a width below the voxel size approaches white noise (`gaussian_spectrum`).
    """

    scales_mm: tuple[float, ...]
    weights: np.ndarray
    shared: np.ndarray

    @classmethod
    def read(cls, entry: dict) -> Covariance:
        """From the entry `covariance` of a model's metadata."""
        weights, shared = np.array(entry["weights"], np.float64), np.array(entry["shared"], np.float64)
        total = weights.sum(1) + shared
        return cls(tuple(map(float, entry["scales_mm"])), weights / total[:, None], shared / total)

    def as_json(self) -> dict:
        """The entry `covariance` of a model's metadata."""
        return {
            "scales_mm": list(self.scales_mm),
            "weights": np.round(self.weights, 4).tolist(),
            "shared": np.round(self.shared, 4).tolist(),
        }


@dataclass(frozen=True)
class Frame:
    """Where an array lies in the grid for which noise is drawn.

    `shape` are the voxels of that grid, `offset` is the array's first voxel in it. The noise at a voxel depends on the
    seed and on its place in the frame, not on which part of the frame is looked at.
    """

    shape: tuple[int, ...]
    offset: tuple[int, ...]

    @classmethod
    def around(cls, shape: Sequence[int]) -> Frame:
        """The frame of an array that is not part of a larger grid."""
        return cls(tuple(shape), (0,) * len(shape))


def gaussian_spectrum(period: Sequence[int], scale: float) -> np.ndarray:
    """Power [*period with the last axis halved] of unit-variance noise with correlation exp(-h^2 / (2 scale^2)).

    `scale` in voxels. As `scipy.fft.rfftn` orders it; the mean over the full spectrum is 1.
    """
    axes = [np.exp(-0.5 * (scale * 2 * np.pi * fft.fftfreq(n)) ** 2) for n in period]
    axes = [(axis / axis.mean()).astype(np.float32) for axis in axes]
    axes[-1] = axes[-1][: period[-1] // 2 + 1]
    power = axes[0]
    for axis in axes[1:]:
        power = power[..., None] * axis
    return power


class LatentFields:
    """Unit-variance Gaussian fields over a frame, one for each class, correlated as a `Covariance` says."""

    def __init__(self, covariance: Covariance, spacing_mm: float, frame: Frame, shape: Sequence[int]) -> None:
        """`shape` are the voxels of the part of the frame that is wanted, from its offset on."""
        self.covariance = covariance
        scales = [scale / spacing_mm for scale in covariance.scales_mm]
        self.period = period(frame.shape, scales)
        self._part = tuple(slice(a, a + n) for a, n in zip(frame.offset, shape, strict=True))
        self._powers = [gaussian_spectrum(self.period, scale) for scale in scales]
        self._amplitudes: dict[int, np.ndarray] = {}

    def draw(self, seed: int, label: int) -> np.ndarray:
        """The field of class `label`, float32 of the part's shape; a function of the two numbers alone.

        White noise is drawn in the half spectrum of a real field (E|W|^2 = 2), filtered, and transformed back.
        """
        stream = int(np.random.SeedSequence(seed, spawn_key=(label,)).generate_state(1, np.uint64)[0] >> 1)
        generator = torch.Generator().manual_seed(stream)
        half = (*self.period[:-1], self.period[-1] // 2 + 1)
        waves = torch.view_as_complex(torch.randn((*half, 2), generator=generator)).numpy()
        waves *= self._amplitude(label)
        shared = float(torch.randn((), generator=generator)) * np.sqrt(self.covariance.shared[label])
        field = fft.irfftn(waves, self.period, overwrite_x=True, workers=torch.get_num_threads())[self._part]
        return field + np.float32(shared)

    def _amplitude(self, label: int) -> np.ndarray:
        """Factor of the white noise in the half spectrum, float32; kept, because every sample needs it."""
        if label not in self._amplitudes:
            weights = self.covariance.weights[label]
            power = sum(np.float32(w) * p for w, p in zip(weights, self._powers, strict=True))
            amplitude = np.sqrt(power * np.float32(np.prod(self.period) / 2))
            # The inverse transform takes only the real part of these planes, which halves their power.
            amplitude[..., 0] *= np.float32(np.sqrt(2))
            if self.period[-1] % 2 == 0:
                amplitude[..., -1] *= np.float32(np.sqrt(2))
            self._amplitudes[label] = amplitude
        return self._amplitudes[label]


def period(shape: Sequence[int], scales: Sequence[float]) -> tuple[int, ...]:
    """Voxels of the periodic grid on which the fields of a frame of `shape` are drawn; `scales` in voxels.

    Twice the widest Gaussian keeps opposite faces of the frame apart; no margin is wider than the frame itself.
    """
    margin = int(np.ceil(2 * max(scales, default=0.0)))
    return tuple(fft.next_fast_len(n + min(margin, n), real=True) for n in shape)


def field_bytes(covariance: Covariance, spacing_mm: float, shape: Sequence[int]) -> int:
    """Most memory that drawing the fields over a frame of `shape` voxels takes, in bytes.

    A power for each scale and an amplitude for each class, float32 in the half spectrum; waves, a field and its part.
    """
    grid = math.prod(period(shape, [scale / spacing_mm for scale in covariance.scales_mm]))
    return grid * (2 * (len(covariance.scales_mm) + len(covariance.shared)) + 4 * 4)


class Copula:
    """Draws masks with the class probabilities `p` and correlated noise."""

    def __init__(self, covariance: Covariance, p: np.ndarray, spacing_mm: float, frame: Frame | None = None) -> None:
        """`p` float32 [C, *shape] sums to 1 over the classes; `frame` is by default the array's own grid."""
        self.shape = p.shape[1:]
        self.fields = LatentFields(covariance, spacing_mm, frame or Frame.around(self.shape), self.shape)
        flat = p.reshape(len(p), -1)
        self._sure = flat.argmax(0).astype(np.uint8)
        self._open = np.flatnonzero(flat.max(0) < 1 - SURE)
        self._classes = [
            (label, chosen, np.log(here[chosen]))
            for label, row in enumerate(flat)
            if len(chosen := np.flatnonzero((here := row[self._open]) > NEGLIGIBLE))
        ]

    def draw(self, seed: int) -> np.ndarray:
        """One mask, uint8 [*shape]; a function of the seed and the frame."""
        best = np.full(len(self._open), -np.inf, np.float32)
        labels = np.zeros(len(self._open), np.uint8)
        for label, chosen, log_p in self._classes:
            field = self.fields.draw(seed, label).ravel()[self._open[chosen]]
            score = log_p + gumbel(field)
            better = score > best[chosen]
            won = chosen[better]
            best[won], labels[won] = score[better], label
        mask = self._sure.copy()
        mask[self._open] = labels
        return mask.reshape(self.shape)

    @cached_property
    def open_voxels(self) -> int:
        """How many voxels are drawn; the others are sure."""
        return len(self._open)


def gumbel(field: np.ndarray) -> np.ndarray:
    """Standard normal float32 values as standard Gumbel ones, -log(-log Phi(f)), off by 0.005 at most.

    From a table, because a head takes some 10^8 of them: a sixth of the time of the special function.
    """
    return _GUMBEL[((np.clip(field, LOWEST, HIGHEST) - LOWEST) * STEPS_PER_SD + 0.5).astype(np.int32)]


LOWEST, HIGHEST, STEPS_PER_SD = -8.0, 5.2, 512
"""Normal values outside are taken as the nearest inside; one in ten million is above."""
_GUMBEL = -np.log(-log_ndtr(np.arange(LOWEST, HIGHEST + 1 / STEPS_PER_SD, 1 / STEPS_PER_SD))).astype(np.float32)
