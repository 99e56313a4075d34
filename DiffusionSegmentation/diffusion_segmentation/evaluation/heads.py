"""A model on synthetic heads, whose labels are the truth by construction."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..calibration.start import labelled
from ..model.folder import Model
from ..segmentation.sampler import sample_seeds
from ..training.sources import Heads
from .joint import joint_case
from .loop import Records, run_cases
from .store import CaseStore

CASES = 100


def evaluate_heads(source: Heads, model: Model, cases: int, samples: int, seed: int, store: CaseStore) -> Records:
    """Records by name of new heads, used neither in training nor in calibration."""

    def work(index: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        image, labels = source.evaluated(index, seed)
        return joint_case(model, labelled(model, image, labels), samples, sample_seeds(seed, 1, index)[0]), {}

    return run_cases([f"head {index + 1}" for index in range(cases)], work, store)[0]
