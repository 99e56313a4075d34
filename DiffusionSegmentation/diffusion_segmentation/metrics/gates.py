"""What a sampler has to score on tasks with a known posterior before it may be called one.

Scores of 64 samples a case over two dozen cases or more, each in a form that is free of the number of samples: the
volume variance ratio, the error of voxel probabilities where the truth is ambiguous (`probability_rmse`), GED_U, the
share of chimeras, and the coverage of predictive intervals from 8 samples. Where a class is there or not at all, an
exact sampler's intervals hold up to 94 % of the truth; take the coverage from its ranks there (`randomised_pit`).

A sampler that draws one mask again and again, or each voxel by itself, must fail: otherwise the gates are blind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Gate(NamedTuple):
    """Bounds of a score, themselves included, and what a sampler outside of them does."""

    low: float
    high: float
    meaning: str


GATES: dict[str, Gate] = {
    "volume_variance_ratio": Gate(0.9, 1.1, "the volumes of its samples spread too little or too much"),
    "probability_rmse": Gate(0.0, 0.05, "its voxel probabilities are off"),
    "ged_u": Gate(float("-inf"), 0.01, "its masks are not those that could be true"),
    "chimera_share": Gate(0.0, 0.02, "it draws parts of objects that are there whole or not at all"),
    "coverage": Gate(0.86, 0.94, "its 90 % volume intervals from 8 samples do not hold 90 %"),
}


def check(scores: Mapping[str, float]) -> list[str]:
    """One sentence for each score that lies outside its gate, NaN too; empty when all that are given pass.

    A task has the scores that it can have: only some have chimeras. Raises ValueError for a score without a gate.
    """
    unknown = sorted(set(scores) - set(GATES))
    if unknown:
        raise ValueError(f"There is no gate for {', '.join(unknown)}; there is one for {', '.join(GATES)}.")
    return [
        f"{name} is {scores[name]:.4g}, outside {gate.low:g} to {gate.high:g}: {gate.meaning}."
        for name, gate in GATES.items()
        if name in scores and not gate.low <= scores[name] <= gate.high
    ]
