"""Table of labels: number, identifier, name, colour and terminology of each structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

COLORS = (
    (0.90, 0.62, 0.0),
    (0.34, 0.71, 0.91),
    (0.0, 0.62, 0.45),
    (0.80, 0.47, 0.65),
    (0.0, 0.45, 0.70),
    (0.84, 0.37, 0.0),
)
"""Okabe and Ito's palette for colour-blind readers, without black and yellow."""
TISSUE = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^85756007^Tissue~SCT^85756007^Tissue~^^~"
    "Anatomic codes - DICOM master list~^^~^^"
)


def label_table(names: Sequence[str]) -> list[dict[str, Any]]:
    """Table of labels 1, 2, ... for classes of which only the names are known."""
    common = {"terminology": TISSUE}
    return [
        {"label": n, "id": identifier, "name": name, "color": list(COLORS[(n - 1) % len(COLORS)]), **common}
        for n, (name, identifier) in enumerate(zip(names, _identifiers(names), strict=True), 1)
    ]


def _identifiers(names: Sequence[str]) -> list[str]:
    """A unique identifier for each name; duplicates, as of "Left +" and "Left -", get their number as a suffix."""
    unique: list[str] = []
    for number, name in enumerate(names, 1):
        words = "".join(c if c.isalnum() else " " for c in name.lower()).split()
        identifier = "_".join(words) or f"class_{number}"
        while identifier in unique:
            identifier += f"_{number}"
        unique.append(identifier)
    return unique
