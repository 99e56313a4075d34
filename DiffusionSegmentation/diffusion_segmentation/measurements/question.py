"""Questions about a segmentation, such as `volume(ventricles)` or `distance(tumour, vessel) < 5 mm`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import InputError
from .functions import FUNCTIONS
from .label_map import ALL, LabelMap
from .table import Measurement, fitting

COMPARISONS: dict[str, Callable[[Any, Any], Any]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_FORM = re.compile(r"\s*(\w+)\s*\(([^()]*)\)\s*(?:(>=|<=|>|<)\s*([-+]?[0-9.]+(?:[eE][-+]?[0-9]+)?)\s*(\S*))?\s*")
UNITS: dict[str, dict[str, float]] = {
    "ml": {"ml": 1.0, "cm3": 1.0, "mm3": 1e-3},
    "mm2": {"mm2": 1.0, "cm2": 100.0},
    "mm": {"mm": 1.0, "cm": 10.0},
    "px": {"px": 1.0},
    "%": {"%": 1.0},
    "": {"": 1.0},
}
"""For the unit of a measurement: what a question may give, and its size in that unit."""


@dataclass(frozen=True)
class Question:
    """A measurement of structures and, for a statement, what it is compared with.

    Attributes:
        text: as it was asked.
        name: of the measurement.
        labels: labels of each structure, or ALL.
        unit: of the measurement's value.
        comparison: key of COMPARISONS; "" for a question that asks for the number.
        threshold: in `unit`.
    """

    text: str
    name: str
    measurement: Measurement
    labels: tuple[tuple[int, ...], ...]
    unit: str
    comparison: str = ""
    threshold: float = 0.0

    @property
    def is_statement(self) -> bool:
        return bool(self.comparison) or self.measurement.is_truth

    def value(self, image: LabelMap) -> float:
        """The measurement of a label map; NaN where a structure that it needs is absent."""
        return FUNCTIONS[self.name](image, *self.labels)

    def holds(self, values: np.ndarray) -> np.ndarray:
        """Whether (bool) a statement is true for the values of its measurement; it is false for NaN."""
        if not self.comparison:
            return np.asarray(values) == 1
        return np.asarray(COMPARISONS[self.comparison](np.asarray(values), self.threshold)) & ~np.isnan(values)


def parse(text: str, labels: Sequence[dict[str, Any]], size_unit: str, picture: bool) -> Question:
    """The question of `text` about a result with the table of `labels`, whose sizes are in `size_unit` (ml, mm2, px).

    Raises InputError, one sentence, for a name, number of structures or unit that does not fit.
    """
    match = _FORM.fullmatch(text)
    if match is None:
        raise InputError(f"'{text}' is not a question; ask for example 'volume({labels[0]['id']}) > 40'.")
    name, arguments, comparison, number, unit = match.groups(default="")
    known = fitting(picture)
    measurement = known.get(name.lower())
    if measurement is None:
        of = "pictures" if picture else "volumes"
        raise InputError(f"'{name}' is not a measurement of {of}; known are {', '.join(known)}.")
    structures = [part.strip() for part in arguments.split(",")]
    if len(structures) != measurement.structures:
        wanted = "one structure" if measurement.structures == 1 else "two structures"
        raise InputError(f"'{text}' must name {wanted}, as in '{_example(name, measurement, labels)}'.")
    chosen = tuple(_labels(structure, labels) for structure in structures)
    own = measurement.unit(size_unit, picture)
    if comparison and measurement.is_truth:
        raise InputError(f"'{name}' is true or false, so '{text}' cannot compare it; leave the comparison out.")
    try:
        threshold = float(number or 0)
    except ValueError:
        raise InputError(f"'{number}' in '{text}' is not a number.") from None
    units = UNITS[own]
    if unit and unit not in units:
        allowed = " or ".join(units) if own else "no unit"
        raise InputError(f"'{name}' is not measured in '{unit}'; give {allowed}.")
    return Question(text.strip(), name.lower(), measurement, chosen, own, comparison, threshold * units.get(unit, 1.0))


def _labels(structure: str, labels: Sequence[dict[str, Any]]) -> tuple[int, ...]:
    """Labels of a structure by identifier or name, or ALL. Raises InputError."""
    wanted = structure.strip("'\"").casefold()
    if wanted == "all":
        return (ALL,)
    exact = [entry for entry in labels if entry["id"] == structure]
    for key in ("id", "name"):  # a name can be the identifier of another structure
        for entry in [*exact, *labels]:
            if wanted == entry[key].casefold():
                return (entry["label"],)
    names = ", ".join(entry["id"] for entry in labels)
    raise InputError(f"The result has no structure '{structure}'; it has {names}, or all of them together as 'all'.")


def _example(name: str, measurement: Measurement, labels: Sequence[dict[str, Any]]) -> str:
    ids = [entry["id"] for entry in labels] + ["all"]
    return f"{name}({', '.join(ids[: measurement.structures])})"
