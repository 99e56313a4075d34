"""Common labels of several masks: names take precedence over numbers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import InputError
from ..images.dataset import MAX_LABEL_LENGTH, MAX_LABELS
from ..images.input_names import is_valid_name, name_key
from ..images.label_file import IGNORED, Segment
from ..images.label_table import label_table

MAX_NAMED = 3  # labels or masks that a warning lists by name
IGNORED_TAKEN = (
    "The label 255 was taken for a structure; if it marks voxels that are to be ignored, write 0 or another label "
    "there."
)


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


def named_segments(segments: Mapping[int, Segment]) -> dict[int, Segment]:
    """The segments whose name says what they are: not "Segment_1". Names from a terminology do, though generated."""
    return {n: segment for n, segment in segments.items() if n and not re.fullmatch(r"Segment[_ ]\d+", segment.name)}


def common_labels(masks: Sequence[LabelSet], names: Sequence[str] | None = None) -> CommonLabels:
    """Labels common to `masks`, from 1.

    `names`, if given, are those of the numbers 1, 2, ...; a label that a mask names itself is matched to them by its
    name. Without `names`, masks that name all their labels are matched by name, whatever their numbers, and others by
    number. A label that a mask lacks is empty there, which becomes a warning.

    Raises InputError if no mask has a label, if there are too many labels, if a label has no entry in `names`, if only
    some masks have names, and if names or numbers are invalid or contradict each other.
    """
    if not any(mask.numbers for mask in masks):
        raise InputError("All masks are empty; give masks with labels.")
    for mask in masks:
        _check(mask)
    if names is not None:
        return _matched_to_names(masks, names)
    named = [mask.is_named and bool(mask.segments) for mask in masks]
    return _matched_by_name(masks, named) if any(named) else _matched_by_number(masks)


def _check(mask: LabelSet) -> None:
    if min(mask.numbers, default=1) < 1:
        raise InputError(f"{mask.name} has the label {min(mask.numbers)}; give labels numbers from 1 on.")
    seen: dict[str, str] = {}
    for number, segment in mask.segments.items():
        if not is_valid_name(segment.name, MAX_LABEL_LENGTH):
            raise InputError(
                f"{mask.name} has a label {number} whose name is longer than {MAX_LABEL_LENGTH} characters or not "
                "printable; rename it."
            )
        if _key(segment) in seen:
            raise InputError(
                f"{mask.name} has two labels, '{seen[_key(segment)]}' and '{segment.name}', whose names differ at most "
                "in capitals and punctuation; rename or join them."
            )
        seen[_key(segment)] = segment.name


def _matched_by_name(masks: Sequence[LabelSet], named: Sequence[bool]) -> CommonLabels:
    for mask, is_named in zip(masks, named, strict=True):
        if not is_named and mask.numbers:
            other = masks[named.index(True)].name
            raise InputError(
                f"{other} names its labels and {_lower(mask.name)} does not; save both as Slicer segmentations, or "
                "give the names of the numbers with --labels."
            )
    segments: dict[str, Segment] = {}
    for mask in masks:
        for segment in mask.segments.values():
            segments.setdefault(_key(segment), segment)
    table = _table([segment.name for segment in segments.values()])
    for entry, segment in zip(table, segments.values(), strict=True):
        entry |= _appearance(segment)
    labels = {key: label for label, key in enumerate(segments, 1)}
    numbers = [{number: labels[_key(segment)] for number, segment in mask.segments.items()} for mask in masks]
    return CommonLabels(table, numbers, [*_missing(table, numbers), *_matches(masks, table, numbers)])


def _matched_to_names(masks: Sequence[LabelSet], names: Sequence[str]) -> CommonLabels:
    labels = {name_key(name) or name: label for label, name in enumerate(names, 1)}
    numbers: list[dict[int, int]] = []
    for mask in masks:
        own = {n: labels[_key(segment)] for n, segment in mask.segments.items() if _key(segment) in labels}
        for number in sorted(mask.numbers - set(own)):
            if number in mask.segments:
                name = mask.segments[number].name
                raise InputError(f"{mask.name} has the label '{name}', which is not in the list of labels; fix one.")
            if number > len(names):
                ignored = ", or, if it marks voxels that are to be ignored, write 0 there" if number == IGNORED else ""
                raise InputError(
                    f"{mask.name} has the label {number}, which has no name in the list of labels; add it{ignored}."
                )
        if not mask.is_named and any(number != label for number, label in own.items()):
            raise InputError(
                f"{mask.name} names only some of its labels, and they have other numbers in the list of labels; name "
                "all of them."
            )
        numbers.append({number: number for number in mask.numbers} | own)
    table = _table(names)
    return CommonLabels(table, numbers, [*_missing(table, numbers), *_matches(masks, table, numbers)])


def _matched_by_number(masks: Sequence[LabelSet]) -> CommonLabels:
    """Match by number; names that some labels have must not contradict it."""
    segments: dict[int, Segment] = {}
    for mask in masks:
        for number, segment in mask.segments.items():
            same = {_key(other): n for n, other in segments.items()}
            known = segments.setdefault(number, segment)
            if _key(known) != _key(segment) or same.get(_key(segment), number) != number:
                raise InputError(
                    f"The masks name only some of their labels, and {_lower(mask.name)} gives '{segment.name}' another "
                    "number than another mask; name all labels."
                )
    occurring = sorted(set().union(*(mask.numbers for mask in masks)))
    table = _table([segments[n].name if n in segments else f"Label {n}" for n in occurring])
    labels = {number: label for label, number in enumerate(occurring, 1)}
    numbers = [{number: labels[number] for number in mask.numbers} for mask in masks]
    warnings = (
        [IGNORED_TAKEN] if IGNORED in occurring and IGNORED - 1 not in occurring and IGNORED not in segments else []
    )
    return CommonLabels(table, numbers, [*_missing(table, numbers), *warnings])


def _matches(
    masks: Sequence[LabelSet], table: Sequence[Mapping[str, Any]], numbers: Sequence[Mapping[int, int]]
) -> list[str]:
    """Warnings about numbers, and about names, that differ between masks and were taken for one label."""
    used: dict[int, set[int]] = {}
    names = {entry["label"]: {_plain(entry["name"]): entry["name"]} for entry in table}
    for mask, labels in zip(masks, numbers, strict=True):
        for number, label in labels.items():
            used.setdefault(label, set()).add(number)
            if number in mask.segments:
                names[label].setdefault(_plain(mask.segments[number].name), mask.segments[number].name)
    warnings = []
    if any(len(different) > 1 for different in used.values()):
        warnings.append("The masks number their labels differently and were matched by name.")
    for different in names.values():
        if len(different) > 1:
            quoted = " and ".join(f"'{name}'" for name in different.values())
            warnings.append(f"The names {quoted} were taken for one label.")
    return warnings


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
        if key == "TerminologyEntry" and value.count("~") == 6 and value.isprintable():
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


def _key(segment: Segment) -> str:
    return name_key(segment.name) or segment.name


def _plain(name: str) -> str:
    """A name without capitals, with composed accents: what differs after that may be another structure."""
    return unicodedata.normalize("NFC", name).casefold()


def _lower(name: str) -> str:
    return name[0].lower() + name[1:]
