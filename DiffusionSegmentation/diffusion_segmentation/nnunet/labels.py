"""Labels of a training of nnU-Net, from its dataset.json: exclusive ones, or regions that contain each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..model.refusal import Refusal
from .plans import MALFORMED

OUT_OF_ORDER = "has labels other than 'background' 0 and names for 1, 2, ...; choose another model"


@dataclass(frozen=True)
class Labels:
    """Labels of a model.

    Attributes:
        names: of the labels 1, 2, ...
        regions: for regions, each of which contains the next one, the label of what each has more than the next one;
            None for exclusive labels. See `nnunet.regions`.
    """

    names: list[str]
    regions: list[int] | None = None


def read_labels(dataset: Mapping[str, Any]) -> Labels:
    """The labels of a dataset.json without the ignored one, which no voxel is predicted to have. Raises Refusal."""
    try:
        labels = {name: value for name, value in dataset["labels"].items() if name != "ignore"}
        # As in nnU-Net, one list of several labels makes regions of all.
        are_regions = any(isinstance(value, list) and len(value) > 1 for value in labels.values())
        if are_regions and labels.pop("background", None) != 0:
            raise Refusal(OUT_OF_ORDER)
        return _regions(labels, list(dataset["regions_class_order"])) if are_regions else _exclusive(labels)
    except MALFORMED:
        raise Refusal("has no list of labels in its dataset.json that can be used; copy its folder again") from None


def _exclusive(labels: Mapping[str, Any]) -> Labels:
    numbers = {value[0] if isinstance(value, list) else value: name for name, value in labels.items()}
    if not _are_counted(list(numbers), 0) or len(numbers) < max(2, len(labels)) or numbers[0] != "background":
        raise Refusal(OUT_OF_ORDER)
    return Labels([numbers[number] for number in range(1, len(numbers))])


def _regions(labels: Mapping[str, Any], order: list[int]) -> Labels:
    """Labels of regions, background excluded, and nnU-Net's order in which their masks overwrite each other."""
    regions = [frozenset(value if isinstance(value, list) else [value]) for value in labels.values()]
    if not all(larger > smaller for larger, smaller in pairwise(regions)):
        raise Refusal(
            "predicts overlapping regions of which each is not within the one before, so that they have no "
            "probabilities that sum to 1; choose another model"
        )
    if len(order) != len(regions) or not _are_counted(order, 1):
        raise Refusal(OUT_OF_ORDER)
    names = [f"{name} without {inner}" for name, inner in pairwise(labels)] + [list(labels)[-1]]
    named = dict(zip(order, names, strict=True))
    return Labels([named[number] for number in sorted(named)], order)


def _are_counted(numbers: list[Any], first: int) -> bool:
    """Whether numbers are `first`, `first` + 1, ... in any order."""
    return all(type(n) is int for n in numbers) and sorted(numbers) == list(range(first, first + len(numbers)))
