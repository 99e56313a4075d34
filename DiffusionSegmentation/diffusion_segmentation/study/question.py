"""The interface of a question of the study."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from ..errors import InputError
from .context import Context, Measurement
from .summary import Summary
from .tasks import Task
from .variants import Variant

Results = Mapping[tuple[str, int], Mapping[str, Any]]  # what `Question.measure` returned, by task name and seed


class Question(ABC):
    """One question: the variants to train, what to measure on each task, and what the report shows."""

    key: ClassVar[str]
    title: ClassVar[str]
    why: ClassVar[str]  # what is compared and which claim it tests, in two or three sentences

    halves_windows: ClassVar[bool] = False  # whether networks see windows of half a task's edge

    def check(self, task: Task) -> None:
        """Raise InputError, one sentence, if the question does not apply to this task."""
        if self.halves_windows and any(n % 16 for n in task.shape):
            shape = "x".join(map(str, task.shape))
            raise InputError(
                f"{self.key} uses windows of half the edge, so edges must be multiples of 16; '{task.name}' has "
                f"{shape}."
            )

    def variants(self, name: str, seed: int) -> tuple[Variant, ...]:
        """The variants to train for the task `name` and a seed; by default the diffusion model."""
        return (Variant(name, seed),)

    @abstractmethod
    def measure(self, context: Context, name: str, seed: int) -> dict[str, Any]:
        """Measure on the task `name`, in a process of the pool. The result must be JSON."""

    @abstractmethod
    def summarise(self, context: Context, results: Results) -> Summary:
        """The report's part on this question."""

    def shares(self, task: Task) -> int:
        """Into how many shares of the cases `measure` is divided, to run in parallel and to keep what is finished.

        Their "records" are joined; everything else in the result is that of the first share.
        """
        return 1

    def detail(self) -> tuple[str, ...]:
        """Settings other than the variants that change what is measured."""
        return ()

    def measurements(self, context: Context) -> list[Measurement]:
        """One measurement for every task and seed."""
        return [
            Measurement(self.key, task, seed, self.variants(task, seed), self.detail())
            for task in context.tasks
            for seed in context.seeds
        ]
