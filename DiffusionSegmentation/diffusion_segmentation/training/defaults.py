"""What a model's metadata say where neither a configuration nor the data say it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

BUNDLE: dict[str, Any] = {
    "schema": "https://github.com/Project-MONAI/MONAI-extra-test-data/releases/download/0.8.1/meta_schema_20240725.json",
    "version": "0.1.0",
    "changelog": {"0.1.0": "First training"},
    "required_packages_version": {"safetensors": ">=0.4"},
    "authors": "not stated",
    "copyright": "not stated",
    "intended_use": "Research. Not for clinical use.",
}
# Told apart in colour blindness too: Okabe and Ito's palette without black and yellow.
_COLORS = (
    (0.90, 0.62, 0.0),
    (0.34, 0.71, 0.91),
    (0.0, 0.62, 0.45),
    (0.80, 0.47, 0.65),
    (0.0, 0.45, 0.70),
    (0.84, 0.37, 0.0),
)
_TISSUE = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^85756007^Tissue~SCT^85756007^Tissue~^^~"
    "Anatomic codes - DICOM master list~^^~^^"
)


def labels(names: Sequence[str]) -> list[dict[str, Any]]:
    """The table of labels for classes of which only the names are known: labels 1, 2, ... in their order."""
    return [
        {
            "label": number,
            "id": identifier,
            "name": name,
            "color": list(_COLORS[(number - 1) % len(_COLORS)]),
            "terminology": _TISSUE,
        }
        for number, (name, identifier) in enumerate(zip(names, _identifiers(names), strict=True), 1)
    ]


def _identifiers(names: Sequence[str]) -> list[str]:
    """One for each name, all different: of "Left +" and "Left -" the second has its number."""
    found: list[str] = []
    for number, name in enumerate(names, 1):
        identifier = "_".join("".join(c if c.isalnum() else " " for c in name.lower()).split())
        found.append(identifier or f"class_{number}")
        while found[-1] in found[:-1]:
            found[-1] += f"_{number}"
    return found
