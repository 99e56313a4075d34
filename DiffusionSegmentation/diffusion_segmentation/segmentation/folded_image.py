"""An image with what several folds of a network that others trained say of it.

A sampler on top of such a network is trained with the log-odds of one fold at a time, which has not seen the case.
Those of the folds' mean have another law: they are less sure where folds differ, and nearer to the truth. So each
sample of a new image uses the log-odds of one fold, and the folds take turns. The samples of all folds are a mixture of
predictive distributions, whose proper scores are at least as good as those of a fold on average (they are convex). It
is wider than each of them, because it contains what the network does not know.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..networks import ODDS_LIMIT

MIN_PROBABILITY = 1e-12


@dataclass(frozen=True)
class FoldedImage:
    """An image for a sampler on top of several folds, none of which has seen it.

    Attributes:
        values: normalised channels float32 [channels, *shape].
        odds: of each fold, log-odds against the background, float16 [C - 1, *shape].
        temperature: by which the logits of a single fold are divided.
        mean_temperature: that of the logits of the folds' mean.
    """

    values: np.ndarray
    odds: Sequence[np.ndarray]
    temperature: float
    mean_temperature: float

    @property
    def shape(self) -> tuple[int, ...]:
        """That of `values`."""
        return self.values.shape

    @property
    def ndim(self) -> int:
        """Number of axes of `values`."""
        return self.values.ndim

    def of_fold(self, number: int) -> np.ndarray:
        """Image with the channels of a fold, float32 [channels + C - 1, *shape]; `number` counts round the folds."""
        return np.concatenate([self.values, channels_of(self.odds[number % len(self.odds)], self.temperature)])

    def of_slice(self, z: int) -> FoldedImage:
        """One slice of a stack [..., z, y, x]."""
        return replace(self, values=self.values[:, z], odds=[one[:, z] for one in self.odds])

    def mean(self) -> np.ndarray:
        """Class probabilities of the folds' mean over its temperature, float32 [C, *shape]."""
        return probabilities(mean_odds(self.odds), self.mean_temperature)

    def pooled(self) -> np.ndarray:
        """Mean of the class probabilities of the folds, each over the temperature, float32 [C, *shape]."""
        total = probabilities(self.odds[0], self.temperature)
        for odds in self.odds[1:]:
            total += probabilities(odds, self.temperature)
        return np.divide(total, len(self.odds), out=total)


SamplerImage = np.ndarray | FoldedImage
"""What a sampler sees of a case: normalised channels, log-odds last, or an image with the log-odds of several folds."""


def with_odds(values: np.ndarray, odds: Sequence[np.ndarray], frozen: Mapping[str, Any]) -> SamplerImage:
    """The image `values` float32 [channels, *shape] with the log-odds [C - 1, *shape] of one fold or several.

    Temperatures are those of the entry `frozen` of a sampler's metadata.
    """
    if len(odds) == 1:
        return np.concatenate([values, channels_of(odds[0], frozen["temperature"])])
    return FoldedImage(values, odds, frozen["temperature"], frozen["mean_temperature"])


def odds_bytes(structures: int, voxels: int) -> int:
    """Bytes of the log-odds of one fold."""
    return 2 * structures * voxels


def channels_of(odds: np.ndarray, temperature: float) -> np.ndarray:
    """Channels of the image, float32 as `odds` [C - 1, ...], of logits over a temperature."""
    return _scaled(odds, temperature) + np.float32(ODDS_LIMIT)


def probabilities(odds: np.ndarray, temperature: float) -> np.ndarray:
    """Class probabilities float32 [C, *shape] of log-odds against the background [C - 1, *shape] over a temperature."""
    logits = np.concatenate([np.zeros_like(odds[:1], np.float32), _scaled(odds, temperature)])
    return torch.from_numpy(logits).softmax(0).numpy()


def _scaled(odds: np.ndarray, temperature: float) -> np.ndarray:
    return np.clip(odds.astype(np.float32) / np.float32(temperature), -ODDS_LIMIT, ODDS_LIMIT)


def mean_odds(odds: Sequence[np.ndarray]) -> np.ndarray:
    """Log-odds of the mean of class probabilities, float32 [C - 1, *shape], from those of each [C - 1, *shape].

    One class at a time to save memory.
    """
    highest = [np.maximum(one.max(0), 0).astype(np.float32) for one in odds]
    sums = [
        np.exp(-most) + sum(np.exp(row.astype(np.float32) - most) for row in one)
        for one, most in zip(odds, highest, strict=True)
    ]

    def log_mean(rows: Sequence[np.ndarray | float]) -> np.ndarray:
        terms = (np.exp(row - most) / total for row, most, total in zip(rows, highest, sums, strict=True))
        return np.log(np.maximum(sum(terms) / np.float32(len(odds)), MIN_PROBABILITY))

    result = np.empty(odds[0].shape, np.float32)
    background = log_mean([0.0] * len(odds))
    for label in range(len(result)):
        result[label] = log_mean([one[label].astype(np.float32) for one in odds]) - background
    return result
