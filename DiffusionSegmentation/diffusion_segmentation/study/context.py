"""What all parts of a study share: its tasks, its time, and where things are kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..images.writing import write_report
from .fit import trained
from .tasks import Task
from .variants import Arm

SCHEMA = 2
"""Raised whenever a probe changes, so that what was measured before does not count."""


@dataclass(frozen=True)
class Context:
    """Goes to every process of a study, so it holds names and numbers only."""

    tasks: Mapping[str, Task]
    seeds: tuple[int, ...]
    minutes: float
    """Training time of an arm."""
    samples: int
    folder: Path
    device: str

    def network(self, arm: Arm) -> torch.nn.Module:
        """The arm's network, trained if it is not yet."""
        return trained(arm, self.tasks[arm.task], self.minutes, self._arms(), self.device)

    def is_trained(self, arm: Arm) -> bool:
        return self._path(arm).exists()

    def facts(self, arm: Arm) -> dict[str, Any]:
        """Iterations, seconds and parameters of a trained arm."""
        return json.loads(self._path(arm).with_suffix(".json").read_text(encoding="utf-8"))

    def kept(self, probe: Probe) -> dict[str, Any] | None:
        """What a probe has found before, with the same arms; None where it has to be made."""
        try:
            entry = json.loads(self._probe(probe).read_text(encoding="utf-8"))
            return entry["found"] if entry["probe"] == self._said(probe) else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def keep(self, probe: Probe, found: Mapping[str, Any]) -> None:
        write_report(self._probe(probe), {"probe": self._said(probe), "found": found})

    def each(self) -> Iterator[tuple[str, int]]:
        """Every task with every seed."""
        return ((task, seed) for task in self.tasks for seed in self.seeds)

    def _arms(self) -> Path:
        folder = self.folder / "arms"
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def _path(self, arm: Arm) -> Path:
        task = self.tasks[arm.task]
        return self.folder / "arms" / f"{arm.key(task.content, self.minutes, self.device)}.safetensors"

    def _said(self, probe: Probe) -> dict[str, Any]:
        task = self.tasks[probe.task]
        return {
            "schema": SCHEMA,
            "question": probe.question,
            "detail": list(probe.detail),
            "task": task.content,
            "cases": len(task.cases),
            "samples": self.samples,
            "arms": [arm.key(task.content, self.minutes, self.device) for arm in probe.arms],
        }

    def _probe(self, probe: Probe) -> Path:
        said = json.dumps(self._said(probe), sort_keys=True)
        (self.folder / "probes").mkdir(parents=True, exist_ok=True)
        return self.folder / "probes" / f"{probe.question}-{hashlib.sha256(said.encode()).hexdigest()[:16]}.json"


@dataclass(frozen=True)
class Probe:
    """One measurement: of a question, on a task, with the arms of a seed."""

    question: str
    task: str
    seed: int
    arms: tuple[Arm, ...]
    detail: tuple[str, ...] = ()
    """What else changes what is measured."""
