"""A model on synthetic heads, whose labels are the truth by construction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..calibration.start import labelled
from ..model.folder import Model
from ..segmentation.sampler import sample_seeds
from ..training.sources import Heads
from .joint import joint_case
from .loop import each_case
from .store import Kept

CASES = 100


def evaluate_heads(
    source: Heads, model: Model, cases: int, samples: int, seed: int, kept: Kept
) -> dict[str, dict[str, Any]]:
    """Records of heads drawn anew, by name. Heads are neither those of a training nor those of a calibration."""

    def work(index: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        image, labels = source.evaluated(index, seed)
        return joint_case(model, labelled(model, image, labels), samples, sample_seeds(seed, 1, index)[0]), {}

    return each_case(names(cases), work, kept)[0]


def names(cases: int) -> Sequence[str]:
    return [f"head {index + 1}" for index in range(cases)]
