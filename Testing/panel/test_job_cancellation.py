"""Cancelled and stopped runs with a fake worker: state, partial results, and workers that do not react."""

import time

import pytest
import slicer
import slicer.util
from runner_bench import resultNodes

from DiffusionSegmentationLib.runs import runner, status_texts
from DiffusionSegmentationLib.runs.runner import Choices


def test_cancelling_is_immediate_and_leaves_nothing(makeBench, addHead):
    bench = makeBench("good", "0.5")
    bench.runner.submit(addHead(), Choices(samples=5))
    bench.until(lambda: bench.runner.job.secondsLeft is not None)
    started = time.monotonic()
    bench.runner.cancel()
    assert time.monotonic() - started < 0.5
    assert bench.runner.job.state == "cancelled" and not bench.runner.busy
    assert resultNodes() == [] and bench.leftovers() == []
    again = bench.runner.submit(addHead(), Choices(samples=1))  # by the same worker, after its acknowledgement
    assert bench.finish() is again and again.state == "done"


def test_cancelling_before_the_worker_has_started(makeBench, addHead):
    bench = makeBench("good")
    bench.runner.submit(addHead(), Choices())
    bench.runner.cancel()
    assert bench.runner.job.state == "cancelled" and bench.leftovers() == []
    bench.until(lambda: bench.runner.client.hello)
    assert not any(line.startswith("run ") for line in bench.runner.client.log)


def test_stop_and_keep_gives_the_samples_so_far(makeBench, addHead):
    bench = makeBench("good", "0.2")
    job = bench.runner.submit(addHead(), Choices(samples=20))
    bench.until(lambda: job.finishedSamples == 2)
    bench.runner.cancel(keep=True)
    assert job.active
    bench.finish()
    assert job.state == "partial" and job.message.startswith("Stopped after 2 of 20 samples")
    assert job.result.segmentationNode.GetScene() is slicer.mrmlScene


def test_samples_between_two_previews_count_too(makeBench, addHead):
    bench = makeBench("good", "0.2")
    job = bench.runner.submit(addHead(), Choices(samples=20))
    bench.until(lambda: job.finishedSamples == 3)  # the previews have 2 and 4 samples
    bench.runner.cancel(keep=True)
    bench.finish()
    assert job.state == "partial" and job.report["samples"] == 3


@pytest.mark.parametrize(
    ("source", "requested", "sentence"),
    [
        ("samples", 8, "Stopped after 3 of 8 samples; the result uses these."),
        ("samples", "auto", "Stopped after 3 samples; the result uses these."),
        (
            "both",
            8,
            "Stopped after 3 of 8 samples; the result uses these and the model's direct class probabilities.",
        ),
        ("direct", 8, "Stopped after 3 of 8 samples; only the volume intervals use these."),
        ("exact", "auto", "Stopped after 3 samples; only the volume intervals use these."),
    ],
)
def test_the_message_of_a_stopped_run_names_what_uses_its_samples(source, requested, sentence):
    report = {"samples": 3, "requested_samples": requested, "partial": True, "map_source": source}
    assert status_texts.doneText(report, 12.3) == sentence


def test_a_worker_that_ignores_cancel_is_killed(makeBench, addHead, monkeypatch):
    monkeypatch.setattr(runner, "CANCEL_SECONDS", 0.2)
    bench = makeBench("deaf")
    bench.runner.submit(addHead(), Choices())
    bench.until(lambda: any(line.startswith("child") for line in bench.runner.client.log))
    bench.runner.cancel()
    again = bench.runner.submit(slicer.util.getNode("Head"), Choices(samples=1, seed=1))  # waits for a new worker
    assert bench.finish() is again and again.state == "done"
    assert sum(line.startswith("run ") for line in bench.runner.client.log) == 2


def test_a_worker_that_acknowledges_cancel_and_hangs_is_killed(makeBench, addHead, monkeypatch):
    monkeypatch.setattr(runner, "CANCEL_SECONDS", 0.5)
    bench = makeBench("hangs")
    job = bench.runner.submit(addHead(), Choices())
    bench.until(lambda: job.state == "running")
    bench.runner.cancel()
    again = bench.runner.submit(slicer.util.getNode("Head"), Choices(samples=1, seed=1))
    assert bench.finish() is again and again.state == "done"
    assert sum(line.startswith("run ") for line in bench.runner.client.log) == 2


@pytest.mark.slow
def test_a_worker_that_cannot_be_killed_is_abandoned(makeBench, addHead, monkeypatch):
    monkeypatch.setattr(runner, "CANCEL_SECONDS", 0.3)
    bench = makeBench("hangs")
    monkeypatch.setattr(bench.runner.client, "kill", lambda: None)  # as for a process that is blocked in a driver
    job = bench.runner.submit(addHead(), Choices())
    bench.until(lambda: job.state == "running")
    bench.runner.cancel()
    again = bench.runner.submit(slicer.util.getNode("Head"), Choices(samples=1, seed=1))
    assert bench.finish() is again and again.state == "done"


@pytest.mark.slow
def test_files_that_a_cancelled_run_writes_late_are_removed(makeBench, addHead):
    bench = makeBench("writes-late")
    job = bench.runner.submit(addHead(), Choices())
    bench.until(lambda: job.state == "running")
    bench.runner.cancel()
    bench.until(lambda: bench.leftovers() == [])
    bench.until(lambda: bench.leftovers() != [])  # after the folder was removed
    bench.until(lambda: bench.leftovers() == [])


@pytest.mark.slow
@pytest.mark.parametrize("cancelled", [False, True])
def test_the_run_after_a_lost_gpu_waits_for_another_worker(makeBench, addHead, cancelled):
    bench = makeBench("lost")
    lost = bench.runner.submit(addHead(), Choices())
    if cancelled:  # while it hangs
        bench.until(lambda: lost.state == "running")
        bench.runner.cancel()
    bench.finish()
    assert (lost.state, lost.tryDevice) == (("cancelled", None) if cancelled else ("failed", "cpu"))
    again = bench.runner.submit(
        slicer.util.getNode("Head"), Choices(samples=1, seed=1)
    )  # while the worker is still ending
    assert bench.finish() is again and again.state == "done" and bench.runner.workerProblem is None
    assert sum(line.startswith("run ") for line in bench.runner.client.log) == 2
