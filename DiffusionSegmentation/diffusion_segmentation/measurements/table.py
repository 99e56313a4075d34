"""The measurements that a question can name, and their units. Standard library only: Slicer's process reads it, too."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Measurement:
    """A measurement of `structures` structures.

    `quantity` is size (ml; of pictures mm2 or px), area, length, share (%), count, number or truth (0 or 1). `picture`
    is whether it applies to pictures, to volumes, or (None) to both; `low` and `high` are the smallest and the largest
    possible value.
    """

    structures: int
    quantity: str
    formula: str
    picture: bool | None = None
    low: float = 0.0
    high: float = math.inf

    @property
    def is_truth(self) -> bool:
        """Whether it is true or false, and so a statement without a comparison."""
        return self.quantity == "truth"

    def unit(self, size_unit: str, picture: bool) -> str:
        """The unit of its value, "" for none, where sizes are in `size_unit` (ml, mm2 or px)."""
        if self.quantity == "size" or (self.quantity in ("area", "length") and picture and size_unit == "px"):
            return size_unit
        return {"area": "mm2", "length": "mm", "share": "%"}.get(self.quantity, "")


MEASUREMENTS: dict[str, Measurement] = {
    "volume": Measurement(1, "size", "voxels times the size of a voxel", picture=False),
    "area": Measurement(1, "size", "pixels times the size of a pixel", picture=True),
    "diameter": Measurement(1, "length", "largest distance between two centres of voxel faces"),
    "surface": Measurement(1, "area", "area of the mesh of marching cubes", picture=False),
    "perimeter": Measurement(1, "length", "length of the contours of marching squares", picture=True),
    "distance": Measurement(2, "length", "smallest distance between a voxel of A and one of B, by centres"),
    "centroid_distance": Measurement(2, "length", "distance between the centres of mass of A and B"),
    "ratio": Measurement(2, "number", "size of A over size of B"),
    "width_ratio": Measurement(
        2,
        "number",
        "left-right width of A over that of B; with labels of the frontal horns and the skull's inside Evans' index",
        picture=False,
    ),
    "asymmetry": Measurement(
        1,
        "share",
        "(left - right) / (left + right) of A's volume, on both sides of the sagittal plane through the centre of all "
        "structures",
        picture=False,
        low=-100.0,
        high=100.0,
    ),
    "pieces": Measurement(1, "count", "components of voxels that share a face, edge or corner"),
    "exists": Measurement(1, "truth", "at least one voxel"),
    "one_piece": Measurement(1, "truth", "exactly one component, as for pieces"),
}
"""Every measurement by its name in a question."""


def fitting(picture: bool) -> dict[str, Measurement]:
    """The measurements of pictures, or of volumes, by name."""
    return {name: one for name, one in MEASUREMENTS.items() if one.picture in (None, picture)}
