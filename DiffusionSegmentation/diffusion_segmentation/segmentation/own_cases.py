"""Calibration on labelled cases of one's own, stored in a model: temperature of the map, factors of the intervals.

`calibration.own_cases` fits them. The entry `own_cases` of our section of the metadata:

    {"data": {"kind", "name"}, "cases": [names], "samples": n, "steps": n, "temperature": t,
     "structures": [{"label", "cases", "factor50", "factor90", "floor50", "floor90", "held50", "held90"}, ...]}

Factors and floors are those of `metrics.conformal`. `held` counts the cases whose true volume lies in their interval
with the factor of the other half of the cases. Only `label` and `cases`, those in which a sample has the structure, are
there if they are too few for factors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..metrics.conformal import Scaling
from ..metrics.intervals import predictive_interval
from ..networks import InputDistance

LEVELS = (50, 90)
UPDATED = "these samples were drawn given corrections"
SHOWN_STRUCTURES = 3
"""Number of structures up to which a sentence names each."""


@dataclass(frozen=True)
class OwnCases:
    """The calibration of a model on labelled cases, or that of a model without one."""

    entry: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, section: Mapping[str, Any]) -> OwnCases:
        """That of a model, by our section of its metadata."""
        return cls(section.get("own_cases"))

    @property
    def temperature(self) -> float:
        """Temperature of the map; 1 leaves it as it is."""
        return 1.0 if self.entry is None else float(self.entry["temperature"])

    @property
    def has_all_factors(self) -> bool:
        """Whether there are factors for the intervals of every structure."""
        return self.entry is not None and all("factor90" in row for row in self.entry["structures"])

    def factors(self, label: int, samples: np.ndarray) -> Mapping[str, Any]:
        """Entry of a structure with its factors; empty without them, or if none of the samples [n] has the structure.

        The factors were fitted to cases in which a sample has it.
        """
        rows = () if self.entry is None or not np.any(samples) else self.entry["structures"]
        return next((row for row in rows if row["label"] == label and "factor90" in row), {})

    def interval(self, label: int, samples: np.ndarray, level: int) -> tuple[float, float] | None:
        """Interval of `level` % of a structure from its sample volumes [n]; None for fewer than two samples."""
        if structure := self.factors(label, samples):
            return Scaling(level / 100, structure[f"factor{level}"], structure[f"floor{level}"]).interval(samples)
        return predictive_interval(samples, level / 100)

    def volume_entries(self, label: int, samples: np.ndarray, checked: bool) -> dict[str, Any]:
        """Entries of a structure in report.json: the factors, and if they are `checked` how often intervals held."""
        structure = self.factors(label, samples)
        if not structure:
            return {}
        factors = {
            f"interval{level}_{key}": float(structure[f"{key}{level}"])
            for level in LEVELS
            for key in ("factor", "floor")
        }
        held = {f"held{level}": structure[f"held{level}"] for level in LEVELS}
        return factors | ({**held, "held_of": structure["cases"]} if checked else {})

    def report(
        self, names: Sequence[str], samples: int, steps: int, distance: InputDistance | None, updated: bool = False
    ) -> dict[str, Any]:
        """The entry `own_cases` of the report of a run: what is calibrated, and a sentence on the check.

        `checked` is whether the check holds for this run: its samples were drawn as those of the cases, and the scan is
        not unlike them. `names` are those of the classes, background first; `updated` is whether the samples were drawn
        given corrections, which those of the cases were not.
        """
        entry = self.entry
        if entry is None:
            return {}
        known = {"data": entry["data"]["name"], "cases": len(entry["cases"]), "temperature": self.temperature}
        rows = [row for row in entry["structures"] if "factor90" in row]
        on = f"{known['cases']} labelled cases of {known['data']}"
        if not rows:
            sentence = f"The map was calibrated on {on}; they were too few with samples of a structure for intervals."
            return {"own_cases": {**known, "checked": False, "sentence": sentence}}
        reason = UPDATED if updated else self._differs(samples, steps, distance)
        if reason:
            sentence = f"The intervals were calibrated on {on}, but their check does not hold here: {reason}."
        else:
            sentence = f"Checked on {on}: 90 % intervals held in {_held(rows, known['cases'], names)}."
            if distance is None:
                sentence += " The model has no input statistics, so it is assumed that this scan is like those cases."
        return {"own_cases": {**known, "checked": not reason, "sentence": sentence}}

    def _differs(self, samples: int, steps: int, distance: InputDistance | None) -> str:
        """Why the check does not hold for a run, as a part of a sentence; empty if it does."""
        assert self.entry is not None
        if distance is not None and distance.unlike:
            return "the scan is unlike those cases"
        for what, here, there in (("samples", samples, self.entry["samples"]), ("steps", steps, self.entry["steps"])):
            if here != there:
                return f"this run has {here} {what} and the check had {there}"
        return ""


def _held(rows: Sequence[Mapping[str, Any]], cases: int, names: Sequence[str]) -> str:
    """In how many of their cases the intervals of the structures held, as text."""
    if len(rows) == 1 and rows[0]["cases"] == cases:
        return str(rows[0]["held90"])
    if len(rows) <= SHOWN_STRUCTURES:
        return ", ".join(f"{row['held90']} of {row['cases']} ({names[row['label']]})" for row in rows)
    shares = [100 * row["held90"] / row["cases"] for row in rows]
    return f"{min(shares):.0f} to {max(shares):.0f} % of them, depending on the structure"


def tempered(p: np.ndarray, temperature: float) -> np.ndarray:
    """Class probabilities [C, ...] whose logits are divided by `temperature`."""
    if temperature == 1:
        return p
    powers = p ** np.float32(1 / temperature)
    powers /= powers.sum(0)
    return powers
