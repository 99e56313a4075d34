"""On what and for how long the networks of a study are trained, as its first run has decided.

With another number of processes the same budget would give each network another time, and all would be trained again.
The plan also lets networks be trained on a computer with a GPU and measured on another one.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from ..errors import InputError
from ..images.writing import write_report


@dataclass(frozen=True)
class TrainingPlan:
    """Training of the networks of one study."""

    minutes: float  # of each network
    processor: str  # "cpu", or the name of the GPU
    machine: str  # for the report


def stored_plan(cache: Path, study: str) -> TrainingPlan | None:
    """The plan of the study with this key. Raises InputError if the file of plans is damaged."""
    path = cache / "training.json"
    if not path.exists():
        return None
    try:
        plans = json.loads(path.read_text(encoding="utf-8"))
        return TrainingPlan(**plans[study]) if study in plans else None
    except (ValueError, TypeError):
        raise InputError(
            f"'{path}', which says how the networks of this study are trained, is damaged; restore it, or choose "
            "another --output."
        ) from None


def store_plan(cache: Path, study: str, plan: TrainingPlan) -> None:
    """Store the plan beside those of other studies in the same folder."""
    path = cache / "training.json"
    stored = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    cache.mkdir(parents=True, exist_ok=True)
    write_report(path, {**stored, study: asdict(plan)})
