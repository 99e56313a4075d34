"""Units of the sizes in a report: ml for volumes; mm² or pixels for pictures, whose sizes are areas."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

_TEXTS = {"ml": "ml", "mm2": "mm²", "px": "px"}


@dataclass(frozen=True)
class Unit:
    """`suffix` ends the keys of sizes in a report: "ml", "mm2" or "px"."""

    suffix: str = "ml"

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> "Unit":
        """The unit of a report; those of version 0.4 and older state none and have ml."""
        return cls(report.get("unit", "ml"))

    @property
    def text(self) -> str:
        return _TEXTS[self.suffix]

    @property
    def isArea(self) -> bool:
        return self.suffix != "ml"

    def key(self, name: str) -> str:
        """The key of a size in a report: `expected` is "expected_ml"."""
        return f"{name}_{self.suffix}"

    def either(self, volume: str, area: str) -> str:
        """The text for sizes of this unit."""
        return area if self.isArea else volume

    def ofVoxels(self, count: int, spacingMm: tuple[float, float, float]) -> float:
        """The size of `count` voxels with a spacing along i, j and k."""
        i, j, k = spacingMm
        return count * (i * j if self.isArea else i * j * k / 1000)

    def textOf(self, size: float) -> str:
        """A size with its unit."""
        return f"{sizeText(size)} {self.text}"


def sizeText(size: float) -> str:
    """A size with about three digits: 1234, 51.3, 0.42."""
    return f"{size:.{0 if size >= 99.95 else 1 if size >= 9.995 else 2}f}"
