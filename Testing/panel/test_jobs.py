"""Runs with the real client, a fake worker and the real scene: results, errors, changes of the scene meanwhile."""

import sys

import numpy as np
import pytest
import slicer
import slicer.util
from runner_bench import resultNodes

from DiffusionSegmentationLib.runs import runner, status_texts
from DiffusionSegmentationLib.runs.handover import HandoverError
from DiffusionSegmentationLib.runs.runner import Choices


def test_a_run_leaves_only_its_nodes(makeBench, addHead):
    bench = makeBench("good", "0.02")
    job = bench.runner.submit(addHead(), Choices(samples=3, seed=7))
    assert job.state == "queued" and bench.runner.busy
    bench.finish()
    assert job.state == "done", job.message
    assert job.message.startswith("Done: 3 samples")
    assert job.result.segmentationNode.GetName() == "Head segmentation"
    assert job.result.entropyNode.GetName() == "Head entropy"
    assert job.report["seed"] == 7
    states = [state for state, _message in bench.seen]
    assert states == sorted(states, key=["queued", "running", "done"].index)
    assert any(message == "Drawing sample 2 of 3" for _state, message in bench.seen)
    assert bench.leftovers() == []


def test_the_worker_is_reused_by_the_next_run(makeBench, addHead):
    bench = makeBench("good", "0.01")
    volumeNode = addHead()
    bench.runner.submit(volumeNode, Choices(samples=1))
    bench.finish()
    process = bench.runner.client._process
    bench.runner.submit(volumeNode, Choices(samples=1))
    bench.finish()
    assert bench.runner.client._process is process
    assert "Head samples" in resultNodes() and len(resultNodes()) == 8  # nothing was overwritten


def test_a_second_simultaneous_run_is_refused(makeBench, addHead):
    bench = makeBench("good", "0.1")
    volumeNode = addHead()
    bench.runner.submit(volumeNode, Choices(samples=1))
    with pytest.raises(RuntimeError):
        bench.runner.submit(volumeNode, Choices(samples=1))


@pytest.mark.parametrize(
    "choice",
    [
        {"steps": 0},
        {"steps": 1},
        {"steps": 2.5},
        {"samples": 0},
        {"samples": "many"},
        {"samples": True},
        {"seed": -1},
        {"seed": 2**63},
        {"model": ""},
        {"device": ""},
        {"regionMm": 3},
        {"regionMm": 101},
    ],
    ids=str,
)
def test_invalid_choices_are_refused(choice):
    with pytest.raises(HandoverError, match="^[A-Z].*\\.$"):
        Choices(**choice)


def test_an_exception_during_poll_ends_the_job(makeBench, addHead, monkeypatch):
    bench = makeBench("good")
    job = bench.runner.submit(addHead(), Choices(samples=1))
    monkeypatch.setattr(bench.runner.client, "send", lambda message: 1 / 0)
    bench.finish()
    assert job.state == "failed" and "ZeroDivisionError" in job.message
    assert bench.leftovers() == []
    monkeypatch.undo()
    # While it runs: the worker is told to stop, and the next run does not wait behind it.
    job = bench.runner.submit(slicer.util.getNode("Head"), Choices(samples=20))
    bench.until(lambda: job.finishedSamples > 0)
    monkeypatch.setattr(runner.status_texts, "progressText", lambda message: 1 / 0)
    bench.finish()
    monkeypatch.undo()
    assert job.state == "failed" and bench.runner._cancelled is job
    bench.until(lambda: bench.runner._cancelled is None)
    assert bench.leftovers() == []
    assert bench.runner.submit(slicer.util.getNode("Head"), Choices(samples=1)).active
    assert bench.finish().state == "done"


def test_the_request_names_the_file_of_the_volume(makeBench, addHead, tmp_path, monkeypatch):
    bench, sent = makeBench("good"), []
    send = bench.runner.client.send
    monkeypatch.setattr(bench.runner.client, "send", lambda message: (sent.append(message), send(message)))
    volumeNode = addHead()
    for path in (None, str(tmp_path / "saved.nrrd")):
        if path:
            storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
            storage.SetFileName(path)
            assert storage.WriteData(volumeNode)
            volumeNode.SetAndObserveStorageNodeID(storage.GetID())
        bench.runner.submit(volumeNode, Choices(samples=1))
        bench.finish()
        assert [message["source"] for message in sent if message["type"] == "run"][-1] == path


def test_an_unusable_volume_starts_nothing(makeBench):
    bench = makeBench("good")
    with pytest.raises(HandoverError, match="Select the volume"):
        bench.runner.submit(None, Choices())
    assert not bench.runner.client.running and bench.leftovers() == []


def test_a_full_disk_is_one_sentence(makeBench, addHead, monkeypatch):
    def full(**options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner.tempfile, "mkdtemp", full)
    with pytest.raises(HandoverError, match="disk is full"):
        makeBench("good").runner.submit(addHead(), Choices())


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("crash", "ended unexpectedly (exit code 134)"),
        ("no-start", "No module named 'torch'"),
        ("no-engine", "The Python package 'monai' is missing; install it and try again."),
        ("foreign", "uses protocol 99"),
        ("memory", "The memory did not suffice."),
    ],
)
def test_errors_are_one_sentence_and_leave_nothing(makeBench, addHead, behaviour, words):
    bench = makeBench(behaviour)
    job = bench.runner.submit(addHead(), Choices())
    bench.finish()
    assert job.state == "failed" and words in job.message and job.message.endswith(".")
    assert resultNodes() == [] and bench.leftovers() == []


def test_low_memory_is_reported_during_the_run_and_another_device_is_offered(makeBench, addHead):
    bench = makeBench("short", "0.02")
    job = bench.runner.submit(addHead(), Choices(samples=2))
    bench.until(lambda: job.note)
    assert status_texts.statusText(job).endswith("so fewer samples are drawn at a time.")
    bench.finish()
    assert (job.state, job.tryDevice, job.message) == ("failed", "cpu", "The memory of 'cuda:0' did not suffice.")
    again = bench.runner.submit(slicer.util.getNode("Head"), Choices(samples=2, device=job.tryDevice))
    assert bench.finish() is again and (again.state, again.tryDevice) == ("done", None)


def test_a_volume_that_is_removed_meanwhile_keeps_the_result_on_disk(makeBench, addHead):
    bench = makeBench("good", "0.1")
    volumeNode = addHead()
    job = bench.runner.submit(volumeNode, Choices(samples=2))
    bench.until(lambda: job.finishedSamples == 1)
    slicer.mrmlScene.RemoveNode(volumeNode)
    bench.finish()
    assert job.state == "failed" and "'Head' is no longer in the scene" in job.message
    assert (job.folder / "segmentation.seg.nrrd").is_file()


def test_a_volume_that_is_edited_meanwhile_is_mentioned(makeBench, addHead):
    bench = makeBench("good", "0.1")
    volumeNode = addHead()
    job = bench.runner.submit(volumeNode, Choices(samples=2))
    bench.until(lambda: job.finishedSamples == 1)
    slicer.util.arrayFromVolume(volumeNode)[:] += 1
    slicer.util.arrayFromVolumeModified(volumeNode)
    bench.finish()
    assert job.state == "done" and "modified during the run" in job.message


def test_closing_the_scene_ends_the_run_also_in_the_middle_of_the_import(makeBench, addHead):
    closed = []

    def importSteps(volumeNode, folder, report):
        try:
            while True:
                yield None
        finally:
            closed.append(True)

    bench = makeBench("good", "0.01", importSteps=importSteps)
    job = bench.runner.submit(addHead(), Choices(samples=1))
    bench.until(lambda: job.message == "Showing the result")
    bench.until(lambda: len(bench.seen) > 3)
    bench.runner.poll()
    bench.runner.abandon()
    slicer.mrmlScene.Clear(False)
    assert job.state == "cancelled" and closed == [True]
    assert bench.leftovers() == []


def test_memory_of_a_volume_is_released_after_its_run(makeBench, addHead):
    bench = makeBench("good", "0.01")
    volumeNode = addHead()
    bench.runner.submit(volumeNode, Choices(samples=1))
    bench.finish()
    slicer.mrmlScene.RemoveNode(volumeNode)
    references = 2  # this function and getrefcount
    bench.until(lambda: sys.getrefcount(volumeNode) == references, seconds=5)


def test_the_fraction_only_grows(makeBench, addHead):
    bench = makeBench("good", "0.05")
    fractions = []
    job = bench.runner.submit(addHead(), Choices(samples=4))
    bench.runner.changed.connect(lambda: fractions.append(job.fraction))
    bench.finish()
    known = [fraction for fraction in fractions if fraction is not None]
    assert known == sorted(known) and 0 < known[0] and known[-1] <= 1
    assert np.isfinite(known).all()
