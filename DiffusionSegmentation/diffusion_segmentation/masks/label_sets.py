"""Common labels of several masks: names take precedence over numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..images.dataset import MAX_LABELS, name_key
from ..images.label_file import Segment
from ..images.label_table import label_table

MAX_NAMED = 3  # labels or masks that a warning lists by name


@dataclass(frozen=True)
class LabelSet:
    """Labels of one mask: numbers that occur in it, without 0, and named segments by number.

    `name` is what messages call the mask.
    """

    name: str
    numbers: frozenset[int]
    segments: Mapping[int, Segment]

    @property
    def is_named(self) -> bool:
        """Whether every label that occurs has a name."""
        return self.numbers <= set(self.segments)


@dataclass(frozen=True)
class CommonLabels:
    """Table of common labels, the common label of each number of each mask, and warnings."""

    table: list[dict[str, Any]]
    numbers: list[dict[int, int]]
    warnings: list[str]


def common_labels(masks: Sequence[LabelSet], names: Sequence[str] | None = None) -> CommonLabels:
    """Labels common to `masks`, from 1.

    Masks that name all their labels are matched by name, whatever their numbers; others by number, and `names`, if
    given, are those of the numbers 1, 2, ... A label that a mask lacks is empty there, which becomes a warning.

    Raises InputError if no mask has a label, if there are too many labels, if a number has no name in `names`, or if
    only some masks have names.
    """
    if not any(mask.numbers for mask in masks):
        raise InputError("All masks are empty; give masks with labels.")
    named = [mask.is_named and bool(mask.segments) for mask in masks]
    if any(named) and names is None:
        return _matched_by_name(masks, named)
    return _matched_by_number(masks, names)


def _matched_by_name(masks: Sequence[LabelSet], named: Sequence[bool]) -> CommonLabels:
    for mask, is_named in zip(masks, named, strict=True):
        if not is_named and mask.numbers:
            other = masks[named.index(True)].name
            raise InputError(
                f"{other} names its labels and {_lower(mask.name)} does not; save both as Slicer segmentations, or "
                "give the names of the numbers with --labels."
            )
    segments: dict[str, Segment] = {}
    numbers_of_name: dict[str, set[int]] = {}
    for mask in masks:
        for number, segment in mask.segments.items():
            key = name_key(segment.name) or segment.name
            segments.setdefault(key, segment)
            numbers_of_name.setdefault(key, set()).add(number)
    table = _table([segment.name for segment in segments.values()])
    for entry, segment in zip(table, segments.values(), strict=True):
        entry |= _appearance(segment)
    labels = {key: label for label, key in enumerate(segments, 1)}
    numbers = [
        {number: labels[name_key(segment.name) or segment.name] for number, segment in mask.segments.items()}
        for mask in masks
    ]
    warnings = _missing(table, numbers)
    if any(len(different) > 1 for different in numbers_of_name.values()):
        warnings.append("The masks number their labels differently and were matched by name.")
    return CommonLabels(table, numbers, warnings)


def _matched_by_number(masks: Sequence[LabelSet], names: Sequence[str] | None) -> CommonLabels:
    occurring = sorted(set().union(*(mask.numbers for mask in masks)))
    if names is None:
        table = _table([f"Label {number}" for number in occurring])
        labels = {number: label for label, number in enumerate(occurring, 1)}
    else:
        if occurring[0] < 1 or occurring[-1] > len(names):
            unknown = next(number for number in occurring if not 1 <= number <= len(names))
            raise InputError(f"A mask has the label {unknown}, which has no name in the list of labels; add it.")
        table = _table(names)
        labels = {number: number for number in range(1, len(names) + 1)}
    numbers = [{number: labels[number] for number in mask.numbers} for mask in masks]
    return CommonLabels(table, numbers, _missing(table, numbers))


def _table(names: Sequence[str]) -> list[dict[str, Any]]:
    if len(names) >= MAX_LABELS:
        raise InputError(f"The masks have {len(names)} labels and at most {MAX_LABELS - 1} can be shown; merge some.")
    return label_table(names)


def _appearance(segment: Segment) -> dict[str, Any]:
    """Colour and terminology of a segment, as far as its file states them."""
    entry: dict[str, Any] = {}
    try:
        color = [float(part) for part in segment.color.split()]
    except ValueError:
        color = []
    if len(color) == 3 and all(0 <= part <= 1 for part in color):
        entry["color"] = color
    for tag in segment.tags.split("|"):
        key, _, value = tag.partition(":")
        if key == "TerminologyEntry" and value.count("~") == 6:
            entry["terminology"] = value
    return entry


def _missing(table: Sequence[Mapping[str, Any]], numbers: Sequence[Mapping[int, int]]) -> list[str]:
    """A warning about labels that some masks lack."""
    shares = []
    for entry in table:
        count = sum(entry["label"] in labels.values() for labels in numbers)
        if 0 < count < len(numbers):
            shares.append(f"'{entry['name']}' (in {count} of {len(numbers)})")
    if not shares:
        return []
    text = ", ".join(shares[:MAX_NAMED]) + f" and {len(shares) - MAX_NAMED} more" * (len(shares) > MAX_NAMED)
    return [f"Not every mask has the labels {text}; where a mask lacks a label, the label was taken to be empty."]


def _lower(name: str) -> str:
    return name[0].lower() + name[1:]
