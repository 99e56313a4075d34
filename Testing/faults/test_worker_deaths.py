"""The worker or its parent dies at many moments: no results are lost, no processes remain."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import harness
import pytest
from harness import BOUNDARIES, after_seconds
from worker_bench import SAMPLES, Bench

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads processes as Linux shows them")


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
