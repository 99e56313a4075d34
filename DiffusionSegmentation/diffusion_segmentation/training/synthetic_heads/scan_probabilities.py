"""Probabilities of the properties that a synthetic scan may have."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ScanProbabilities:
    """Probability of each property of a scan; properties are independent."""

    any_contrast: float = 0.5  # of random contrast; the others are T1-like
    stripped: float = 0.15
    cut: float = 0.1  # a part beyond a plane is zeroed, in addition to the window's crop
    slices: float = 0.4  # thicker along one axis than in plane
    motion: float = 0.12
    ghosts: float = 0.08
    ringing: float = 0.1
    spikes: float = 0.04


TRAINING_SCANS = ScanProbabilities()
CLEAN_T1_SCANS = ScanProbabilities(any_contrast=0, stripped=0, cut=0, motion=0, ghosts=0, ringing=0, spikes=0)
"""Whole T1-like heads without artefacts."""
