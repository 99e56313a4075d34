"""The workers as actors of Ray, one for each slot of a machine."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from .. import __version__
from .cases import Case
from .dispatch import Event
from .engine import Failure, Prepared, failure, silence
from .places import Place


class Engine(Protocol):
    """What a worker runs; see `engine.SegmentationEngine`."""

    def start(self, threads: int) -> None: ...
    def prepare(self, case: Case) -> Prepared: ...
    def run(self, case: Case, key: str) -> None: ...
    def forget(self) -> None: ...


class _Slot:
    """The process of a worker. Nothing is raised: Ray would log it."""

    def __init__(self, engine: Engine, threads: int, version: str) -> None:
        self._engine, self._threads, self._version = engine, threads, version

    def start(self) -> str | Failure:
        """Start the engine; returns the node of Ray that this process is on."""
        if self._version != __version__:
            return Failure("input", f"A machine has version {__version__}, not {self._version}; install one on all.")
        silence()
        try:
            self._engine.start(self._threads)
        except Exception as error:
            return failure(error)
        return ray.get_runtime_context().get_node_id()

    def prepare(self, case: Case) -> Prepared | Failure:
        try:
            return self._engine.prepare(case)
        except Exception as error:
            problem = failure(error)
        self._forget(problem)
        return problem

    def run(self, case: Case, key: str) -> Failure | None:
        try:
            self._engine.run(case, key)
            return None
        except Exception as error:
            problem = failure(error)
        self._forget(problem)  # outside the handler, whose traceback refers to the arrays of the run
        return problem

    def _forget(self, problem: Failure) -> None:
        if problem.kind == "memory":
            self._engine.forget()


class RayPool:
    """The workers of `places`; see `dispatch.Pool`. Use it as a context, which ends them."""

    def __init__(self, engine: Engine, placed: Sequence[Place]) -> None:
        self._places, self._engine, self.workers = placed, engine, len(placed)
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, tuple[int, str]] = {}  # worker and kind of event, by the reference of the result
        for worker in range(self.workers):
            self._start(worker)

    def __enter__(self) -> RayPool:
        return self

    def __exit__(self, *exception: object) -> None:
        for actor in self._actors.values():
            ray.kill(actor)

    def _start(self, worker: int) -> None:
        place = self._places[worker]
        options = {
            "num_cpus": place.cores,
            "num_gpus": place.gpus,
            "max_restarts": 0,
            # Elsewhere if the node is gone, when a machine takes its place.
            "scheduling_strategy": NodeAffinitySchedulingStrategy(place.node, soft=True),
        }
        threads = max(1, int(place.cores))
        slot: Any = ray.remote(_Slot)
        actor = slot.options(**options).remote(self._engine, threads, __version__)
        self._actors[worker] = actor
        self._calls[actor.start.remote()] = worker, "started"

    def prepare(self, worker: int, case: Case) -> None:
        self._calls[self._actors[worker].prepare.remote(case)] = worker, "prepared"

    def run(self, worker: int, case: Case, key: str) -> None:
        self._calls[self._actors[worker].run.remote(case, key)] = worker, "finished"

    def restart(self, worker: int) -> None:
        """Start a worker anew; what its old process did is forgotten."""
        self._calls = {call: of for call, of in self._calls.items() if of[0] != worker}
        ray.kill(self._actors[worker])
        self._start(worker)

    def wait(self, seconds: float) -> list[Event]:
        """What ended within some seconds; returns with the first."""
        calls = list(self._calls)
        ray.wait(calls, timeout=seconds)
        ended, _ = ray.wait(calls, num_returns=len(calls), timeout=0)
        return [self._event(*self._calls.pop(call), call) for call in ended]

    @staticmethod
    def _event(worker: int, kind: Any, call: Any) -> Event:
        try:
            value = ray.get(call)
        except RayError:
            return Event(worker, "died")
        return Event(worker, "failed" if isinstance(value, Failure) else kind, value)
