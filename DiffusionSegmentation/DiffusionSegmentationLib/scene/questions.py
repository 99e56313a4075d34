"""Questions about a result: a measurement of one or two structures, optionally compared with a number."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from diffusion_segmentation.measurements.table import MEASUREMENTS, Measurement, fitting

from ..i18n import tr as _
from .units import Unit

ALL = "all"
"""In place of a structure: all of them together."""
NO_BREAK = "\u00a0"
"""Space between a number and its unit, where no line ends."""


@dataclass(frozen=True)
class Question:
    """One question.

    measurement: key of the engine's table of measurements. structures: one or two ids of structures, or ALL.
    comparison: ">" or "<" for a statement; "" to ask for the value, and for what is true or false.
    threshold: what the value is compared with, in the unit of the measurement.
    """

    measurement: str
    structures: tuple[str, ...]
    comparison: str = ""
    threshold: float = 0.0

    def text(self) -> str:
        """The question as the worker reads it; the unit of the measurement is understood."""
        text = f"{self.measurement}({', '.join(self.structures)})"
        return f"{text} {self.comparison} {self.threshold:.12g}" if self.comparison else text

    def facts(self) -> dict[str, Any]:
        """What is stored with the answer."""
        facts = asdict(self) | {"structures": list(self.structures)}
        return facts if self.comparison else {key: facts[key] for key in ("measurement", "structures")}


KEYS = tuple(field.name for field in fields(Question))
"""What may be stored with an answer, see `Question.facts`."""


def available(report: Mapping[str, Any]) -> dict[str, Measurement]:
    """The measurements that a result can have, by name."""
    return fitting(Unit.of(report).isArea)


def unitOf(name: str, report: Mapping[str, Any]) -> str:
    """The unit of a measurement of a result, such as "mm2"; empty for none."""
    unit = Unit.of(report)
    return MEASUREMENTS[name].unit(unit.suffix, unit.isArea)


def unitText(unit: str) -> str:
    return {"mm2": "mm²"}.get(unit, unit)


def titles() -> dict[str, str]:
    """Titles of all measurements by name."""
    return {
        "volume": _("Volume"),
        "area": _("Area"),
        "diameter": _("Largest diameter"),
        "surface": _("Surface area"),
        "perimeter": _("Perimeter"),
        "distance": _("Smallest distance, A to B"),
        "centroid_distance": _("Distance of centres, A to B"),
        "ratio": _("Ratio of sizes, A to B"),
        "width_ratio": _("Ratio of widths, A to B"),
        "asymmetry": _("Left-right asymmetry"),
        "pieces": _("Number of pieces"),
        "exists": _("Is present"),
        "one_piece": _("Is in one piece"),
    }


def _forms() -> dict[str, str]:
    return {
        "volume": _("Volume of {a}"),
        "area": _("Area of {a}"),
        "diameter": _("Largest diameter of {a}"),
        "surface": _("Surface area of {a}"),
        "perimeter": _("Perimeter of {a}"),
        "distance": _("Smallest distance between {a} and {b}"),
        "centroid_distance": _("Distance between the centres of {a} and {b}"),
        "ratio": _("Size of {a} over that of {b}"),
        "width_ratio": _("Width of {a} over that of {b}"),
        "asymmetry": _("Left-right asymmetry of {a}"),
        "pieces": _("Number of pieces of {a}"),
        "exists": _("{a} is present"),
        "one_piece": _("{a} is in one piece"),
    }


def words(answer: Mapping[str, Any], report: Mapping[str, Any]) -> str:
    """The question of an answer in words; as it was asked where it was not asked in Slicer."""
    form = _forms().get(answer.get("measurement", ""))
    if form is None:
        return answer["question"]
    names = {entry["id"]: entry["name"] for entry in report["volumes"]} | {ALL: _("all structures")}
    chosen = [names.get(structure, structure) for structure in answer["structures"]]
    text = form.format(**dict(zip("ab", chosen, strict=False)))
    if form.startswith("{a}"):
        text = text[:1].upper() + text[1:]
    if "comparison" in answer:
        parts = answer["comparison"], f"{answer['threshold']:.12g}", unitText(answer["unit"])
        text = f"{text} {NO_BREAK.join(filter(None, parts))}"
    return text
