"""Acceptance bounds ("gates") of a sampler on tasks with a known posterior.

The scores come from 64 samples per case over at least two dozen cases, each in a form that does not depend on the
number of samples:

- volume_variance_ratio: summed variance of the samples' volumes (ddof=1) over that of the true volumes.
- probability_rmse: sqrt(mean[(p - exact)^2] - mean[p (1 - p)] / (n - 1)) over ambiguous voxels, with probabilities p
  from n hard samples; the second term is their sampling noise.
- ged_u, chimera_share, and coverage of the predictive intervals of 8 samples. Where a class can be absent, intervals
  of an exact sampler cover up to 94 % of the truth; there, take the coverage from ranks (`randomised_pit`).

A sampler that repeats one mask and a sampler that draws voxels independently must fail; otherwise the gates show
nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple


class Gate(NamedTuple):
    """Bounds of a score (inclusive), and what is wrong with a sampler outside them."""

    low: float
    high: float
    meaning: str

    @property
    def bounds(self) -> str:
        """The bounds in words, "0.9 to 1.1" or "at most 0.05"."""
        return f"at most {self.high:g}" if self.low <= 0 else f"{self.low:g} to {self.high:g}"


GATES: dict[str, Gate] = {
    "volume_variance_ratio": Gate(0.9, 1.1, "the volumes of the samples vary too little or too much"),
    "probability_rmse": Gate(0.0, 0.05, "the voxel probabilities are wrong"),
    "ged_u": Gate(float("-inf"), 0.01, "the distribution of masks is wrong"),
    "chimera_share": Gate(0.0, 0.02, "samples contain parts of objects that are either whole or absent"),
    "coverage": Gate(0.86, 0.94, "the 90 % volume intervals from 8 samples do not cover 90 %"),
}


def check(scores: Mapping[str, float]) -> list[str]:
    """One sentence for each score outside its gate (NaN included); empty if all given scores pass.

    Not every task has every score. Raises ValueError for a score without a gate.
    """
    unknown = sorted(set(scores) - set(GATES))
    if unknown:
        raise ValueError(f"There is no gate for {', '.join(unknown)}; choose from {', '.join(GATES)}.")
    return [
        f"{name} is {scores[name]:.4g}, required {gate.bounds}: {gate.meaning}."
        for name, gate in GATES.items()
        if name in scores and not gate.low <= scores[name] <= gate.high
    ]
