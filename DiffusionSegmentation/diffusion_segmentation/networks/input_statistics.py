"""How like the scans that a model was made for a scan is: distances of the encoder's features, structure by structure.

Lee et al., "A simple unified framework for detecting out-of-distribution samples and adversarial attacks", NeurIPS
2018: features of a class are Gaussian with a covariance that all classes share, and the distance is Mahalanobis's. Of a
scan the cells are no sample of their own: what differs from scan to scan is where a structure's cells lie together. So
a structure's mean feature is compared with its means in other scans (equation 1 of the paper with scans for images),
and single cells are compared only to tell which region is strange.
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

from .blocks import neighbours

KINDS = ("features", "volume", "entropy")
"""What of a structure is compared: its mean feature, its volume, and the mean entropy of its voxels."""
LEAST_CELLS = 30.0
"""Fewer cells of a structure say nothing of its mean."""
FEWEST = 5
"""Scans from which can be told how scans differ."""
FALSE_ALARMS = 0.01
"""Share of scans like those of the fit that lie beyond the limit, where distances are normally distributed."""
SHRINKAGE = 0.1
"""Of the covariances towards a multiple of the identity, which few scans need."""
SIGMAS = 1.4826
"""Standard deviations of a normal distribution in its median absolute deviation."""
LEAST_SPREAD = np.array([0.05, 0.05, 0.02])[:, None]
"""Of each kind: logarithms, and bits. Scans that are all alike would have none."""
UNKNOWN = 1e6
"""Spread of what too few scans have shown; nothing lies far from it. Also the largest number in a model folder."""


@dataclass
class ScanSummary:
    """What is compared of a scan of C classes, summed over its cells (2 x 2 x 2 voxels; weights of a cell add up to 1).

    Attributes:
        cells: float64 [C], how many.
        features: float64 [C, F], the sum of their features.
        bits: float64 [C], the sum of their entropies.
        square: float64 [F, F], the sum of the features' outer products over all classes but background.
    """

    cells: np.ndarray
    features: np.ndarray
    bits: np.ndarray
    square: np.ndarray

    @classmethod
    def none(cls, classes: int, channels: int) -> ScanSummary:
        """Those of no cells."""
        return cls(*(np.zeros(shape) for shape in (classes, (classes, channels), classes, (channels, channels))))

    @classmethod
    def of(cls, input_statistics: InputStatistics) -> ScanSummary:
        """Those of no cells, to be compared by `input_statistics`."""
        return cls.none(*input_statistics.class_means.shape)

    def add(self, features: torch.Tensor, p: torch.Tensor, share: torch.Tensor) -> None:
        """Take in a window: features [1, F, *cells], class probabilities p [1, 2^dims * C, *cells], share [*cells].

        `share` is how much of each cell counts: less than 1 where other windows see it too, 0 where there is no scan.
        """
        h, weight = features[0].float().flatten(1), share.flatten()
        p = p[0].unflatten(0, (-1, neighbours(p))).flatten(2)
        cells = p.mean(1) * weight
        bits = sum(torch.special.entr(part) for part in p) / math.log(2)  # class by class: all at once are a state more
        self.cells += _double(cells.sum(1))
        self.features += _double(cells @ h.T)
        self.bits += _double(p.flatten(1) @ (bits * weight).flatten() / len(bits))

    def add_square(self, features: torch.Tensor, p: torch.Tensor, share: torch.Tensor) -> None:
        """Take in what only a fit needs of a window, `square`; arguments as of `add`."""
        h = features[0].float().flatten(1)
        weight = (1 - p[0, : neighbours(p)].mean(0)).flatten() * share.flatten()
        self.square += _double((h * weight) @ h.T)

    @property
    def means(self) -> np.ndarray:
        """The mean feature of each class, float64 [C, F]; 0 of a class that is not there."""
        return self.features / np.maximum(self.cells, 1e-6)[:, None]

    @property
    def shown(self) -> np.ndarray:
        """Which classes have enough cells to be compared, bool [C]."""
        return self.cells >= LEAST_CELLS


def _double(sums: torch.Tensor) -> np.ndarray:
    return sums.cpu().double().numpy()


@dataclass(frozen=True)
class InputDistance:
    """How far a scan lies from those that a model was made for: `distance`, in their standard deviations, and `limit`.

    It is that of the one of KINDS and the structure (a class) in which it is farthest.
    """

    distance: float
    limit: float
    kind: str
    structure: int

    @property
    def unlike(self) -> bool:
        """Whether it lies beyond the limit."""
        return self.distance > self.limit

    def as_json(self, names: Sequence[str]) -> dict[str, Any]:
        """What a report tells of it; `names` of the classes, background first."""
        return {
            "distance": round(self.distance, 3),
            "limit": round(self.limit, 3),
            "unlike_training": self.unlike,
            "farthest": {"label": self.structure, "name": names[self.structure], "in": self.kind},
        }


class InputStatistics(nn.Module):
    """What is known of the scans that a model of C classes was made for; F are the channels of the features.

    It holds numbers only, and is a module so that it is stored and checked as the networks are: `class_means` [C, F], a
    class's mean feature over scans; `between_scans` [F, F], the inverse covariance of such means, and `between_cells`
    [F, F], that of cells; `centre` and `spread` [KINDS, C], of the values that `_values` compares; `limit` [1];
    `region` [3], centre, spread and limit of the logarithm of `cell_distances` in uncertain regions; `scans` [1], how
    many there were.
    """

    def __init__(self, classes: int, channels: int) -> None:
        super().__init__()
        shapes = {
            "class_means": (classes, channels),
            "between_scans": (channels, channels),
            "between_cells": (channels, channels),
            "centre": (len(KINDS), classes),
            "spread": (len(KINDS), classes),
            "limit": (1,),
            "region": (3,),
            "scans": (1,),
        }
        for name, shape in shapes.items():
            self.register_buffer(name, torch.zeros(shape))

    @property
    def sound(self) -> bool:
        """Whether every number is one that can be compared with."""
        bounded = all(bool((part.abs() <= UNKNOWN).all()) for part in self.buffers())
        return bounded and bool((self.spread > 1e-3).all()) and float(self.region[1]) > 1e-3

    def input_distance(self, summary: ScanSummary) -> InputDistance:
        """How far the scan with this summary lies from those of the fit. Background counts as a class like others."""
        class_means, between_scans, centre, spread = map(
            _double, (self.class_means, self.between_scans, self.centre, self.spread)
        )
        z = _apart(_values(summary, class_means, between_scans), centre, spread)
        kind, structure = np.unravel_index(np.nanargmax(z), z.shape)
        distance = float(min(z[kind, structure], UNKNOWN))
        return InputDistance(distance, float(self.limit), KINDS[kind], int(structure))

    def cell_distances(self, features: torch.Tensor, p: torch.Tensor) -> torch.Tensor:
        """Of each cell the squared distance from its classes over F, [1, 1, *cells]; arguments as of `ScanSummary.add`.

        The mean over all classes but background, by their probabilities: 1 for the cells that were fitted to.
        """
        middle, between_cells = self.class_means.mean(0).to(p.device), self.between_cells.to(p.device)
        class_means = self.class_means.to(p.device) - middle  # float32 loses what large numbers have in common
        h = features[0].float().movedim(0, -1).flatten(0, -2) - middle  # channels last, as they are in memory
        share = p[0].unflatten(0, (-1, neighbours(p))).mean(1).flatten(1)[1:] + 1e-6
        share = (share / share.sum(0)).T
        ahead = h @ between_cells
        own = torch.einsum("cf,fg,cg->c", class_means[1:], between_cells, class_means[1:])
        squared = torch.linalg.vecdot(h, ahead) + (share * (own - 2 * ahead @ class_means[1:].T)).sum(1)
        distances = (squared / h.shape[1]).nan_to_num(UNKNOWN, UNKNOWN, UNKNOWN)  # not finite: beyond float32
        return distances.clamp(1e-6, UNKNOWN).view(1, 1, *p.shape[2:])

    @property
    def compares_regions(self) -> bool:
        """Whether there were uncertain regions enough to tell what is usual in them."""
        return float(self.region[2]) < UNKNOWN

    def region_distances(self, cell_distances: np.ndarray) -> np.ndarray:
        """How far regions lie from those of the fit, in standard deviations, from their mean `cell_distances` [N]."""
        centre, spread, _ = _double(self.region)
        return np.clip((np.log(cell_distances) - centre) / spread, -UNKNOWN, UNKNOWN)

    def fit_regions(self, cell_distances: np.ndarray) -> None:
        """Take the mean `cell_distances` [N] of uncertain regions as usual. Of too few regions nothing is known."""
        if len(cell_distances) >= FEWEST / FALSE_ALARMS:
            values = np.log(cell_distances)
            centre, spread = values.mean(), max(values.std(), float(LEAST_SPREAD[0, 0]))
            limit = (np.quantile(values, 1 - FALSE_ALARMS) - centre) / spread
            self.region.copy_(torch.tensor([centre, spread, limit]))

    @classmethod
    def fit(cls, scans: Sequence[ScanSummary]) -> InputStatistics | None:
        """What scans have in common; None of fewer than FEWEST."""
        if len(scans) < FEWEST:
            return None
        class_means, between_scans = _common(scans)
        # What a scan was fitted to lies nearer: each is compared with what the others have in common.
        others = [_common([*scans[:n], *scans[n + 1 :]]) for n in range(len(scans))]
        values = np.stack([_values(scan, *other) for scan, other in zip(scans, others, strict=True)])
        centre, spread = _usual(values)
        own = [np.nanmax(_apart(value, *_usual(np.delete(values, n, 0)))) for n, value in enumerate(values)]
        # The upper end of the interval that holds the next scan, were these distances normally distributed as those
        # above the median say.
        n = len(own)
        middle, upper = np.quantile(own, (0.5, 0.75))
        beyond = stdtrit(n - 1, 1 - FALSE_ALARMS) * SIGMAS * (upper - middle) * math.sqrt(1 + 1 / n)
        fitted = cls(*class_means.shape)
        found = {
            "class_means": class_means,
            "between_scans": between_scans,
            "between_cells": _between_cells(scans, class_means),
        }
        found |= {"centre": centre, "spread": spread, "region": np.array([0.0, 1.0, UNKNOWN])}
        found |= {"limit": np.array([middle + beyond]), "scans": np.array([n])}
        for name, part in found.items():
            getattr(fitted, name).copy_(torch.from_numpy(np.clip(part, -UNKNOWN, UNKNOWN)))
        return fitted


def _common(scans: Sequence[ScanSummary]) -> tuple[np.ndarray, np.ndarray]:
    """Each class's mean feature over scans [C, F], and the inverse covariance [F, F] of such means about it."""
    means = np.stack([scan.means for scan in scans])
    shown = np.stack([scan.shown for scan in scans])
    class_means = (means * shown[..., None]).sum(0) / np.maximum(shown.sum(0), 1)[:, None]
    apart = ((means - class_means) * shown[..., None]).reshape(-1, class_means.shape[1])
    covariance = apart.T @ apart / max(shown.sum() - shown.any(0).sum(), 1)
    return class_means, _inverse(covariance)


def _between_cells(scans: Sequence[ScanSummary], class_means: np.ndarray) -> np.ndarray:
    """The inverse covariance [F, F] of cells about their classes' means `class_means`, background left out."""
    cells, features = (sum(getattr(scan, name) for scan in scans)[1:] for name in ("cells", "features"))
    crossed = features.T @ class_means[1:]
    about = (cells[:, None] * class_means[1:]).T @ class_means[1:]
    covariance = (sum(scan.square for scan in scans) - crossed - crossed.T + about) / max(cells.sum(), 1)
    return _inverse(covariance)


def _inverse(covariance: np.ndarray) -> np.ndarray:
    """Of a covariance [F, F] that is shrunk towards a multiple of the identity."""
    channels = len(covariance)
    level = max(np.trace(covariance) / channels, 1e-6)
    return np.linalg.inv((1 - SHRINKAGE) * covariance + SHRINKAGE * level * np.eye(channels))


def _values(scan: ScanSummary, class_means: np.ndarray, between_scans: np.ndarray) -> np.ndarray:
    """What is compared of a scan, float64 [KINDS, C]: logarithms of distance and volume, bits; NaN where unknown."""
    apart = scan.means - class_means
    squared = np.einsum("cf,fg,cg->c", apart, between_scans, apart) / apart.shape[1]
    unknown = np.where(scan.shown, 0.0, np.nan)
    look = 0.5 * np.log(np.maximum(squared, 1e-12)) + unknown
    return np.stack([look, np.log(scan.cells + 1), scan.bits / np.maximum(scan.cells, 1e-6) + unknown])


def _usual(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Median and spread over scans of values [N, KINDS, C]; (0, UNKNOWN) of what too few of them show.

    Robust, because scans that the model cannot do are among those of the fit, and must not make others like them usual.
    """
    enough = np.isfinite(values).sum(0) >= FEWEST - 1
    known = np.where(enough, values, 0.0)
    middle = np.nanmedian(known, 0)
    spread = np.maximum(SIGMAS * np.nanmedian(np.abs(known - middle), 0), LEAST_SPREAD)
    return np.where(enough, middle, 0.0), np.where(enough, spread, UNKNOWN)


def _apart(values: np.ndarray, centre: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """How many spreads values [KINDS, C] lie above the middle; a volume counts that lies below it as well."""
    z = (values - centre) / spread
    volume = KINDS.index("volume")
    z[volume] = np.abs(z[volume])
    return z
