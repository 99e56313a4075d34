"""The worker or its parent dies, or runs are cancelled, at many moments: no results are lost, no processes remain."""

from __future__ import annotations

import os
import random
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest
from harness import BOUNDARIES, after_preview, after_seconds, after_stage, broken_files
from worker_bench import SAMPLES, Bench, Slicer

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
@pytest.mark.parametrize("moment", ["stage sampling", "preview of 2", "masks half written"])
def test_a_death_at_a_boundary_loses_nothing_and_leaves_no_process(bench: Bench, moment: str) -> None:
    row = harness.death(bench, moment, BOUNDARIES[moment])
    assert (row.lost, row.left) == ([], []), row


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["preview of 4", "masks half written"])
def test_a_death_with_little_memory_loses_nothing_and_leaves_no_process(bench: Bench, moment: str) -> None:
    row = harness.death(bench, moment, BOUNDARIES[moment], limited=True)
    assert (row.lost, row.left) == ([], []), row


@pytest.mark.slow
def test_a_run_with_little_memory_reports_it_and_completes(bench: Bench) -> None:
    slicer = bench.slicer(limited=True)
    try:
        slicer.until_hello()
        run = slicer.run()
        done = slicer.finish(run)
    finally:
        slicer.stop()
    assert done["type"] == "done" and done["report"]["samples"] == SAMPLES
    fewer, smaller = (sentence for sentence in done["report"]["warnings"] if "memory" in sentence)
    assert "fewer samples are drawn at a time" in fewer and "uses smaller windows" in smaller
    assert {m.get("note") for m in slicer.of(run["job"], "progress")} >= {fewer, smaller}
    shutil.rmtree(run["folder"])


@pytest.mark.slow
@pytest.mark.parametrize("kill", harness.KILLS)
def test_a_death_at_any_moment_loses_nothing_and_leaves_no_process(bench: Bench, kill: str) -> None:
    at = random.Random(kill).uniform(0, 2)
    row = harness.death(bench, f"{at:.2f} s", after_seconds(at), kill, whole_run_first=kill == "os._exit")
    assert (row.lost, row.left) == ([], []), row


@pytest.mark.slow
@pytest.mark.parametrize("case", [harness.ORPHANS[0], harness.ORPHANS[3]], ids=["import", "sampling"])
def test_the_worker_ends_with_its_parent(bench: Bench, case: tuple[str, str, float]) -> None:
    row = harness.orphans(bench, *case)
    assert (row.lost, row.left) == ([], []), row


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
