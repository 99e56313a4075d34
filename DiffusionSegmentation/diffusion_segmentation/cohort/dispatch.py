"""Which worker does which case: order, memory of each machine, retries. Knows nothing of Ray.

A worker first prepares a case, which tells its key and its memory. Then it waits until the cases that run on its
machine leave that much, in the order of preparation. A case that does not fit beside any other runs alone, planned as
by `segment`, so that no result depends on the number of workers.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..errors import DiffusionSegmentationError
from .cases import Case
from .engine import Failure, Prepared
from .index import Entry

MAX_DEATHS = 4
"""Workers that a case may lose. If one run in 20 loses its worker by chance, six of a million cases fail by it."""
ALONE_FROM = 2  # lost workers after which a case runs alone on its machine: the system may have ended them for memory
MAX_FAILED_STARTS = 3  # of a worker, one after the other, before the command does without it
POLL_SECONDS = 1.0
PATIENCE_SECONDS = 60.0  # without any worker, before a message says so

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Event:
    """What a worker reports, with its machine, a `Prepared`, nothing, or a `Failure` as `value`.

    "died" is the end of its process or machine.
    """

    worker: int
    kind: Literal["started", "prepared", "finished", "failed", "died"]
    value: Any = None


class Pool(Protocol):
    """Workers, numbered from 0. Each starts by itself and then does one thing at a time, which ends with an event."""

    workers: int

    def prepare(self, worker: int, case: Case) -> None: ...
    def run(self, worker: int, case: Case, key: str) -> None: ...
    def restart(self, worker: int) -> None: ...
    def wait(self, seconds: float) -> Iterable[Event]: ...


@dataclass
class _Job:
    entry: Entry
    deaths: int = 0
    alone: bool = False


@dataclass
class _Worker:
    number: int
    state: Literal["starting", "idle", "preparing", "waiting", "running", "given up"] = "starting"
    machine: str = ""
    job: _Job | None = None
    prepared: Prepared | None = None
    turn: int = 0  # rises with each preparation
    failed_starts: int = 0


class DiskFull(DiffusionSegmentationError):
    """The disk of the results is full, so that further cases would fail as well."""


class Dispatcher:
    """Runs cases on the workers of a pool; entries change their states as their cases end.

    `computed` is the number of cases that this command has segmented, `running` that of cases which run.
    """

    def __init__(
        self,
        entries: Iterable[Entry],
        pool: Pool,
        ended: Callable[[Entry], None] = lambda entry: None,
        tick: Callable[[], None] = lambda: None,
    ) -> None:
        """`ended` is called for each case that is done or failed, `tick` at least every POLL_SECONDS."""
        self._pool, self._ended, self._tick = pool, ended, tick
        by_model: dict[str, list[_Job]] = {}
        for entry in entries:
            by_model.setdefault(entry.case.model, []).append(_Job(entry))
        self._queue = deque(job for jobs in by_model.values() for job in jobs)  # so that workers keep their model
        self._workers = [_Worker(number) for number in range(pool.workers)]
        self._capacity: dict[str, int | None] = {}  # bytes that were free on each machine when nothing ran there
        self._turns = self.computed = 0
        self._with_worker = time.monotonic()  # when there was a worker last
        self._full = ""  # the sentence of a full disk

    @property
    def running(self) -> int:
        return sum(worker.state == "running" for worker in self._workers)

    def run(self) -> None:
        """Run until no case is left.

        Raises DiskFull, after the cases that run have ended, and DiffusionSegmentationError if no worker can start.
        """
        while self._queue or any(worker.job for worker in self._workers):
            self._assign()
            for event in self._pool.wait(POLL_SECONDS):
                self._handle(self._workers[event.worker], event)
            self._tick()
            self._check_workers()
        if self._full:
            raise DiskFull(self._full)

    def _assign(self) -> None:
        for worker in self._workers:
            if worker.state == "idle" and self._queue:
                worker.job, worker.state = self._queue.popleft(), "preparing"
                self._pool.prepare(worker.number, worker.job.entry.case)
        waiting = sorted((w for w in self._workers if w.state == "waiting"), key=lambda w: w.turn)
        blocked = set()  # machines on which an earlier case waits
        for worker in waiting:
            if worker.machine in blocked or not self._fits(worker):
                blocked.add(worker.machine)
                continue
            assert worker.job and worker.prepared
            worker.state = "running"
            self._pool.run(worker.number, worker.job.entry.case, worker.prepared.key)

    def _fits(self, worker: _Worker) -> bool:
        """Whether a waiting case can run beside those that run on its machine."""
        running = self._running_on(worker.machine)
        if not running:
            return True
        if any(one.job and one.job.alone for one in (worker, *running)):
            return False
        capacity = self._capacity.get(worker.machine)
        if capacity is None:
            return True
        on_machine = sum(one.machine == worker.machine for one in self._workers)
        needs = [one.prepared.needs if one.prepared else None for one in (worker, *running)]
        return sum(capacity // on_machine if n is None else n for n in needs) <= capacity

    def _running_on(self, machine: str) -> list[_Worker]:
        return [worker for worker in self._workers if worker.machine == machine and worker.state == "running"]

    def _handle(self, worker: _Worker, event: Event) -> None:
        if event.kind == "started":
            worker.state, worker.machine, worker.failed_starts = "idle", event.value, 0
        elif worker.job is None:
            self._start_again(worker, event)
        elif event.kind == "prepared":
            self._prepared(worker, event.value)
        elif event.kind == "finished":
            self.computed += 1
            self._end(worker, "done")
        elif event.kind == "died":
            self._lost(worker, "Its worker ended four times, as if the memory were exhausted; try it by itself.")
        else:
            self._failed(worker, event.value)

    def _start_again(self, worker: _Worker, event: Event) -> None:
        """Start a worker that died while it started or was idle, up to MAX_FAILED_STARTS times in a row."""
        worker.failed_starts += worker.state == "starting"
        worker.state, worker.machine = "starting", ""
        if worker.failed_starts < MAX_FAILED_STARTS:
            self._pool.restart(worker.number)
            return
        worker.state = "given up"
        sentence = event.value.sentence if event.kind == "failed" else "Its process ended while it started."
        if all(one.state == "given up" for one in self._workers):
            raise DiffusionSegmentationError(f"No worker could be started: {sentence}")
        logger.warning(f"A worker could not be started and is left out: {sentence}")

    def _prepared(self, worker: _Worker, prepared: Prepared) -> None:
        assert worker.job
        worker.job.entry.key, worker.prepared = prepared.key, prepared
        if prepared.done:
            self._end(worker, "done")
            return
        worker.job.entry.state = "left"  # an earlier result may have been that of other files
        if self._full:
            self._free(worker)
            return
        if not self._running_on(worker.machine):
            self._capacity[worker.machine] = prepared.available
        self._turns += 1
        worker.state, worker.turn = "waiting", self._turns

    def _failed(self, worker: _Worker, failure: Failure) -> None:
        """A case of a living worker failed: for good, or it is tried again alone or on another worker."""
        assert worker.job
        if failure.kind == "disk":
            self._full = failure.sentence
            self._drop_queue()
            self._free(worker)
        elif failure.kind == "memory" and not worker.job.alone:
            worker.job.alone = True
            self._try_again(worker.job)
            self._free(worker)
        elif failure.kind == "device":
            self._lost(worker, failure.sentence)
        else:
            self._end(worker, "failed", failure.sentence)

    def _lost(self, worker: _Worker, sentence: str) -> None:
        """A worker is lost while it has a case: another one gets the case, unless that lost too many."""
        job = worker.job
        assert job
        job.deaths += 1
        job.alone |= job.deaths >= ALONE_FROM
        if job.deaths >= MAX_DEATHS:
            self._end(worker, "failed", sentence)
        else:
            self._try_again(job)
        self._free(worker)
        worker.state, worker.machine = "starting", ""
        self._pool.restart(worker.number)

    def _try_again(self, job: _Job) -> None:
        if not self._full:
            self._queue.appendleft(job)

    def _end(self, worker: _Worker, state: Literal["done", "failed"], error: str | None = None) -> None:
        assert worker.job
        entry = worker.job.entry
        entry.state, entry.error = state, error
        self._free(worker)
        self._ended(entry)

    @staticmethod
    def _free(worker: _Worker) -> None:
        worker.state, worker.job, worker.prepared = "idle", None, None

    def _drop_queue(self) -> None:
        """Leave all cases that do not run yet."""
        self._queue.clear()
        for worker in self._workers:
            if worker.state == "waiting":
                self._free(worker)

    def _check_workers(self) -> None:
        """Say once in a while that there is no worker."""
        now = time.monotonic()
        if any(worker.state not in ("starting", "given up") for worker in self._workers):
            self._with_worker = now
        elif now - self._with_worker > PATIENCE_SECONDS:
            self._with_worker = now
            logger.warning("There is no worker; the cases wait until a machine with free cores is there.")
