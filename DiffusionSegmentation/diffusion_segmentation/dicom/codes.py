"""Coded concepts of results: those of the labels' terminology, and private ones where DICOM has none."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from highdicom.coding_schemes import CodingSchemeIdentificationItem
from highdicom.sr import CodedConcept
from pydicom.sr.codedict import codes

PRIVATE = "99DIFFSEG"
"""Designator of our coding scheme, for labels without a code and for what DICOM has no code for."""

ENTROPY = CodedConcept("ENTROPY", PRIVATE, "Entropy of the class probabilities")
BIT = CodedConcept("bit", "UCUM", "bit")
INTERVAL90 = CodedConcept("INTERVAL90", PRIVATE, "Uncertainty: 90 % predictive interval of the samples")

PROCEDURES = {
    "CT": CodedConcept("25045-6", "LN", "CT unspecified body region"),
    "MR": CodedConcept("25056-3", "LN", "MRI unspecified body region"),
    "PT": CodedConcept("44136-0", "LN", "PET unspecified body region"),
}
GENERIC = "85756007"  # SNOMED CT's Tissue, which stands for a type that is not known


def coding_schemes() -> list[CodingSchemeIdentificationItem]:
    """Identification of our coding scheme."""
    return [CodingSchemeIdentificationItem(PRIVATE, "DiffusionSegmentation", responsible_organization="3D Slicer")]


@dataclass(frozen=True)
class LabelCodes:
    """What a label is: category and type with their modifier, and the region in which it lies."""

    category: CodedConcept
    type: CodedConcept
    modifier: CodedConcept | None = None
    region: CodedConcept | None = None
    region_modifier: CodedConcept | None = None


def label_codes(entry: Mapping[str, Any]) -> LabelCodes:
    """The codes of an entry of a table of labels, from its `terminology` (Slicer's serialised entry).

    Without a type, or with the generic one, the type is a private code: the first 12 digits of the SHA-256 of the
    label's name in lower case.
    """
    fields = [*str(entry["terminology"]).split("~"), *[""] * 7][:7]
    category, kind, modifier, region, region_modifier = (_concept(fields[n]) for n in (1, 2, 3, 5, 6))
    if category is None or kind is None or kind.value == GENERIC:
        digest = hashlib.sha256(entry["name"].lower().encode()).hexdigest()
        category, modifier = category or CodedConcept.from_code(codes.SCT.Tissue), None
        kind = CodedConcept(digest[:12].upper(), PRIVATE, entry["name"][:64])
    return LabelCodes(category, kind, modifier, region, region_modifier)


def _concept(text: str) -> CodedConcept | None:
    """The concept of SCHEME^VALUE^MEANING; None if it is not one that DICOM can state."""
    scheme, _, rest = text.partition("^")
    value, _, meaning = rest.partition("^")
    if not (0 < len(scheme) <= 16 and 0 < len(value) <= 16 and meaning):
        return None
    return CodedConcept(value, scheme, meaning[:64])
