"""Input check: distance of a scan's encoder features, volumes and entropies from those of the training scans.

Lee et al., "A simple unified framework for detecting out-of-distribution samples and adversarial attacks", NeurIPS
2018: features of a class are Gaussian with a covariance shared by all classes, and the distance is Mahalanobis's. The
cells of a scan are not independent; scans differ in the location of a structure's cells as a group. So a structure's
mean feature is compared with its means in other scans (equation 1 of the paper with scans in place of images), and
single cells are compared only to find unusual regions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.special import stdtrit
from torch import nn

from .blocks import voxels_per_cell

KINDS = ("features", "volume", "entropy")
"""Compared values of a structure: its mean feature, its volume, and the mean entropy of its voxels."""
MIN_CELLS = 30.0  # cells of a structure below which its mean is not compared
MIN_SCANS = 5  # scans below which their variation cannot be estimated
FALSE_ALARM_RATE = 0.01  # share of scans like those of the fit beyond the limit, if distances are normally distributed
SHRINKAGE = 0.1  # shrinkage of the covariances towards a multiple of the identity, needed for few scans
MAD_TO_SD = 1.4826  # standard deviation of a normal distribution divided by its median absolute deviation
MIN_SPREAD = np.array([0.05, 0.05, 0.02])[:, None]
"""Smallest spread for each of KINDS (natural logarithm twice, bits), because identical scans have a spread of 0."""
MAX_VALUE = 1e6  # largest number stored or reported. As a spread or limit it means unknown: nothing lies beyond it


@dataclass
class ScanSummary:
    """Sums over the cells (2^dims voxels) of a scan of C classes and F feature channels.

    A cell counts for each class by its probability. All sums are float64.
    """

    cells: np.ndarray  # [C], number of cells
    features: np.ndarray  # [C, F], sum of their features
    bits: np.ndarray  # [C], that of their entropies
    square: np.ndarray  # [F, F], that of the features' outer products over all classes but background

    @classmethod
    def none(cls, classes: int, channels: int) -> ScanSummary:
        """Sums over no cells."""
        by_class, square = np.zeros((classes, channels)), np.zeros((channels, channels))
        return cls(np.zeros(classes), by_class, np.zeros(classes), square)

    def add(self, features: torch.Tensor, p: torch.Tensor, share: torch.Tensor) -> None:
        """Add a window: features [1, F, *cells], class probabilities p [1, 2^dims * C, *cells], share [*cells].

        `share` is the weight of each cell: below 1 where windows overlap, 0 outside the scan.
        """
        h, weight = features[0].float().flatten(1), share.flatten()
        p = p[0].unflatten(0, (-1, voxels_per_cell(p))).flatten(2)
        cells = p.mean(1) * weight
        bits = sum(torch.special.entr(part) for part in p) / math.log(2)  # by class: all at once copy the state
        self.cells += _double(cells.sum(1))
        self.features += _double(cells @ h.T)
        self.bits += _double(p.flatten(1) @ (bits * weight).flatten() / len(bits))

    def add_square(self, features: torch.Tensor, p: torch.Tensor, share: torch.Tensor) -> None:
        """Add a window to `square`, which only a fit needs; arguments as for `add`."""
        h = features[0].float().flatten(1)
        weight = (1 - p[0, : voxels_per_cell(p)].mean(0)).flatten() * share.flatten()
        self.square += _double((h * weight) @ h.T)

    @property
    def means(self) -> np.ndarray:
        """Mean feature of each class, float64 [C, F]; 0 for a class without cells."""
        return self.features / np.maximum(self.cells, 1e-6)[:, None]

    @property
    def present(self) -> np.ndarray:
        """Classes with enough cells to be compared, bool [C]."""
        return self.cells >= MIN_CELLS


def _double(sums: torch.Tensor) -> np.ndarray:
    return sums.cpu().double().numpy()


@dataclass(frozen=True)
class InputDistance:
    """Largest distance of a scan from the training scans over KINDS and structures, in their standard deviations."""

    distance: float
    limit: float  # beyond which a scan counts as unlike
    kind: str  # one of KINDS
    structure: int  # a class

    @property
    def unlike(self) -> bool:
        """Whether the scan lies beyond the limit."""
        return self.distance > self.limit

    def as_json(self, names: Sequence[str]) -> dict[str, Any]:
        """Entries of report.json; `names` of the classes, background first."""
        return {
            "distance": round(self.distance, 3),
            "limit": round(self.limit, 3),
            "unlike_training": self.unlike,
            "farthest": {"label": self.structure, "name": names[self.structure], "in": self.kind},
        }


class InputStatistics(nn.Module):
    """Statistics of the scans of a model with C classes and F feature channels.

    A module without parameters, so that it is stored and validated like the networks.
    """

    class_means: torch.Tensor  # [C, F], mean feature of each class over scans
    between_scans: torch.Tensor  # [F, F], inverse covariance of a scan's class means
    between_cells: torch.Tensor  # [F, F], that of cells
    centre: torch.Tensor  # [KINDS, C], of the values of `_values`, as `spread`
    spread: torch.Tensor
    limit: torch.Tensor  # [1]
    region: torch.Tensor  # [3], centre, spread and limit of the logarithm of `cell_distances` in uncertain regions
    scans: torch.Tensor  # [1], their number

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        by_class, square, by_kind = [classes, channels], [channels, channels], [len(KINDS), classes]
        shapes = {"class_means": by_class, "between_scans": square, "between_cells": square}
        shapes |= {"centre": by_kind, "spread": by_kind, "limit": [1], "region": [3], "scans": [1]}
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))

    @property
    def sound(self) -> bool:
        """Whether all numbers are finite and in range, and no spread is close to 0."""
        bounded = all(float(part.abs().amax()) <= MAX_VALUE for part in self.buffers())
        return bounded and bool((self.spread > 1e-3).all()) and float(self.region[1]) > 1e-3

    def input_distance(self, summary: ScanSummary) -> InputDistance:
        """Distance of the scan with this summary from the training scans; background is a class like the others."""
        class_means, between_scans, centre, spread = map(
            _double, (self.class_means, self.between_scans, self.centre, self.spread)
        )
        z = _z_scores(_values(summary, class_means, between_scans), centre, spread)
        kind, structure = np.unravel_index(np.nanargmax(z), z.shape)
        distance = float(min(z[kind, structure], MAX_VALUE))
        return InputDistance(distance, float(self.limit), KINDS[kind], int(structure))

    def cell_distances(self, features: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        """Squared Mahalanobis distance of each cell from its classes over F, float32 [1, 1, *cells].

        The mean over all classes but background, weighted by their probabilities; 1 on average for the cells of the
        fit. Arguments as for `ScanSummary.add`.
        """
        middle, between_cells = self.class_means.mean(0).to(p.device), self.between_cells.to(p.device)
        class_means = self.class_means.to(p.device) - middle  # float32 loses differences of large means
        h = features[0].float().movedim(0, -1).flatten(0, -2) - middle  # channels last, as they are in memory
        share = p[0].unflatten(0, (-1, voxels_per_cell(p))).mean(1).flatten(1)[1:] + 1e-6
        share = (share / share.sum(0)).T
        weighted = h @ between_cells
        class_squares = torch.einsum("cf,fg,cg->c", class_means[1:], between_cells, class_means[1:])
        squared = torch.linalg.vecdot(h, weighted)
        squared = squared + (share * (class_squares - 2 * weighted @ class_means[1:].T)).sum(1)
        distances = (squared / h.shape[1]).nan_to_num(MAX_VALUE, MAX_VALUE, MAX_VALUE)  # not finite: beyond float32
        return distances.clamp(1e-6, MAX_VALUE).view(1, 1, *p.shape[2:])

    @property
    def compares_regions(self) -> bool:
        """Whether the fit had enough uncertain regions to compare others with."""
        return float(self.region[2]) < MAX_VALUE

    def region_distances(self, cell_distances: np.ndarray) -> np.ndarray:
        """Distance of regions from those of the fit in standard deviations, from their mean `cell_distances` [N]."""
        centre, spread, _ = _double(self.region)
        return np.clip((np.log(cell_distances) - centre) / spread, -MAX_VALUE, MAX_VALUE)

    def fit_regions(self, cell_distances: np.ndarray) -> None:
        """Fit `region` to the mean `cell_distances` [N] of uncertain regions; leave it unknown for too few."""
        if len(cell_distances) >= MIN_SCANS / FALSE_ALARM_RATE:
            values = np.log(cell_distances)
            centre, spread = values.mean(), max(values.std(), float(MIN_SPREAD[0, 0]))
            limit = (np.quantile(values, 1 - FALSE_ALARM_RATE) - centre) / spread
            self.region.copy_(torch.tensor([centre, spread, limit]))

    @classmethod
    def fit(cls, scans: Sequence[ScanSummary]) -> InputStatistics | None:
        """Statistics of `scans`; None for fewer than MIN_SCANS."""
        n = len(scans)
        if n < MIN_SCANS:
            return None
        class_means, between_scans = _class_statistics(scans)
        # Leave one out: a scan lies nearer to a fit that it is part of.
        others = [_class_statistics([*scans[:i], *scans[i + 1 :]]) for i in range(n)]
        values = np.stack([_values(scan, *other) for scan, other in zip(scans, others, strict=True)])
        distances = [
            np.nanmax(_z_scores(v, *_median_and_spread(np.delete(values, i, 0)))) for i, v in enumerate(values)
        ]
        # Upper end of the prediction interval for the next scan, the spread estimated from the upper quartile.
        middle, upper = np.quantile(distances, (0.5, 0.75))
        margin = stdtrit(n - 1, 1 - FALSE_ALARM_RATE) * MAD_TO_SD * (upper - middle) * math.sqrt(1 + 1 / n)
        centre, spread = _median_and_spread(values)
        fitted = cls(*class_means.shape)
        numbers = {
            "class_means": class_means,
            "between_scans": between_scans,
            "between_cells": _between_cells(scans, class_means),
            "centre": centre,
            "spread": spread,
            "region": np.array([0.0, 1.0, MAX_VALUE]),
            "limit": np.array([middle + margin]),
            "scans": np.array([n]),
        }
        for name, part in numbers.items():
            getattr(fitted, name).copy_(torch.from_numpy(np.clip(part, -MAX_VALUE, MAX_VALUE)))
        return fitted


def _class_statistics(scans: Sequence[ScanSummary]) -> tuple[np.ndarray, np.ndarray]:
    """Mean feature of each class over scans [C, F], and the inverse covariance [F, F] of a scan's means about it."""
    means = np.stack([scan.means for scan in scans])
    present = np.stack([scan.present for scan in scans])
    class_means = (means * present[..., None]).sum(0) / np.maximum(present.sum(0), 1)[:, None]
    deviations = ((means - class_means) * present[..., None]).reshape(-1, class_means.shape[1])
    covariance = deviations.T @ deviations / max(present.sum() - present.any(0).sum(), 1)
    return class_means, _shrunk_inverse(covariance)


def _between_cells(scans: Sequence[ScanSummary], class_means: np.ndarray) -> np.ndarray:
    """Inverse covariance [F, F] of cells about the means `class_means` of their classes, background left out."""
    cells, features = (sum(getattr(scan, name) for scan in scans)[1:] for name in ("cells", "features"))
    crossed = features.T @ class_means[1:]
    about = (cells[:, None] * class_means[1:]).T @ class_means[1:]
    covariance = (sum(scan.square for scan in scans) - crossed - crossed.T + about) / max(cells.sum(), 1)
    return _shrunk_inverse(covariance)


def _shrunk_inverse(covariance: np.ndarray) -> np.ndarray:
    """Inverse of a covariance [F, F] shrunk towards a multiple of the identity."""
    channels = len(covariance)
    level = max(np.trace(covariance) / channels, 1e-6)
    return np.linalg.inv((1 - SHRINKAGE) * covariance + SHRINKAGE * level * np.eye(channels))


def _values(scan: ScanSummary, class_means: np.ndarray, between_scans: np.ndarray) -> np.ndarray:
    """Compared values of a scan, float64 [KINDS, C]: logarithms of distance and volume, bits; NaN where unknown."""
    deviations = scan.means - class_means
    squared = np.einsum("cf,fg,cg->c", deviations, between_scans, deviations) / deviations.shape[1]
    unknown = np.where(scan.present, 0.0, np.nan)
    log_distance = 0.5 * np.log(np.maximum(squared, 1e-12)) + unknown
    return np.stack([log_distance, np.log(scan.cells + 1), scan.bits / np.maximum(scan.cells, 1e-6) + unknown])


def _median_and_spread(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and spread over scans of values [N, KINDS, C]; (0, MAX_VALUE) for those that too few scans have.

    Robust, because the fit includes scans on which the model fails, and they must not widen the normal range.
    """
    enough = np.isfinite(values).sum(0) >= MIN_SCANS - 1
    known = np.where(enough, values, 0.0)
    middle = np.nanmedian(known, 0)
    spread = np.maximum(MAD_TO_SD * np.nanmedian(np.abs(known - middle), 0), MIN_SPREAD)
    return np.where(enough, middle, 0.0), np.where(enough, spread, MAX_VALUE)


def _z_scores(values: np.ndarray, centre: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """Deviations of values [KINDS, C] from the centre in spreads: absolute for volumes, else upwards only."""
    z = (values - centre) / spread
    volume = KINDS.index("volume")
    z[volume] = np.abs(z[volume])
    return z
