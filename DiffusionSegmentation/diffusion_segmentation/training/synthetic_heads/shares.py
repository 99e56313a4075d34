"""How often a scan has what not every scan has."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shares:
    """Probability of each in a scan, independently."""

    any_contrast: float = 0.5
    """Of any contrast; the others are T1-like."""
    stripped: float = 0.15
    cut: float = 0.1
    """A part beyond a plane is zeroed; windows cut heads besides."""
    slices: float = 0.4
    """Thicker along one axis than in plane."""
    motion: float = 0.12
    ghosts: float = 0.08
    ringing: float = 0.1
    spikes: float = 0.04


USUAL = Shares()
"""What training sees."""
PLAIN = Shares(any_contrast=0, stripped=0, cut=0, motion=0, ghosts=0, ringing=0, spikes=0)
"""Whole T1-like heads without artefacts."""
