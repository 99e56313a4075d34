"""Units and words of the sizes of structures: volumes in ml, or in pictures areas in mm² or pixels."""

from __future__ import annotations

from dataclasses import dataclass

_WORDS = {"ml": ("ml", "volume", "voxel"), "mm2": ("mm²", "area", "pixel"), "px": ("px", "area", "pixel")}


@dataclass(frozen=True)
class Units:
    """`suffix` ends the keys of sizes in reports and scores: "ml", "mm2" or "px"."""

    suffix: str = "ml"

    @property
    def is_area(self) -> bool:
        return self.suffix != "ml"

    @property
    def symbol(self) -> str:
        return _WORDS[self.suffix][0]

    @property
    def what(self) -> str:
        """What a size is: "volume" or "area"."""
        return _WORDS[self.suffix][1]

    @property
    def cell(self) -> str:
        """What is counted: "voxel" or "pixel"."""
        return _WORDS[self.suffix][2]

    @property
    def length(self) -> str:
        """Unit of distances, which ends their keys: "mm" or "px"."""
        return "px" if self.suffix == "px" else "mm"

    def key(self, name: str) -> str:
        """The key of a size: `expected` is "expected_ml"."""
        return f"{name}_{self.suffix}"


VOLUMES = Units()
