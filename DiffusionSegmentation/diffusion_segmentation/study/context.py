"""Tasks, training time and cache, shared by all parts of a study."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..images.writing import write_report
from .sampling import VariantSampler
from .tasks import FURTHER, Task
from .variants import Variant, json_digest

SCHEMA = 3  # raise whenever a measurement changes, so that cached results are measured again


@dataclass(frozen=True)
class Measurement:
    """One call of `Question.measure`."""

    question: str
    task: str
    seed: int
    variants: tuple[Variant, ...]
    detail: tuple[str, ...] = ()


@dataclass(frozen=True)
class Context:
    """Passed to every process of a study, so it holds names and numbers only."""

    tasks: Mapping[str, Task]
    seeds: tuple[int, ...]
    minutes: float  # training time of a variant
    samples: int
    folder: Path
    device: str
    trained_on: str  # `TrainingPlan.processor`, which is part of the cache key

    def network(self, variant: Variant) -> Any:
        """The variant's `fit.Network`, which is trained first if the cache has none."""
        # Imported here, because Lightning takes longer to import than PyTorch, and a study starts without training.
        from .fit import trained

        frozen = self.network(variant.frozen).cpu() if variant.frozen else None
        task, path = self.tasks[variant.task], self.weights(variant)
        return trained(variant, task, self.minutes, path, self.device, frozen)

    def sampler(self, variant: Variant) -> VariantSampler:
        return VariantSampler(self.network(variant), variant, self.tasks[variant.task])

    def with_share(self, task: str, share: tuple[int, int]) -> Context:
        """The context for a process that measures a share of the cases, see `Task.share`."""
        return replace(self, tasks={**self.tasks, task: replace(self.tasks[task], share=share)})

    def training_facts(self, variant: Variant) -> dict[str, Any]:
        """Iterations, seconds, parameters and operations of a trained variant."""
        return json.loads(self.weights(variant).with_suffix(".json").read_text(encoding="utf-8"))

    def load(self, measurement: Measurement) -> dict[str, Any]:
        """The cached result of a measurement of the same variants; empty if there is none."""
        try:
            entry = json.loads(self._file(measurement).read_text(encoding="utf-8"))
            return entry["found"] if entry["probe"] == self._identity(measurement) else {}
        except (OSError, ValueError, KeyError, TypeError):
            return {}

    def save(self, measurement: Measurement, result: Mapping[str, Any]) -> None:
        self._file(measurement).parent.mkdir(parents=True, exist_ok=True)
        write_report(self._file(measurement), {"probe": self._identity(measurement), "found": result})

    def _key(self, variant: Variant) -> str:
        task = self.tasks[variant.task]
        content = f"{task.content}, {FURTHER}" if variant.on and task.exact else task.content
        return variant.key(content, self.minutes, self.trained_on)

    def weights(self, variant: Variant) -> Path:
        """File of the weights of a variant, which exists once it is trained."""
        return self.folder / "arms" / f"{self._key(variant)}.safetensors"

    def _identity(self, measurement: Measurement) -> dict[str, Any]:
        task = self.tasks[measurement.task]
        return {
            "schema": SCHEMA,
            "question": measurement.question,
            "detail": list(measurement.detail),
            "task": task.content,
            "cases": len(task.cases),
            "samples": self.samples,
            "device": self.device,
            "arms": [self._key(variant) for variant in measurement.variants],
        }

    def _file(self, measurement: Measurement) -> Path:
        return self.folder / "probes" / f"{measurement.question}-{json_digest(self._identity(measurement))}.json"
