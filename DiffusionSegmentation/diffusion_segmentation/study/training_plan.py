"""Where and for how long the networks of a study are trained, as the first run of its command has decided.

Networks can be trained on a computer with a GPU, and measured on another one to which the folder was copied.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from ..images.writing import write_report


@dataclass(frozen=True)
class TrainingPlan:
    """Training of the networks of one command."""

    minutes: float  # of each network
    device: str
    machine: str  # for the report


def kept_plan(cache: Path, command: str, decide: Callable[[], TrainingPlan]) -> TrainingPlan:
    """The plan with which `command` was begun in this cache, or the one that `decide` returns, which is then kept.

    With another number of processes the same budget would give each network another time, so that all of them would
    have to be trained again.
    """
    path = cache / "training.json"
    try:
        stored = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        stored = {}
    try:
        return TrainingPlan(**stored[command])
    except (KeyError, TypeError):
        plan = decide()
        cache.mkdir(parents=True, exist_ok=True)
        write_report(path, {**stored, command: asdict(plan)})
        return plan
