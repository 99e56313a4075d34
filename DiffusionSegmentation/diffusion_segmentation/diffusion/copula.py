"""Gaussian copula: masks with given class probabilities per voxel and correlation between voxels.

Each class k has an independent latent Gaussian field f_k of unit variance, which is mapped to Gumbel noise; the class
is chosen by Gumbel-max (Maddison et al., "A* sampling", 2014, section 2):

    label(v) = argmax_k [ log p_k(v) - log(-log Phi(f_k(v))) ].

At each voxel class k has probability p_k(v) exactly, whatever the correlation between voxels. The correlation sets the
spread of volumes and shapes. It is a sum of Gaussians of several widths, stationary and fitted to data
(`calibration.covariance`); Monteiro et al., "Stochastic segmentation networks", 2020, predict it with a network.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
import torch
from scipy import fft
from scipy.special import log_ndtr

MIN_UNCERTAINTY = 1e-4
"""Voxels with 1 - max p at or below this get their most probable class; no noise is drawn for them."""
MIN_PROBABILITY = 1e-5  # classes at or below this probability at a voxel are never chosen there


@dataclass(frozen=True)
class Covariance:
    """Autocorrelation of the latent field of each class k at a lag h in mm:

        shared_k + sum_s weights[k, s] * exp(-h^2 / (2 scales_mm[s]^2)),

    where each row of `weights` and its `shared` sum to 1; background first. The Gaussians are band-limited to the voxel
    grid, so a width below the voxel size approaches white noise (`gaussian_spectrum`).
    """

    scales_mm: tuple[float, ...]
    weights: np.ndarray  # float64 [C, S]
    shared: np.ndarray  # float64 [C], the part common to all voxels

    @classmethod
    def read(cls, entry: dict) -> Covariance:
        """Read the entry `covariance` of a model's metadata; rounded weights are normalised."""
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
    """Position of an array in the voxel grid for which noise is drawn.

    The noise at a voxel depends on the seed and its index in the grid, not on the part that the array covers.
    """

    shape: tuple[int, ...]  # size of the grid
    offset: tuple[int, ...]  # index of the array's first voxel in it


def gaussian_spectrum(period: Sequence[int], scale: float) -> np.ndarray:
    """Power spectrum of unit-variance noise with correlation exp(-h^2 / (2 scale^2)); `scale` in voxels.

    float32, in the half spectrum of `scipy.fft.rfftn`; the mean over the full spectrum is 1.
    """
    axes = [_axis(n, scale).astype(np.float32) for n in period]
    axes[-1] = axes[-1][: period[-1] // 2 + 1]
    return reduce(np.multiply.outer, axes)


def _axis(n: int, scale: float) -> np.ndarray:
    """Power spectrum of such noise along an axis of `n` voxels, float64 [n] with a mean of 1."""
    axis = np.exp(-0.5 * (scale * 2 * np.pi * fft.fftfreq(n)) ** 2)
    return axis / axis.mean()


def derived_seed(seed: int, index: int) -> int:
    """Seed of the independent stream number `index` of a seed."""
    return int(np.random.SeedSequence(seed, spawn_key=(index,)).generate_state(1, np.uint64)[0] >> 1)


class LatentFields:
    """Unit-variance Gaussian fields over a frame, one for each class, with the correlation of a `Covariance`."""

    def __init__(self, covariance: Covariance, spacing_mm: float, frame: Frame, shape: Sequence[int]) -> None:
        """`shape` is the size of the returned part of the frame, which begins at its offset."""
        self.covariance, self.spacing_mm = covariance, spacing_mm
        scales = [scale / spacing_mm for scale in covariance.scales_mm]
        self.period = period(frame.shape, scales)
        self._part = tuple(slice(a, a + n) for a, n in zip(frame.offset, shape, strict=True))
        self._powers = [gaussian_spectrum(self.period, scale) for scale in scales]
        self._amplitudes: dict[int, np.ndarray] = {}

    def draw(self, seed: int, label: int) -> np.ndarray:
        """Field of class `label`, float32 [*shape], determined by `seed` and `label`.

        White noise in the half spectrum of a real field (E|W|^2 = 2) is filtered and transformed back.
        """
        generator = torch.Generator().manual_seed(derived_seed(seed, label))
        half = (*self.period[:-1], self.period[-1] // 2 + 1)
        waves = torch.view_as_complex(torch.randn((*half, 2), generator=generator)).numpy()
        waves *= self._amplitude(label)
        shared = float(torch.randn((), generator=generator)) * np.sqrt(self.covariance.shared[label])
        field = fft.irfftn(waves, self.period, overwrite_x=True, workers=torch.get_num_threads())[self._part]
        return field + np.float32(shared)

    def tables(self) -> list[list[np.ndarray]]:
        """Correlation of each of the Gaussians along each axis, float32 [period], lag 0 first; it is their product."""
        scales = [scale / self.spacing_mm for scale in self.covariance.scales_mm]
        return [[fft.ifft(_axis(n, scale)).real.astype(np.float32) for n in self.period] for scale in scales]

    def power(self, label: int) -> np.ndarray:
        """Power spectrum of the part of the field that not all voxels share, in the half spectrum of `period`."""
        weights = self.covariance.weights[label].astype(np.float32)
        return reduce(np.add, (w * power for w, power in zip(weights, self._powers, strict=True)))

    def _amplitude(self, label: int) -> np.ndarray:
        """Filter of the white noise in the half spectrum, float32; cached for all samples."""
        if label not in self._amplitudes:
            amplitude = np.sqrt(self.power(label) * np.float32(np.prod(self.period) / 2))
            # The inverse transform uses only the real part of these planes, which halves their power.
            for plane in (0,) if self.period[-1] % 2 else (0, -1):
                amplitude[..., plane] *= np.float32(np.sqrt(2))
            self._amplitudes[label] = amplitude
        return self._amplitudes[label]


def period(shape: Sequence[int], scales: Sequence[float]) -> tuple[int, ...]:
    """Size of the periodic grid on which the fields of a frame of `shape` are drawn; `scales` in voxels.

    A margin of twice the widest Gaussian, at most the frame's own size, decorrelates opposite faces.
    """
    margin = int(np.ceil(2 * max(scales, default=0.0)))
    return tuple(fft.next_fast_len(n + min(margin, n), real=True) for n in shape)


def field_bytes(covariance: Covariance, spacing_mm: float, shape: Sequence[int]) -> int:
    """Peak memory (bytes) of drawing the fields over a frame of `shape` voxels.

    One spectrum for each scale and class, float32 in the half spectrum; the noise, a field and a part of it.
    """
    grid = math.prod(period(shape, [scale / spacing_mm for scale in covariance.scales_mm]))
    return grid * (2 * (len(covariance.scales_mm) + len(covariance.shared)) + 4 * 4)


@dataclass(frozen=True)
class Draw:
    """Noise of one mask at the uncertain voxels of a copula, and the labels that follow."""

    noise: list[np.ndarray]  # for each of `Copula.classes` the `table_index` at its possible voxels, int16
    labels: np.ndarray  # uint8 [uncertain]

    @property
    def nbytes(self) -> int:
        return self.labels.nbytes + sum(part.nbytes for part in self.noise)


class Copula:
    """Draws masks with class probabilities `p` and correlated noise.

    `uncertain` are the voxels with noise (flat), and `classes` have for each class that is possible somewhere its
    label, the positions in `uncertain` where it is, and log p there.
    """

    def __init__(
        self,
        covariance: Covariance,
        p: np.ndarray,
        spacing_mm: float,
        frame: Frame | None = None,
        kept_bytes: int = 0,
    ) -> None:
        """`p` float32 [C, *shape] sums to 1 over the classes; `frame` defaults to the grid of `p`.

        The first draws, which take `kept_bytes` at most, are kept and not drawn again for their seeds.
        """
        self.shape = p.shape[1:]
        self.fields = LatentFields(
            covariance, spacing_mm, frame or Frame(self.shape, (0,) * len(self.shape)), self.shape
        )
        flat = p.reshape(len(p), -1)
        self._most_probable = flat.argmax(0).astype(np.uint8)
        self.uncertain = np.flatnonzero(flat.max(0) < 1 - MIN_UNCERTAINTY)
        self.classes = [
            (label, possible, np.log(p_label[possible]))
            for label, row in enumerate(flat)
            if len(possible := np.flatnonzero((p_label := row[self.uncertain]) > MIN_PROBABILITY))
        ]
        self._kept: dict[int, Draw] = {}
        self._kept_bytes = kept_bytes

    def draw(self, seed: int) -> np.ndarray:
        """One mask, uint8 [*shape], determined by the seed and the frame."""
        return self.mask(self.drawn(seed).labels)

    def drawn(self, seed: int) -> Draw:
        """Noise and labels of the mask of a seed."""
        if seed in self._kept:
            return self._kept[seed]
        noise, best = [], Best(len(self.uncertain))
        for label, possible, log_p in self.classes:
            index = table_index(self.fields.draw(seed, label).ravel()[self.uncertain[possible]])
            best.offer(label, possible, log_p + GUMBEL[index])
            noise.append(index)
        draw = Draw(noise, best.labels)
        if draw.nbytes <= self._kept_bytes:
            self._kept[seed] = draw
            self._kept_bytes -= draw.nbytes
        return draw

    def mask(self, labels: np.ndarray) -> np.ndarray:
        """The mask, uint8 [*shape], with these labels at the uncertain voxels."""
        mask = self._most_probable.copy()
        mask[self.uncertain] = labels
        return mask.reshape(self.shape)


class Best:
    """Class of the largest score at each of `count` voxels, uint8 `labels`; of equal ones the first."""

    def __init__(self, count: int) -> None:
        self.labels = np.zeros(count, np.uint8)
        self._scores = np.full(count, -np.inf, np.float32)

    def offer(self, label: int, at: np.ndarray, scores: np.ndarray) -> None:
        """Compare the `scores` of a class at the voxels `at` with those of the classes before."""
        better = scores > self._scores[at]
        changed = at[better]
        self._scores[changed], self.labels[changed] = scores[better], label


def gumbel(field: np.ndarray) -> np.ndarray:
    """Map standard normal to standard Gumbel values, -log(-log Phi(f)), float32, with an error of 0.005 at most.

    A table takes a sixth of the time of the special function; one head needs about 10^8 values.
    """
    return GUMBEL[table_index(field)]


def table_index(field: np.ndarray) -> np.ndarray:
    """Index of standard normal values in the table of Gumbel values, int16."""
    return ((np.clip(field, LOWEST, HIGHEST) - LOWEST) * STEPS_PER_SD + 0.5).astype(np.int16)


LOWEST, HIGHEST, STEPS_PER_SD = -8.0, 5.2, 512
"""Range of the table, to which normal values are clipped; one in ten million exceeds it."""
GUMBEL = -np.log(-log_ndtr(np.arange(LOWEST, HIGHEST + 1 / STEPS_PER_SD, 1 / STEPS_PER_SD))).astype(np.float32)
