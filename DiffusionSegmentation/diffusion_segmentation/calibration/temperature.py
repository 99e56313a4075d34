"""Fits the temperature of the probability map to labelled cases.

Guo et al., "On calibration of modern neural networks", ICML 2017.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

MIN_PROBABILITY = 1 / 510
"""Lower bound in a log score: half of the step of the probabilities in a result file."""
TEMPERATURES = 0.25, 4.0

LabelledVoxels = tuple[np.ndarray, np.ndarray]
"""Class probabilities [C, n] of n voxels and their labels, int [n]."""


@dataclass(frozen=True)
class Temperature:
    """A temperature, and the mean log score (nats per voxel) of the cases at 1 and at temperatures of other cases."""

    value: float
    before: float
    after: float


def fit_temperature(cases: Sequence[LabelledVoxels]) -> Temperature:
    """The temperature of the lowest mean log score, where temperatures help cases that they are not fitted to; else 1.

    Each half of the cases, in their order, is scored with the temperature of the other. All cases count the same.
    """
    half = len(cases) // 2
    parts = cases[:half], cases[half:]
    scores = [log_score(other, _best(part)) * len(other) for part, other in (parts, parts[::-1])]
    before, after = log_score(cases, 1.0), sum(scores) / len(cases)
    return Temperature(round(_best(cases), 4) if after < before else 1.0, before, after)


def log_score(cases: Sequence[LabelledVoxels], temperature: float) -> float:
    """Mean over cases of the mean -log p of the labels (nats) if the logits are divided by `temperature`."""
    scores = []
    for p, labels in cases:
        log_p = log_softmax(np.log(np.maximum(p, MIN_PROBABILITY)) / temperature, axis=0)
        scores.append(-np.take_along_axis(log_p, labels[None].astype(np.int64), 0).mean())
    return float(np.mean(scores))


def _best(cases: Sequence[LabelledVoxels]) -> float:
    fit = minimize_scalar(
        lambda log_t: log_score(cases, float(np.exp(log_t))),
        bounds=tuple(np.log(TEMPERATURES)),
        method="bounded",
        options={"xatol": 1e-3},
    )
    return float(np.exp(fit.x))
