"""Which worker does which case, with workers that only pretend: losses, memory, failures, and full disks."""

from __future__ import annotations

import random
from collections import Counter, deque
from pathlib import Path

import pytest

from diffusion_segmentation.cohort.cases import Case
from diffusion_segmentation.cohort.dispatch import DiskFull, Dispatcher, Event
from diffusion_segmentation.cohort.engine import Failure, Prepared
from diffusion_segmentation.cohort.index import Entry
from diffusion_segmentation.cohort.progress import progress_text
from diffusion_segmentation.errors import DiffusionSegmentationError


class Workers:
    """Workers whose runs end in the order of a random generator; `outcome` decides how each ends.

    `most` is the largest sum of the memory of cases that ran on one machine at once.
    """

    def __init__(self, workers=4, machines=1, needs=lambda case: 1, free=100, outcome=lambda case, run: None):
        self.workers, self.machines, self.needs, self.free, self.outcome = workers, machines, needs, free, outcome
        self.random = random.Random(0)
        self.events = deque(Event(n, "started", self.machine(n)) for n in range(workers))
        self.running: dict[int, Case] = {}
        self.beside: dict[str, int] = {}  # cases that ran beside a case when it began
        self.runs: Counter[str] = Counter()
        self.results: Counter[str] = Counter()  # atomic renames of each key, of which all but the first do nothing
        self.restarts = self.most = 0

    def machine(self, worker):
        return f"node{worker % self.machines}"

    def prepare(self, worker, case):
        done = bool(self.results[case.name])
        prepared = Prepared(case.name, done, self.needs(case), self.free)
        self.events.append(Event(worker, "prepared", prepared))

    def run(self, worker, case, key):
        assert worker not in self.running and key == case.name
        self.beside[case.name] = sum(self.machine(n) == self.machine(worker) for n in self.running)
        self.running[worker] = case
        self.runs[case.name] += 1
        for machine in {self.machine(n) for n in self.running}:
            here = [self.needs(one) for n, one in self.running.items() if self.machine(n) == machine]
            self.most = max(self.most, sum(need for need in here if need is not None))

    def restart(self, worker):
        self.restarts += 1
        self.events.append(Event(worker, "started", self.machine(worker)))

    def wait(self, seconds):
        if self.events:
            return [self.events.popleft()]
        worker = self.random.choice(sorted(self.running))
        case = self.running.pop(worker)
        outcome = self.outcome(case, self.runs[case.name])
        if outcome == "died after its rename":
            self.results[case.name] = 1
        if isinstance(outcome, str):
            return [Event(worker, "died")]
        if outcome is None:
            self.results[case.name] = 1
        return [Event(worker, "failed" if outcome else "finished", outcome)]


def entries(count, model=lambda n: "m"):
    return [Entry(Case(str(n), (Path(str(n)),), model(n))) for n in range(count)]


def dispatched(cases, pool, **options):
    made = Dispatcher(cases, pool, **options)
    made.run()
    return made


def test_all_cases_are_done_once():
    cases, pool, seen = entries(50), Workers(), []
    made = dispatched(cases, pool, ended=seen.append)
    assert {entry.state for entry in cases} == {"done"} and all(entry.key == entry.case.name for entry in cases)
    assert made.computed == 50 and len(seen) == 50 and set(pool.runs.values()) == {1}


def test_cases_of_lost_workers_are_given_to_others():
    rng = random.Random(1)
    words = ["died", "died after its rename"]
    pool = Workers(outcome=lambda case, run: rng.choice(words) if rng.random() < 0.1 else None)
    cases = entries(200)
    made = dispatched(cases, pool)
    assert {entry.state for entry in cases} == {"done"}
    assert pool.restarts > 10 and len(pool.results) == 200
    assert made.computed < 200  # those that died after their rename were found done


def test_a_case_that_always_loses_its_worker_fails_and_stops_nobody():
    pool = Workers(outcome=lambda case, run: "died" if case.name == "3" else None)
    cases = entries(10)
    dispatched(cases, pool)
    assert [entry.state for entry in cases] == ["done"] * 3 + ["failed"] + ["done"] * 6
    assert "worker ended four times" in cases[3].error and pool.runs["3"] == 4 and pool.beside["3"] == 0


def test_a_failed_case_has_its_sentence_and_is_not_repeated():
    pool = Workers(outcome=lambda case, run: Failure("geometry", "Too small.") if case.name == "3" else None)
    cases = entries(10)
    dispatched(cases, pool)
    assert (cases[3].state, cases[3].error, pool.runs["3"]) == ("failed", "Too small.", 1)
    assert Counter(entry.state for entry in cases) == {"done": 9, "failed": 1}


def test_exhausted_memory_is_tried_again_alone():
    pool = Workers(outcome=lambda case, run: Failure("memory", "Full.") if case.name in "45" and run == 1 else None)
    cases = entries(10)
    dispatched(cases, pool)
    assert {entry.state for entry in cases} == {"done"}
    assert pool.runs["4"] == pool.runs["5"] == 2 and pool.beside["4"] == pool.beside["5"] == 0


def test_exhausted_memory_of_a_case_alone_is_a_failure():
    pool = Workers(outcome=lambda case, run: Failure("memory", "Full.") if case.name == "4" else None)
    cases = entries(10)
    dispatched(cases, pool)
    assert (cases[4].state, cases[4].error, pool.runs["4"]) == ("failed", "Full.", 2)


def test_a_lost_graphics_card_restarts_its_worker():
    pool = Workers(outcome=lambda case, run: Failure("device", "Gone.") if case.name == "4" and run < 3 else None)
    cases = entries(10)
    dispatched(cases, pool)
    assert {entry.state for entry in cases} == {"done"} and pool.restarts == 2


@pytest.mark.parametrize("machines", [1, 2])
def test_the_memory_of_a_machine_is_not_exceeded(machines):
    rng = random.Random(2)
    needs = {str(n): rng.choice([10, 30, 60, 95]) for n in range(60)}
    pool = Workers(6, machines, needs=lambda case: needs[case.name])
    cases = entries(60)
    dispatched(cases, pool)
    assert {entry.state for entry in cases} == {"done"} and 60 < pool.most <= 100


def test_a_case_larger_than_the_memory_runs_alone():
    pool = Workers(needs=lambda case: 500 if case.name == "7" else 1)
    cases = entries(20)
    dispatched(cases, pool)
    assert {entry.state for entry in cases} == {"done"} and pool.beside["7"] == 0 and max(pool.beside.values()) == 3


def test_cases_of_unknown_memory_share_a_machine_equally():
    pool = Workers(needs=lambda case: None)
    dispatched(entries(20), pool)
    assert max(pool.beside.values()) == 3


def test_cases_of_one_model_follow_each_other():
    order = []
    pool = Workers(1, outcome=lambda case, run: order.append(case.model))
    dispatched(entries(10, model=lambda n: "ab"[n % 2]), pool)
    assert order == ["a"] * 5 + ["b"] * 5


def test_a_full_disk_leaves_the_rest():
    pool = Workers(outcome=lambda case, run: Failure("disk", "The disk is full.") if case.name == "5" else None)
    cases = entries(100)
    with pytest.raises(DiskFull, match="The disk is full"):
        dispatched(cases, pool)
    states = Counter(entry.state for entry in cases)
    assert states["failed"] == 0 and states["left"] > 85 and cases[5].state == "left"
    assert not pool.running  # cases that ran have ended


def test_a_case_that_is_prepared_when_the_disk_is_full_does_not_run():
    class Late(Workers):
        late = None

        def prepare(self, worker, case):
            super().prepare(worker, case)
            if worker == 1:
                self.late = self.events.pop()

        def wait(self, seconds):
            return super().wait(seconds) if self.events or self.running else [self.late]

    cases, pool = entries(2), Late(2, outcome=lambda case, run: Failure("disk", "Full."))
    with pytest.raises(DiskFull):
        dispatched(cases, pool)
    assert dict(pool.runs) == {"0": 1} and [entry.state for entry in cases] == ["left", "left"]


def test_a_result_of_other_files_is_not_taken_for_done():
    case, full = Entry(Case("1", (Path("1"),), "m"), "old", "done"), Failure("disk", "Full.")
    with pytest.raises(DiskFull):
        dispatched([case], Workers(outcome=lambda case, run: full))
    assert (case.state, case.key) == ("left", "1")


def test_workers_that_cannot_start_are_given_up():
    class Broken(Workers):
        def __init__(self, *broken):
            super().__init__(2)
            self.broken = broken
            self.events = deque(self.start(n) for n in range(2))

        def start(self, worker):
            broken = worker in self.broken
            return Event(worker, "failed" if broken else "started", Failure("input", "No torch.") if broken else "node")

        def restart(self, worker):
            self.events.append(self.start(worker))

    cases = entries(5)
    dispatched(cases, Broken(1))
    assert {entry.state for entry in cases} == {"done"}
    with pytest.raises(DiffusionSegmentationError, match="No worker could be started: No torch."):
        dispatched(entries(5), Broken(0, 1))


def test_progress_has_rate_and_time_left():
    cases = entries(10)
    assert progress_text(cases, 0, 0) == "0 done, 0 failed, 10 left"
    for entry in cases[:4]:
        entry.state = "done"
    cases[4].state = "failed"
    assert progress_text(cases, 2, 60) == "4 done, 1 failed, 5 left; 2 cases a minute, 2 min left"
    assert progress_text(cases, 1, 3600).endswith("0.0167 cases a minute, 5 h 00 min left")
    assert progress_text(cases, 5, 10).endswith("30 cases a minute, 10 s left")
