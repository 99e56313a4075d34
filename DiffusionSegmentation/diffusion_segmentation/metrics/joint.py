"""Whether joint samples vary as the truth does: for a perfect sampler the truth is exchangeable with its samples.

The record of a case holds numbers of the truth (index 0) and of n samples (1 to n), so that each statistic can be
computed with any of them in the place of the truth. With the truth there it is the score. With a random sample there,
and the other n - 1 as samples, it is what a perfect sampler scores: the band (`band`) needs no further assumption.
Masks are uint8 [*shape] with labels, 0 is background. Sizes have a `unit`, in which their keys end: "ml" for volumes,
whose lags are in mm; "mm2" or "px" for areas of pictures, whose lags are pixels of the working grid.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from .distribution import pairwise_dice
from .intervals import covered, predictive_bounds

LAGS = (2.0, 4.0, 8.0, 16.0)  # mm; in pictures pixels
OPEN = (0.05, 0.95)  # range of probabilities of the voxels that count for the variogram
SPECK_SHARE = 0.3  # a voxel is a speck if a smaller share of its face neighbours has its class
LEVELS = (50, 80, 90)  # levels of the volume intervals (%)
FEWEST_VOXELS = 20  # a structure with a smaller expected volume (voxels) in a case does not count there
REPLICATES = 500
MOST_Z = 100.0  # limit of |z|, which is infinite if all samples are equal

Statistic = Callable[[np.ndarray], tuple[float, np.ndarray | None]]
"""From the mask [cases] in the place of the truth to the value over all structures and those by structure."""


def joint_record(
    truth: np.ndarray,
    samples: np.ndarray,
    marginals: np.ndarray,
    chosen: np.ndarray,
    spacing: Sequence[float],
    speck_classes: Sequence[int] | None = None,
    unit: str = "ml",
) -> dict[str, Any]:
    """Numbers of one case, JSON-compatible.

    `truth` [*shape]; `samples` [n, *shape], n of 3 or more; `marginals` float [C, *shape], the model's probabilities;
    `chosen` [*shape], the segmentation; spacing (mm, or px for that unit) in the order of the axes. Specks are counted
    in `speck_classes`, by default in every foreground class.
    """
    classes = len(marginals)
    masks = np.concatenate([truth[None], samples])
    voxel = float(np.prod(spacing)) / (1000 if unit == "ml" else 1)
    volumes = np.array([np.bincount(mask.ravel(), minlength=classes)[1:] for mask in masks])
    products, scale = _variogram(masks, marginals, spacing if unit == "ml" else (1.0,) * truth.ndim)
    return {
        f"volumes_{unit}": (volumes * voxel).tolist(),
        f"expected_{unit}": (marginals[1:].reshape(classes - 1, -1).sum(1, dtype=np.float64) * voxel).tolist(),
        f"voxel_{unit}": voxel,
        "dice": pairwise_dice(masks, masks, classes).tolist(),
        "map_dice": pairwise_dice(chosen[None], masks, classes)[:, 0].T.tolist(),
        "products": products.tolist(),
        "scale": scale.tolist(),
        "specks": [_specks(mask, speck_classes or range(1, classes)) for mask in masks],
    }


def variogram_key(lag: float, unit: str) -> str:
    """Name of the measure of a lag."""
    return f"variogram_{lag:g}{'mm' if unit == 'ml' else 'px'}"


def _variogram(masks: np.ndarray, marginals: np.ndarray, spacing: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Sums [masks, C - 1, lags] of (m - p)(m' - p') over pairs of open voxels, and of their scale [C - 1, lags].

    m is 1 where the mask has the class; the scale is sqrt(p (1 - p) p' (1 - p')), so that the ratio is a correlation.
    Lags, in the unit of the spacing, are taken along each axis whose spacing divides them to within a quarter.
    """
    classes, shape = len(marginals), marginals.shape[1:]
    products, scale = np.zeros((len(masks), classes - 1, len(LAGS))), np.zeros((classes - 1, len(LAGS)))
    for label in range(1, classes):
        is_open = (marginals[label] > OPEN[0]) & (marginals[label] < OPEN[1])
        number = np.where(is_open, np.cumsum(is_open).reshape(shape) - 1, -1)  # of the open voxels
        p = marginals[label][is_open].astype(np.float32)
        residual = (masks[:, is_open] == label) - p
        sd = np.sqrt(p * (1 - p))
        for axis, width in enumerate(spacing):
            before = (slice(None),) * axis
            for column, lag in enumerate(LAGS):
                step = round(lag / width)
                if step < 1 or abs(step * width - lag) > lag / 4 or step >= shape[axis]:
                    continue
                first, second = number[(*before, slice(None, -step))], number[(*before, slice(step, None))]
                pair = (first >= 0) & (second >= 0)
                first, second = first[pair], second[pair]
                products[:, label - 1, column] += np.einsum("ij,ij->i", residual[:, first], residual[:, second])
                scale[label - 1, column] += sd[first] @ sd[second]
    return products, scale


def _specks(mask: np.ndarray, classes: Sequence[int]) -> list[int]:
    """Voxels of the classes with too few face neighbours of their class, and all voxels of the classes."""
    faces = ndimage.generate_binary_structure(mask.ndim, 1).astype(np.float32)
    faces[(1,) * mask.ndim] = 0
    specks = total = 0
    for label in classes:
        inside = mask == label
        alike = ndimage.convolve(inside.astype(np.float32), faces / faces.sum(), mode="nearest")
        specks += int((inside & (alike < SPECK_SHARE)).sum())
        total += int(inside.sum())
    return [specks, total]


@dataclass(frozen=True)
class Measure:
    """A statistic over cases: `value` over all structures, `by_structure` [C - 1] where it is defined.

    `low` and `high` bound what a perfect sampler with as many samples and cases scores in 99 % of evaluations.
    """

    value: float
    low: float
    high: float
    by_structure: np.ndarray | None = None
    low_by_structure: np.ndarray | None = None
    high_by_structure: np.ndarray | None = None

    @property
    def inside(self) -> bool | None:
        """Whether the value lies in the band of a perfect sampler; None if these cases have no value or no band."""
        if not np.isfinite([self.value, self.low, self.high]).all():
            return None
        return bool(self.low <= self.value <= self.high)


class JointScores:
    """The statistics of records [N cases], with each of the n + 1 masks in the place of the truth."""

    def __init__(self, records: Sequence[Mapping[str, Any]], widen: float = 1.0, unit: str = "ml") -> None:
        """`widen` scales the deviations of the samples' volumes from their mean; above 1 it makes a wrong sampler."""
        self.unit = unit
        self.volumes = np.array([r[f"volumes_{unit}"] for r in records])  # [N, n + 1, K]
        if widen != 1:
            mean = self.volumes[:, 1:].mean(1, keepdims=True)
            self.volumes[:, 1:] = mean + widen * (self.volumes[:, 1:] - mean)
        self.distance = 1 - np.array([r["dice"] for r in records]).transpose(0, 2, 3, 1)  # [N, n + 1, n + 1, K]
        expected, voxel = (np.array([r[f"{key}_{unit}"] for r in records]) for key in ("expected", "voxel"))
        self.counts = expected > FEWEST_VOXELS * voxel[:, None]  # [N, K]
        self.products = np.array([r["products"] for r in records])  # [N, n + 1, K, L]
        self.scale = np.array([r["scale"] for r in records])  # [N, K, L]
        self.specks = np.array([r["specks"] for r in records], np.float64)  # [N, n + 1, 2]
        self.n = self.volumes.shape[1] - 1
        self._prepare()

    def _prepare(self) -> None:
        """Fill the scores [N, n + 1, K] of each structure by the mask in the place of the truth."""
        shape = self.volumes.shape
        self.z, self.crps, self.width, self.to_truth, self.between = (np.zeros(shape) for _ in range(5))
        self.covered = {level: np.zeros(shape) for level in LEVELS}
        for t in range(shape[1]):
            samples = [i for i in range(1, shape[1]) if i != t]
            v, y = self.volumes[:, samples], self.volumes[:, t]
            n = len(samples)
            gap, sd = y - v.mean(1), v.std(1, ddof=1) * np.sqrt(1 + 1 / n)
            z = np.divide(gap, sd, out=np.copysign(np.where(gap == 0, 0, MOST_Z), gap), where=sd > 0)
            self.z[:, t] = np.clip(z, -MOST_Z, MOST_Z)
            weights = (2 * np.arange(1, n + 1) - n - 1).reshape(1, -1, 1)
            spread = 2 * (weights * np.sort(v, axis=1)).sum(1) / (n * (n - 1))  # mean |v - v'| over pairs
            self.crps[:, t] = np.abs(v - y[:, None]).mean(1) - spread / 2
            v = v.swapaxes(1, 2)  # [N, K, n]
            for level in LEVELS:
                self.covered[level][:, t] = covered(v, y, level / 100)
            low, high = predictive_bounds(v, LEVELS[-1] / 100)
            self.width[:, t] = high - low
            d = self.distance[:, samples]
            self.to_truth[:, t] = d[:, :, t].mean(1)
            self.between[:, t] = d[:, :, samples].sum((1, 2)) / (n * (n - 1))

    def scores(self) -> dict[str, Measure]:
        """Every measure with its band of a perfect sampler."""
        picks = np.random.default_rng(0).integers(1, self.n + 1, (REPLICATES, len(self.volumes)))
        return {name: band(statistic, picks) for name, statistic in self._statistics().items()}

    def _statistics(self) -> dict[str, Statistic]:
        rows, counts = np.arange(len(self.volumes)), self.counts

        def mean(values: np.ndarray) -> Callable[[np.ndarray], tuple[float, np.ndarray]]:
            def statistic(pick: np.ndarray) -> tuple[float, np.ndarray]:
                by_structure = np.where(counts, values[rows, pick], np.nan)
                return float(np.nanmean(by_structure)) if counts.any() else np.nan, _nanmean(by_structure)

            return statistic

        def z_rms(pick: np.ndarray) -> tuple[float, np.ndarray]:
            whole, by_structure = mean(self.z**2)(pick)
            return float(np.sqrt(whole)), np.sqrt(by_structure)

        def ratio(pick: np.ndarray) -> tuple[float, np.ndarray]:
            to, between = (np.where(counts, d[rows, pick], 0.0).sum(0) for d in (self.to_truth, self.between))
            with np.errstate(divide="ignore", invalid="ignore"):
                return float(to.sum() / between.sum()), to / between

        def variogram(column: int) -> Statistic:
            def statistic(pick: np.ndarray) -> tuple[float, np.ndarray]:
                truth, scale = self.products[rows, pick, :, column], self.scale[:, :, column]
                others = self.products[:, 1:, :, column].sum(1) - np.where(pick[:, None] > 0, truth, 0)
                gap = others / (self.n - (pick[:, None] > 0)) - truth
                with np.errstate(divide="ignore", invalid="ignore"):
                    return float(gap.sum() / scale.sum()), gap.sum(0) / scale.sum(0)

            return statistic

        def specks(pick: np.ndarray) -> tuple[float, None]:
            truth = self.specks[rows, pick].sum(0)
            others = self.specks[:, 1:].sum((0, 1)) - np.where(pick[:, None] > 0, self.specks[rows, pick], 0).sum(0)
            expected = others[0] * max(truth[1], 1) / max(others[1], 1)  # in as many voxels as the truth has
            return float((expected + 1) / (truth[0] + 1)), None  # + 1: finite for a truth without specks

        return {
            "z_rms": z_rms,
            "z_mean": mean(self.z),
            **{f"coverage_{level}": mean(self.covered[level]) for level in LEVELS},
            f"crps_{self.unit}": mean(self.crps),
            "energy_score": mean(self.to_truth - self.between / 2),
            "dice_ratio": ratio,
            **{variogram_key(lag, self.unit): variogram(column) for column, lag in enumerate(LAGS)},
            "specks": specks,
        }

    def describe(self) -> dict[str, Any]:
        """Numbers without a band: interval widths, correlations and speck shares of truth and samples."""
        scale = self.scale.sum((0, 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            truth, samples = (
                (self.products[:, part].mean(1).sum((0, 1)) / scale).tolist() for part in (slice(0, 1), slice(1, None))
            )
        share = self.specks.sum(0)
        return {
            f"interval_90_width_{self.unit}": _nanmean(np.where(self.counts, self.width[:, 0], np.nan)).tolist(),
            "correlation_truth": truth,
            "correlation_samples": samples,
            "specks_truth": float(share[0, 0] / max(share[0, 1], 1)),
            "specks_samples": float(share[1:, 0].sum() / max(share[1:, 1].sum(), 1)),
            "one_sample_dice": float(1 - self.to_truth[:, 0][self.counts].mean()),
        }

    def case_scores(self) -> dict[str, np.ndarray]:
        """Energy score, CRPS and Dice of one sample [N], means over the structures that count in a case or NaN."""
        values = {
            "energy_score": (self.to_truth - self.between / 2)[:, 0],
            f"crps_{self.unit}": self.crps[:, 0],
            "one_sample_dice": 1 - self.to_truth[:, 0],
        }
        return {name: _nanmean(np.where(self.counts, value, np.nan).T) for name, value in values.items()}


def band(statistic: Statistic, picks: np.ndarray) -> Measure:
    """The statistic of the truth, and its 99 % range with a random sample [R, cases] in the place of the truth."""
    value, by_structure = statistic(np.zeros(picks.shape[1], int))
    replicates = [statistic(pick) for pick in picks]
    edges = [0.005, 0.995]
    low, high = (float(edge) for edge in np.quantile([whole for whole, _ in replicates], edges))
    if by_structure is None:
        return Measure(value, low, high)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)  # a structure that counts in no case
        bounds = np.nanquantile(np.array([part for _, part in replicates]), edges, axis=0)
    return Measure(value, low, high, by_structure, *bounds)


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Mean [K] over the finite values [N, K] of the cases; NaN for a structure without any."""
    count = np.isfinite(values).sum(0)
    return np.divide(np.nansum(values, 0), count, out=np.full(count.shape, np.nan), where=count > 0)
