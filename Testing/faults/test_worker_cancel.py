"""Runs are cancelled at many moments: the worker answers soon, and nothing remains but what was to be kept."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import after_preview, after_stage, broken_files
from worker_bench import Bench, Slicer

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads processes as Linux shows them")

ANSWER_SECONDS = 1.0
ENDLESS = 100_000
"""Samples; a run that only cancel ends."""
PAIRS = 20


@pytest.fixture(scope="module")
def slicer(bench: Bench) -> Iterator[Slicer]:
    """One worker for all runs that are only cancelled."""
    slicer = bench.slicer()
    slicer.until_hello()
    yield slicer
    slicer.stop()


def files_in(*folders: Path) -> list[str]:
    return sorted(path.name for folder in folders for path in folder.rglob("*") if path.is_file())


@pytest.mark.slow
def test_twenty_started_and_cancelled_runs_leave_nothing(bench: Bench, slicer: Slicer) -> None:
    slicer.finish(slicer.run(samples=1, steps=2))  # so that what is opened once is open
    for folder in bench.jobs.iterdir():
        shutil.rmtree(folder)
    chance = random.Random(0)
    descriptors = Path("/proc") / str(slicer.pid) / "fd"
    before = len(os.listdir(descriptors)), files_in(bench.temporary)
    seconds = []
    for _ in range(PAIRS):
        run = slicer.run(samples=ENDLESS)
        time.sleep(chance.uniform(0, 0.3))
        kind, answered = slicer.cancel(run)
        assert kind == "cancelled"
        seconds.append(answered)
        shutil.rmtree(run["folder"])
    assert max(seconds) < ANSWER_SECONDS, seconds
    # The next run is not held up by them, and comes to its end.
    last = slicer.run(samples=1, steps=2)
    assert slicer.finish(last)["type"] == "done"
    shutil.rmtree(last["folder"])
    assert (len(os.listdir(descriptors)), files_in(bench.temporary)) == before
    assert files_in(bench.jobs) == []


@pytest.mark.parametrize("stage", ["reading", "model", "encoding", "sampling", "writing"])
def test_drop_is_acknowledged_soon_at_every_stage(slicer: Slicer, stage: str) -> None:
    run = slicer.run(samples=2)
    slicer.until(lambda: after_stage(stage)(slicer, run))
    kind, seconds = slicer.cancel(run)
    assert kind == "cancelled" or (stage == "writing" and kind == "done")  # it had ended when the cancel came
    assert seconds < ANSWER_SECONDS
    assert slicer.of(run["job"])[-1]["type"] == kind  # no more messages about it
    assert broken_files(Path(run["folder"])) == []


@pytest.mark.parametrize(
    ("stage", "expected"), [("reading", "cancelled"), ("encoding", "cancelled"), ("sampling", "partial")]
)
def test_keep_is_acknowledged_soon_and_keeps_finished_samples(slicer: Slicer, stage: str, expected: str) -> None:
    run = slicer.run(samples=ENDLESS)
    when = after_preview(1) if stage == "sampling" else after_stage(stage)
    slicer.until(lambda: when(slicer, run))
    kind, seconds = slicer.cancel(run, keep=True)
    assert (kind, seconds < ANSWER_SECONDS) == (expected, True)
    assert broken_files(Path(run["folder"])) == []


def test_keep_while_the_files_are_written_keeps_all(slicer: Slicer) -> None:
    run = slicer.run(samples=2)
    slicer.until(lambda: after_stage("writing")(slicer, run))
    kind, _ = slicer.cancel(run, keep=True)
    assert kind == "done" and slicer.of(run["job"], "done")[0]["report"]["samples"] == 2


@pytest.mark.slow
def test_cancel_during_the_import_of_torch_is_acknowledged_soon(bench: Bench) -> None:
    slicer = bench.slicer()
    try:
        for keep in (False, True):
            run = slicer.run()
            time.sleep(0.3)
            kind, seconds = slicer.cancel(run, keep)
            assert slicer.client.hello is None
            # The first answer waits for Python itself to start.
            assert kind == "cancelled" and (seconds < ANSWER_SECONDS or not keep)
        slicer.until_hello()
        assert slicer.finish(slicer.run(samples=1, steps=2))["type"] == "done"
    finally:
        slicer.stop()
