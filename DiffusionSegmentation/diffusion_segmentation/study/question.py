"""What a question of the study has to offer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from .context import Context, Probe
from .findings import Findings
from .tasks import Task
from .variants import Arm

Found = Mapping[tuple[str, int], Mapping[str, Any]]
"""What the probes have found, by task and seed."""


class Question(ABC):
    """One question: the arms that it needs trained, what it measures on each task, and what follows."""

    key: ClassVar[str]
    title: ClassVar[str]
    why: ClassVar[str]
    """What is asked, and of which claim, in a sentence or two."""

    def check(self, task: Task) -> None:
        """Raise InputError, one sentence, where the question cannot be asked of this task."""
        return

    @abstractmethod
    def arms(self, task: str, seed: int) -> tuple[Arm, ...]:
        """What has to be trained for a task and a seed."""

    @abstractmethod
    def probe(self, context: Context, task: str, seed: int) -> dict[str, Any]:
        """Measure, in a process of its own; what comes back must be JSON."""

    @abstractmethod
    def findings(self, context: Context, found: Found) -> Findings:
        """From all probes to what the report shows."""

    def detail(self) -> tuple[str, ...]:
        """What, besides the arms, changes what is measured."""
        return ()

    def probes(self, context: Context) -> Iterable[Probe]:
        return [Probe(self.key, task, seed, self.arms(task, seed), self.detail()) for task, seed in context.each()]
