"""Whether joint samples spread as the truth does: for an honest sampler the truth is one more sample.

A record of a case holds numbers of the truth (index 0) and of n samples (1 to n), so that every statistic can be taken
with each of them in the truth's place. With the truth there it is the score; with a random sample in its place, and the
other n - 1 as samples, it is what a perfect sampler would score: the band around it needs no further assumption
(`band`). Masks are uint8 [*shape] with labels, 0 is background; spacing in mm; volumes in ml.

Each measure has a control that it must find out (`CONTROLS`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage

from .distribution import _overlaps
from .intervals import predictive_interval

LAGS_MM = (2.0, 4.0, 8.0, 16.0)
OPEN = (0.05, 0.95)
"""Voxels whose probability lies here count for the variogram."""
SPECK_SHARE = 0.3
"""A voxel is a speck where fewer of its neighbours across a face are of its own class."""
LEVELS = (50, 80, 90)
FEWEST_VOXELS = 20
"""A structure whose expected volume is smaller than this in a case does not count there."""
REPLICATES = 500
MOST_Z = 100.0
"""What a z counts at most: samples that are all equal would make it infinite."""

CONTROLS = {
    "z_rms": "independent voxels",
    "coverage_90": "independent voxels",
    "crps_ml": "intervals widened twofold",
    "energy_score": "the map repeated",
    "dice_ratio": "samples of halved spread",
    "variogram": "independent voxels",
    "specks": "independent voxels",
}
"""The wrong sampler that each measure must find out."""


def joint_record(
    truth: np.ndarray,
    samples: np.ndarray,
    marginals: np.ndarray,
    chosen: np.ndarray,
    spacing_mm: Sequence[float],
    speck_classes: Sequence[int] | None = None,
) -> dict[str, Any]:
    """Numbers of one case, as JSON holds them.

    `truth` [*shape]; `samples` [n, *shape], n of 3 or more; `marginals` float [C, *shape], the model's probabilities
    from which the samples deviate; `chosen` [*shape], the segmentation; spacing in the order of the axes. Specks are
    counted in `speck_classes`, by default in every foreground class.
    """
    classes = len(marginals)
    masks = np.concatenate([truth[None], samples])
    ml = float(np.prod(spacing_mm)) / 1000
    shared, total = _overlaps(masks, masks, classes)
    with_map, total_map = _overlaps(chosen[None], masks, classes)
    products, scale = _variogram(masks, marginals, spacing_mm)
    specks = [_specks(mask, speck_classes or range(1, classes)) for mask in masks]
    return {
        "volumes_ml": (shared[:, np.arange(len(masks)), np.arange(len(masks))].T * ml).tolist(),
        "expected_ml": (marginals[1:].reshape(classes - 1, -1).sum(1, dtype=np.float64) * ml).tolist(),
        "voxel_ml": ml,
        "dice": _dice(shared, total).tolist(),
        "map_dice": _dice(with_map, total_map)[:, 0].T.tolist(),
        "products": products.tolist(),
        "scale": scale.tolist(),
        "specks": specks,
    }


def _dice(shared: np.ndarray, total: np.ndarray) -> np.ndarray:
    """Dice from voxels in both and in either counted twice; 1 where a class is empty in both."""
    return np.divide(2 * shared, total, out=np.ones_like(shared), where=total > 0)


def _variogram(masks: np.ndarray, marginals: np.ndarray, spacing_mm: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Sums [masks, C - 1, lags] of (m - p)(m' - p') over pairs of open voxels, and of their scale [C - 1, lags].

    m is 1 where the mask has the class; the scale is sqrt(p (1 - p) p' (1 - p')), so that the ratio is a correlation.
    Lags are taken along each axis whose spacing divides them to within a quarter.
    """
    classes, shape = len(marginals), marginals.shape[1:]
    products, scale = np.zeros((len(masks), classes - 1, len(LAGS_MM))), np.zeros((classes - 1, len(LAGS_MM)))
    number = np.full(shape, -1)
    for label in range(1, classes):
        p = marginals[label]
        is_open = (p > OPEN[0]) & (p < OPEN[1])
        count = int(is_open.sum())
        if not count:
            continue
        number[is_open] = np.arange(count)
        own = p[is_open].astype(np.float32)
        residual = (masks[:, is_open] == label) - own
        sd = np.sqrt(own * (1 - own))
        for axis, spacing in enumerate(spacing_mm):
            for column, lag in enumerate(LAGS_MM):
                step = round(lag / spacing)
                if step < 1 or abs(step * spacing - lag) > lag / 4 or step >= shape[axis]:
                    continue
                first, second = (
                    number[tuple(part if a == axis else slice(None) for a in range(len(shape)))]
                    for part in (slice(None, -step), slice(step, None))
                )
                pair = (first >= 0) & (second >= 0)
                first, second = first[pair], second[pair]
                products[:, label - 1, column] += np.einsum("ij,ij->i", residual[:, first], residual[:, second])
                scale[label - 1, column] += sd[first] @ sd[second]
        number[is_open] = -1
    return products, scale


def _specks(mask: np.ndarray, classes: Sequence[int]) -> list[int]:
    """Voxels of the classes with too few neighbours of their own class, and all voxels of the classes."""
    faces = ndimage.generate_binary_structure(mask.ndim, 1).astype(np.float32)
    faces[(1,) * mask.ndim] = 0
    found = every = 0
    for label in classes:
        own = mask == label
        alike = ndimage.convolve(own.astype(np.float32), faces / faces.sum(), mode="nearest")
        found += int((own & (alike < SPECK_SHARE)).sum())
        every += int(own.sum())
    return [found, every]


@dataclass(frozen=True)
class Measure:
    """A statistic of cases: `value` over all structures, `by_structure` [C - 1] where it has them.

    `low` and `high` bound what a perfect sampler of as many samples and cases scores in 99 % of evaluations; None for
    what only describes.
    """

    value: float
    low: float | None
    high: float | None
    by_structure: np.ndarray | None = None
    low_by_structure: np.ndarray | None = None
    high_by_structure: np.ndarray | None = None

    @property
    def inside(self) -> bool | None:
        """Whether a perfect sampler would score so; None where these cases have no value or no band."""
        if self.low is None or not np.isfinite([self.value, self.low, self.high]).all():
            return None
        return bool(self.low <= self.value <= self.high)


class JointScores:
    """The statistics of records [N cases], with each of the n + 1 masks in the truth's place."""

    def __init__(self, records: Sequence[Mapping[str, Any]], widen: float = 1.0) -> None:
        """`widen` above 1 moves the samples' volumes away from their mean, a control that must fail."""
        self.volumes = np.array([r["volumes_ml"] for r in records])  # [N, n + 1, K]
        if widen != 1:
            middle = self.volumes[:, 1:].mean(1, keepdims=True)
            self.volumes[:, 1:] = middle + widen * (self.volumes[:, 1:] - middle)
        self.distance = 1 - np.array([r["dice"] for r in records]).transpose(0, 2, 3, 1)  # [N, n + 1, n + 1, K]
        expected, voxel = (np.array([r[key] for r in records]) for key in ("expected_ml", "voxel_ml"))
        self.counts = expected > FEWEST_VOXELS * voxel[:, None]  # [N, K]
        self.products = np.array([r["products"] for r in records])  # [N, n + 1, K, L]
        self.scale = np.array([r["scale"] for r in records])  # [N, K, L]
        self.specks = np.array([r["specks"] for r in records], np.float64)  # [N, n + 1, 2]
        self.n = self.volumes.shape[1] - 1
        self._prepare()

    def _prepare(self) -> None:
        cases, masks, structures = self.volumes.shape
        self.z, self.crps, self.width = (np.zeros((cases, masks, structures)) for _ in range(3))
        self.held = {level: np.zeros((cases, masks, structures)) for level in LEVELS}
        self.to_truth, self.between = (np.zeros((cases, masks, structures)) for _ in range(2))
        for t in range(masks):
            chosen = [i for i in range(1, masks) if i != t]
            v, y = self.volumes[:, chosen], self.volumes[:, t]
            n = len(chosen)
            mean, sd = v.mean(1), v.std(1, ddof=1)
            gap = y - mean
            reach = sd * np.sqrt(1 + 1 / n)
            z = np.divide(gap, reach, out=np.copysign(np.where(gap == 0, 0, MOST_Z), gap), where=reach > 0)
            self.z[:, t] = np.clip(z, -MOST_Z, MOST_Z)
            ordered = np.sort(v, axis=1)
            rank = (2 * np.arange(1, n + 1) - n - 1).reshape(1, -1, 1)
            between = 2 * (rank * ordered).sum(1) / (n * (n - 1))
            self.crps[:, t] = np.abs(v - y[:, None]).mean(1) - between / 2
            for level in LEVELS:
                low, high = predictive_bounds(v, level / 100)
                self.held[level][:, t] = (y >= low - 1e-9) & (y <= high + 1e-9)
                if level == LEVELS[-1]:
                    self.width[:, t] = high - low
            d = self.distance[:, chosen]
            self.to_truth[:, t] = d[:, :, t].mean(1)
            self.between[:, t] = d[:, :, chosen].sum((1, 2)) / (n * (n - 1))

    def scores(self, seed: int = 0) -> dict[str, Measure]:
        """Every measure with the truth in its place, and the band of a perfect sampler."""
        rng = np.random.default_rng(seed)
        picks = rng.integers(1, self.n + 1, (REPLICATES, len(self.volumes)))
        found = {}
        for name, statistic in self._statistics().items():
            found[name] = band(statistic, picks)
        return found

    def _statistics(self) -> dict[str, Callable[[np.ndarray], tuple[float, np.ndarray | None]]]:
        rows, counts = np.arange(len(self.volumes)), self.counts

        def mean(values: np.ndarray, root: bool = False) -> Callable:
            def statistic(pick: np.ndarray) -> tuple[float, np.ndarray]:
                here = np.where(counts, values[rows, pick], np.nan)
                by = _nanmean(here)
                whole = float(np.nanmean(here)) if counts.any() else np.nan
                return (float(np.sqrt(whole)), np.sqrt(by)) if root else (whole, by)

            return statistic

        def energy(pick: np.ndarray) -> tuple[float, np.ndarray]:
            here = np.where(counts, (self.to_truth - self.between / 2)[rows, pick], np.nan)
            return float(np.nanmean(here)), _nanmean(here)

        def ratio(pick: np.ndarray) -> tuple[float, np.ndarray]:
            to, between = (np.where(counts, d[rows, pick], 0.0).sum(0) for d in (self.to_truth, self.between))
            with np.errstate(divide="ignore", invalid="ignore"):
                return float(to.sum() / between.sum()), to / between

        def variogram(column: int) -> Callable:
            def statistic(pick: np.ndarray) -> tuple[float, np.ndarray]:
                own, scale = self.products[rows, pick, :, column], self.scale[:, :, column]
                others = (self.products[:, 1:, :, column].sum(1) - np.where(pick[:, None] > 0, own, 0)) / (
                    self.n - (pick[:, None] > 0)
                )
                with np.errstate(divide="ignore", invalid="ignore"):
                    gap = others - own
                    return float(gap.sum() / scale.sum()), gap.sum(0) / scale.sum(0)

            return statistic

        def specks(pick: np.ndarray) -> tuple[float, None]:
            own = self.specks[rows, pick].sum(0)
            others = self.specks[:, 1:].sum((0, 1)) - np.where(pick[:, None] > 0, self.specks[rows, pick], 0).sum(0)
            # One speck more in both: a truth without any gives a finite ratio.
            alike = others * max(own[1], 1) / max(others[1], 1)  # in as many voxels as the truth has
            return float((alike[0] + 1) / (own[0] + 1)), None

        return {
            "z_rms": mean(self.z**2, root=True),
            "z_mean": mean(self.z),
            **{f"coverage_{level}": mean(self.held[level]) for level in LEVELS},
            "crps_ml": mean(self.crps),
            "energy_score": energy,
            "dice_ratio": ratio,
            **{f"variogram_{lag:g}mm": variogram(column) for column, lag in enumerate(LAGS_MM)},
            "specks": specks,
        }

    def describe(self) -> dict[str, Any]:
        """What has no band: interval widths, correlations and speck shares of truth and samples."""
        scale = self.scale.sum((0, 1))
        with np.errstate(divide="ignore", invalid="ignore"):
            truth, samples = (
                (self.products[:, part].mean(1).sum((0, 1)) / scale).tolist() for part in (slice(0, 1), slice(1, None))
            )
        share = self.specks.sum(0)
        return {
            "interval_90_width_ml": _nanmean(np.where(self.counts, self.width[:, 0], np.nan)).tolist(),
            "correlation_truth": truth,
            "correlation_samples": samples,
            "specks_truth": float(share[0, 0] / max(share[0, 1], 1)),
            "specks_samples": float(share[1:, 0].sum() / max(share[1:, 1].sum(), 1)),
            "one_sample_dice": float(1 - np.where(self.counts, self.to_truth[:, 0], np.nan)[self.counts].mean()),
        }

    def case_scores(self) -> dict[str, np.ndarray]:
        """Energy score, CRPS (ml) and one sample's Dice of each case [N], means over its structures, for paired
        comparisons; NaN for a case in which no structure counts.
        """
        values = {
            "energy_score": (self.to_truth - self.between / 2)[:, 0],
            "crps_ml": self.crps[:, 0],
            "one_sample_dice": 1 - self.to_truth[:, 0],
        }
        return {name: _nanmean(np.where(self.counts, value, np.nan).T) for name, value in values.items()}


def predictive_bounds(volumes: np.ndarray, level: float) -> tuple[np.ndarray, np.ndarray]:
    """`predictive_interval` of volumes [N, n, K], each bound [N, K]."""
    bounds = [[predictive_interval(v, level) for v in case.T] for case in volumes]
    low, high = np.moveaxis(np.array(bounds), -1, 0)
    return low, high


def band(statistic: Callable, picks: np.ndarray, level: float = 0.99) -> Measure:
    """The statistic of the truth, and where it lies with a random sample in the truth's place; picks [R, cases]."""
    value, by = statistic(np.zeros(picks.shape[1], int))
    drawn = [statistic(pick) for pick in picks]
    edges = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile([whole for whole, _ in drawn], edges)
    if by is None:
        return Measure(value, float(low), float(high))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)  # a structure that counts in no case
        low_by, high_by = np.nanquantile(np.array([part for _, part in drawn]), edges, axis=0)
    return Measure(value, float(low), float(high), by, low_by, high_by)


def _nanmean(values: np.ndarray) -> np.ndarray:
    """Mean over the cases [N, K] that count, NaN for a structure that never does."""
    count = np.isfinite(values).sum(0)
    return np.divide(np.nansum(values, 0), count, out=np.full(count.shape, np.nan), where=count > 0)
