"""Stationary Gaussian fields, and the covariance of the numbers of voxels above thresholds."""

from __future__ import annotations

import itertools
import math
from functools import lru_cache

import numpy as np
from scipy import fft
from scipy.special import ndtr

CLOSE = 0.75  # voxel pairs with a larger correlation are integrated lag by lag, the others summed as a series
TERMS = math.ceil(math.log(1e-12) / math.log(CLOSE))  # length of the series: CLOSE**TERMS is 1e-12
FAR = 8.5  # thresholds beyond this many standard deviations are skipped; the tail is below 1e-15
NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(32)


class GaussianField:
    """Zero mean, unit variance, correlation close to exp(-lag^2 / 2 correlation^2) on a grid of `shape`.

    Circulant embedding (Dietrich and Newsam 1997) in a periodic grid at least twice as large. The spectrum is given
    and positive, and `covariance` is its transform, so samples have exactly this covariance.
    """

    def __init__(self, shape: tuple[int, ...], correlation: float) -> None:
        self.shape = shape
        self.period = tuple(fft.next_fast_len(2 * n) for n in shape)
        omega = np.meshgrid(*(2 * np.pi * fft.fftfreq(n) for n in self.period), indexing="ij", sparse=True)
        power = np.exp(-0.5 * correlation**2 * sum(w**2 for w in omega))
        self.power = power / power.mean()
        self.covariance = fft.ifftn(self.power).real
        """Correlation at every lag [*period], lag 0 first, negative lags from the end."""

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """n independent fields, float64 [n, *shape]."""
        fields = np.empty((n, *self.shape))
        inside = tuple(slice(0, size) for size in self.shape)
        amplitude = np.sqrt(self.power * self.power.size)
        # Real and imaginary part are two independent fields; blocks, because the period is up to 8 times as large.
        pairs = max(1, 2**20 // self.power.size)
        for start in range(0, n, 2 * pairs):
            block = fields[start : start + 2 * pairs]
            parts = rng.standard_normal((2, (len(block) + 1) // 2, *self.period))
            waves = fft.ifftn(amplitude * (parts[0] + 1j * parts[1]), axes=range(1, 1 + len(self.shape)))
            block[0::2] = waves.real[:, *inside]
            block[1::2] = waves.imag[: len(block) // 2, *inside]
        return fields

    def count_covariance(self, thresholds: np.ndarray) -> np.ndarray:
        """Covariance [t, t] of the numbers of voxels at which the field exceeds the thresholds [t, *shape].

        At each voxel the thresholds must ascend. The sum over all pairs of voxels has a relative error of about 1e-10:
        close pairs by Plackett's identity, lag by lag; all others by Mehler's series, whose terms are convolutions.
        """
        above = ndtr(-thresholds.reshape(len(thresholds), -1))
        # Pairs of a voxel with itself: above the higher threshold implies above the lower one.
        same = np.minimum(above[:, None], above[None]).sum(-1) - above @ above.T
        return same + self._close_pairs(thresholds) + self._distant_pairs(thresholds)

    def _close_pairs(self, thresholds: np.ndarray) -> np.ndarray:
        total = np.zeros((len(thresholds),) * 2)
        for lag in itertools.product(*(range(1 - n, n) for n in self.shape)):
            # A lag and its opposite have the same pairs.
            if lag <= (0,) * len(lag) or self.covariance[lag] <= CLOSE:
                continue
            one = thresholds[:, *(slice(max(0, -k), n - max(0, k)) for k, n in zip(lag, self.shape, strict=True))]
            other = thresholds[:, *(slice(max(0, k), n - max(0, -k)) for k, n in zip(lag, self.shape, strict=True))]
            for j, k in np.ndindex(total.shape):
                matters = (np.abs(one[j]) < FAR) & (np.abs(other[k]) < FAR)
                pairs = excess(one[j][matters], other[k][matters], self.covariance[lag]).sum()
                total[j, k] += pairs
                total[k, j] += pairs
        return total

    def _distant_pairs(self, thresholds: np.ndarray) -> np.ndarray:
        """Mehler's series: cov(1[x > a], 1[y > b]) = sum of rho^m c_m(a) c_m(b), with c_m = phi He_(m-1) / sqrt(m!)."""
        axes = tuple(range(1, thresholds.ndim))
        correlation = np.where(self.covariance > CLOSE, 0, self.covariance)
        # In a real transform all columns but the first, and the last of an even period, count twice.
        columns = np.full(self.period[-1] // 2 + 1, 2.0)
        columns[0] = 1
        if self.period[-1] % 2 == 0:
            columns[-1] = 1
        total = np.zeros((len(thresholds),) * 2)
        before, now = np.zeros_like(thresholds), np.exp(-(thresholds**2) / 2) / math.sqrt(2 * math.pi)
        powers = np.ones_like(correlation)
        for m in range(1, TERMS + 1):
            powers *= correlation
            kernel = fft.rfftn(powers).real * columns / powers.size
            waves = fft.rfftn(now, self.period, axes=axes)
            weighted, flat = (waves * kernel).reshape(len(waves), -1), waves.reshape(len(waves), -1)
            total += (weighted @ flat.conj().T).real
            before, now = now, thresholds * now / math.sqrt(m + 1) - (m - 1) / math.sqrt(m * (m + 1)) * before
        return total


gaussian_field = lru_cache(maxsize=8)(GaussianField)


def excess(a: np.ndarray, b: np.ndarray, rho: float) -> np.ndarray:
    """P(x < a, y < b) - P(x < a) P(y < b) of standard normal x, y with correlation rho, elementwise.

    The same number for P(x > a, y > b). Plackett's identity d P / d rho = density (Biometrika 1954), integrated over
    rho = sin(theta) by Gauss-Legendre quadrature; the substitution removes the pole of the density at rho = 1.
    """
    half_angle = math.asin(rho) / 2
    product, squares = a * b, (a * a + b * b) / 2
    total = np.zeros(np.broadcast(a, b).shape)
    for node, weight in zip(NODES, NODE_WEIGHTS, strict=True):
        sine = math.sin(half_angle * (node + 1))
        total += weight * np.exp((product * sine - squares) / (1 - sine * sine))
    return total * half_angle / (2 * math.pi)
