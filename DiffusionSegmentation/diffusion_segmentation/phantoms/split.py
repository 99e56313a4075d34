"""A task of two inputs of which neither alone tells anything."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from .boundary import Boundary, BoundaryCase

NOISE = 1.0  # standard deviation; the image has values of about 0 to 1.3


@dataclass(frozen=True)
class Split(Boundary):
    """`boundary` whose image is the sum of two inputs: half of it plus white noise, and half of it minus that noise.

    The noise is independent of image and labels, so the distribution given both inputs is that given their sum, and
    exact. Detects models that do not use an input.
    """

    name: ClassVar[str] = "split"
    inputs: ClassVar[tuple[str, ...]] = ("First", "Second")

    def draw(self, rng: np.random.Generator) -> BoundaryCase:
        case = super().draw(rng)
        noise = rng.normal(0, NOISE, case.image.shape)
        return replace(case, image=np.stack([case.image / 2 + noise, case.image / 2 - noise]).astype(np.float32))
