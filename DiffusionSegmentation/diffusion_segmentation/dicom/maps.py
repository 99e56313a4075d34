"""Arrays of a result that its DICOM objects contain."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Maps:
    """The maps of a result on the grid of the input.

    Attributes:
        labels: uint8 [k, j, i].
        bits: entropy, float32 [k, j, i].
        quantised: class probabilities of a box of the grid, each uint8 [kb, jb, ib], background first; 255 is 1.
        start: index (i, j, k) of the first voxel of the box.
    """

    labels: np.ndarray
    bits: np.ndarray
    quantised: Sequence[np.ndarray]
    start: tuple[int, int, int]
