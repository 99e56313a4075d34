"""Runs with the real client, a fake worker and the real scene: what remains after success, errors and cancellation."""

import os
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util

from DiffusionSegmentationLib.runs import runner, status_texts, temporary_files
from DiffusionSegmentationLib.runs.handover import HandoverError
from DiffusionSegmentationLib.runs.runner import Choices, Runner
from DiffusionSegmentationLib.runs.worker_client import WorkerClient, workerEnvironment
from DiffusionSegmentationLib.scene import result_nodes

FAKE = Path(__file__).with_name("fake_worker.py")


class Bench:
    """A runner with a fake worker, and the states of its job."""

    def __init__(self, folder, *behaviour, importSteps=result_nodes.importSteps):
        client = WorkerClient([sys.executable, str(FAKE), *behaviour], workerEnvironment(os.environ))
        self.runner = Runner(client, importSteps, str(folder))
        self.folder = folder
        self.seen = []
        self.runner.changed.connect(self._note)

    def _note(self):
        if self.runner.job is not None:
            self.seen.append((self.runner.job.state, self.runner.job.message))

    def until(self, condition, seconds=30.0):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, (self.runner.job, self.seen[-3:], list(self.runner.client.log)[-5:])
            self.runner.poll()
            time.sleep(0.005)

    def finish(self):
        self.until(lambda: not self.runner.busy)
        return self.runner.job

    def leftovers(self):
        """Job folders, after the thread that removes them has ended."""
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline and list(self.folder.iterdir()):
            time.sleep(0.02)
        return list(self.folder.iterdir())


@pytest.fixture
def bench(tmp_path):
    benches = []

    def make(*behaviour, **options):
        folder = tmp_path / "Übung mit Raum"
        folder.mkdir(exist_ok=True)
        benches.append(Bench(folder, *behaviour, **options))
        return benches[-1]

    yield make
    for each in benches:
        each.runner.close()


def resultNodes():
    return [
        node.GetName()
        for kind in ("vtkMRMLSegmentationNode", "vtkMRMLSequenceNode")
        for node in slicer.util.getNodesByClass(kind)
    ]


def test_a_run_leaves_only_its_nodes(bench, addHead):
    world = bench("good", "0.02")
    job = world.runner.submit(addHead(), Choices(samples=3, seed=7))
    assert job.state == "queued" and world.runner.busy
    world.finish()
    assert job.state == "done", job.message
    assert job.message.startswith("Done: 3 samples")
    assert job.result.segmentationNode.GetName() == "Head segmentation"
    assert job.result.entropyNode.GetName() == "Head entropy"
    assert job.report["seed"] == 7
    states = [state for state, _message in world.seen]
    assert states == sorted(states, key=["queued", "running", "done"].index)
    assert any(message == "Drawing sample 2 of 3" for _state, message in world.seen)
    assert world.leftovers() == []


def test_the_worker_is_reused_by_the_next_run(bench, addHead):
    world = bench("good", "0.01")
    volumeNode = addHead()
    world.runner.submit(volumeNode, Choices(samples=1))
    world.finish()
    process = world.runner.client._process
    world.runner.submit(volumeNode, Choices(samples=1))
    world.finish()
    assert world.runner.client._process is process
    assert "Head samples" in resultNodes() and len(resultNodes()) == 8  # nothing was overwritten


def test_a_second_simultaneous_run_is_refused(bench, addHead):
    world = bench("good", "0.1")
    volumeNode = addHead()
    world.runner.submit(volumeNode, Choices(samples=1))
    with pytest.raises(RuntimeError):
        world.runner.submit(volumeNode, Choices(samples=1))


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


def test_an_exception_during_poll_ends_the_job(bench, addHead, monkeypatch):
    world = bench("good")
    job = world.runner.submit(addHead(), Choices(samples=1))
    monkeypatch.setattr(world.runner.client, "send", lambda message: 1 / 0)
    world.finish()
    assert job.state == "failed" and "ZeroDivisionError" in job.message
    assert world.leftovers() == []
    monkeypatch.undo()
    # While it runs: the worker is told to stop, and the next run does not wait behind it.
    job = world.runner.submit(slicer.util.getNode("Head"), Choices(samples=20))
    world.until(lambda: job.finishedSamples > 0)
    monkeypatch.setattr(runner.status_texts, "progressText", lambda message: 1 / 0)
    world.finish()
    monkeypatch.undo()
    assert job.state == "failed" and world.runner._cancelled is job
    world.until(lambda: world.runner._cancelled is None)
    assert world.leftovers() == []
    assert world.runner.submit(slicer.util.getNode("Head"), Choices(samples=1)).active
    assert world.finish().state == "done"


def test_the_request_names_the_file_of_the_volume(bench, addHead, tmp_path, monkeypatch):
    world, sent = bench("good"), []
    send = world.runner.client.send
    monkeypatch.setattr(world.runner.client, "send", lambda message: (sent.append(message), send(message)))
    volumeNode = addHead()
    for path in (None, str(tmp_path / "saved.nrrd")):
        if path:
            storage = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLVolumeArchetypeStorageNode")
            storage.SetFileName(path)
            assert storage.WriteData(volumeNode)
            volumeNode.SetAndObserveStorageNodeID(storage.GetID())
        world.runner.submit(volumeNode, Choices(samples=1))
        world.finish()
        assert [message["source"] for message in sent if message["type"] == "run"][-1] == path


def test_an_unusable_volume_starts_nothing(bench):
    world = bench("good")
    with pytest.raises(HandoverError, match="Select the volume"):
        world.runner.submit(None, Choices())
    assert not world.runner.client.running and world.leftovers() == []


def test_a_full_disk_is_one_sentence(bench, addHead, monkeypatch):
    def full(**options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(runner.tempfile, "mkdtemp", full)
    with pytest.raises(HandoverError, match="disk is full"):
        bench("good").runner.submit(addHead(), Choices())


def test_cancelling_is_immediate_and_leaves_nothing(bench, addHead):
    world = bench("good", "0.5")
    world.runner.submit(addHead(), Choices(samples=5))
    world.until(lambda: world.runner.job.secondsLeft is not None)
    started = time.monotonic()
    world.runner.cancel()
    assert time.monotonic() - started < 0.5
    assert world.runner.job.state == "cancelled" and not world.runner.busy
    assert resultNodes() == [] and world.leftovers() == []
    again = world.runner.submit(addHead(), Choices(samples=1))  # the same worker, once it has let go
    assert world.finish() is again and again.state == "done"


def test_cancelling_before_the_worker_has_started(bench, addHead):
    world = bench("good")
    world.runner.submit(addHead(), Choices())
    world.runner.cancel()
    assert world.runner.job.state == "cancelled" and world.leftovers() == []
    world.until(lambda: world.runner.client.hello)
    assert not any(line.startswith("run ") for line in world.runner.client.log)


def test_stop_and_keep_gives_the_samples_so_far(bench, addHead):
    world = bench("good", "0.2")
    job = world.runner.submit(addHead(), Choices(samples=20))
    world.until(lambda: job.finishedSamples == 2)
    world.runner.cancel(keep=True)
    assert job.active
    world.finish()
    assert job.state == "partial" and job.message.startswith("Stopped after 2 of 20 samples")
    assert job.result.segmentationNode.GetScene() is slicer.mrmlScene


def test_samples_between_two_previews_count_too(bench, addHead):
    world = bench("good", "0.2")
    job = world.runner.submit(addHead(), Choices(samples=20))
    world.until(lambda: job.finishedSamples == 3)  # the previews are of 2 and of 4
    world.runner.cancel(keep=True)
    world.finish()
    assert job.state == "partial" and job.report["samples"] == 3


@pytest.mark.parametrize(
    ("source", "wanted", "sentence"),
    [
        ("samples", 8, "Stopped after 3 of 8 samples; the result uses these."),
        ("samples", "auto", "Stopped after 3 samples; the result uses these."),
        (
            "both",
            8,
            "Stopped after 3 of 8 samples; the result uses these and the model's direct class probabilities.",
        ),
        ("direct", 8, "Stopped after 3 of 8 samples; only the intervals of the volumes use these."),
        ("exact", "auto", "Stopped after 3 samples; only the intervals of the volumes use these."),
    ],
)
def test_the_message_of_a_stopped_run_names_what_uses_its_samples(source, wanted, sentence):
    report = {"samples": 3, "requested_samples": wanted, "partial": True, "map_source": source}
    assert status_texts.doneText(report, 12.3) == sentence


def test_a_worker_that_ignores_cancel_is_killed(bench, addHead, monkeypatch):
    monkeypatch.setattr(runner, "CANCEL_SECONDS", 0.2)
    world = bench("deaf")
    world.runner.submit(addHead(), Choices())
    world.until(lambda: any(line.startswith("child") for line in world.runner.client.log))
    world.runner.cancel()
    again = world.runner.submit(slicer.util.getNode("Head"), Choices(samples=1, seed=1))  # waits for a new worker
    assert world.finish() is again and again.state == "done"
    assert sum(line.startswith("run ") for line in world.runner.client.log) == 2


def test_a_worker_that_acknowledges_cancel_and_hangs_is_killed(bench, addHead, monkeypatch):
    monkeypatch.setattr(runner, "CANCEL_SECONDS", 0.5)
    world = bench("hangs")
    job = world.runner.submit(addHead(), Choices())
    world.until(lambda: job.state == "running")
    world.runner.cancel()
    again = world.runner.submit(slicer.util.getNode("Head"), Choices(samples=1, seed=1))
    assert world.finish() is again and again.state == "done"
    assert sum(line.startswith("run ") for line in world.runner.client.log) == 2


def test_a_worker_that_cannot_be_killed_is_abandoned(bench, addHead, monkeypatch):
    monkeypatch.setattr(runner, "CANCEL_SECONDS", 0.3)
    world = bench("hangs")
    monkeypatch.setattr(world.runner.client, "kill", lambda: None)  # as where a process waits within a driver
    job = world.runner.submit(addHead(), Choices())
    world.until(lambda: job.state == "running")
    world.runner.cancel()
    again = world.runner.submit(slicer.util.getNode("Head"), Choices(samples=1, seed=1))
    assert world.finish() is again and again.state == "done"


def test_files_that_a_cancelled_run_writes_late_are_removed(bench, addHead):
    world = bench("writes-late")
    job = world.runner.submit(addHead(), Choices())
    world.until(lambda: job.state == "running")
    world.runner.cancel()
    world.until(lambda: world.leftovers() == [])
    world.until(lambda: world.leftovers() != [])  # after it was removed
    world.until(lambda: world.leftovers() == [])


@pytest.mark.parametrize("cancelled", [False, True])
def test_the_run_after_a_lost_gpu_waits_for_another_worker(bench, addHead, cancelled):
    world = bench("lost")
    lost = world.runner.submit(addHead(), Choices())
    if cancelled:  # while it hangs, which is what a person does
        world.until(lambda: lost.state == "running")
        world.runner.cancel()
    world.finish()
    assert (lost.state, lost.tryDevice) == (("cancelled", None) if cancelled else ("failed", "cpu"))
    again = world.runner.submit(slicer.util.getNode("Head"), Choices(samples=1, seed=1))  # while the worker still dies
    assert world.finish() is again and again.state == "done" and world.runner.workerProblem is None
    assert sum(line.startswith("run ") for line in world.runner.client.log) == 2


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        ("crash", "ended unexpectedly (exit code 134)"),
        ("no-start", "No module named 'torch'"),
        ("no-engine", "The Python package 'monai' is missing; install it and try again."),
        ("foreign", "speaks protocol 99"),
        ("memory", "The memory did not suffice."),
    ],
)
def test_errors_are_one_sentence_and_leave_nothing(bench, addHead, behaviour, words):
    world = bench(behaviour)
    job = world.runner.submit(addHead(), Choices())
    world.finish()
    assert job.state == "failed" and words in job.message and job.message.endswith(".")
    assert resultNodes() == [] and world.leftovers() == []


def test_low_memory_is_reported_during_the_run_and_another_device_is_offered(bench, addHead):
    world = bench("short", "0.02")
    job = world.runner.submit(addHead(), Choices(samples=2))
    world.until(lambda: job.note)
    assert status_texts.statusText(job).endswith("so fewer samples are drawn at a time.")
    world.finish()
    assert (job.state, job.tryDevice, job.message) == ("failed", "cpu", "The memory of 'cuda:0' did not suffice.")
    again = world.runner.submit(slicer.util.getNode("Head"), Choices(samples=2, device=job.tryDevice))
    assert world.finish() is again and (again.state, again.tryDevice) == ("done", None)


def test_samples_finished_before_a_death_are_offered(bench, addHead):
    world = bench("late-crash", "0.01")
    volumeNode = addHead()
    job = world.runner.submit(volumeNode, Choices(samples=8))
    world.finish()
    assert job.state == "failed" and job.recoverable == 2 and resultNodes() == []
    assert "2 samples were finished" in job.message and str(job.folder) in job.message
    world.runner.recover()
    assert world.finish() is job and job.state == "partial" and job.recoverable == 0
    assert "Head segmentation" in resultNodes() and world.leftovers() == []
    with pytest.raises(RuntimeError):
        world.runner.recover()


def test_finished_samples_are_not_shown_on_another_volume(bench, addHead):
    world = bench("late-crash", "0.01")
    volumeNode = addHead()
    job = world.runner.submit(volumeNode, Choices(samples=8))
    world.finish()
    slicer.mrmlScene.RemoveNode(volumeNode)
    other = addHead()  # gets the ID of the one before
    assert other.GetName() == "Head"
    with pytest.raises(HandoverError, match="no longer in the scene; the finished samples are kept in"):
        world.runner.recover()
    assert resultNodes() == [] and (job.folder / "finished-2" / "report.json").is_file()


def test_the_next_run_works_and_leaves_finished_samples_on_disk(bench, addHead):
    world = bench("late-crash", "0.01")
    job = world.runner.submit(addHead(), Choices(samples=8))
    world.finish()
    again = world.runner.submit(slicer.util.getNode("Head"), Choices(samples=1))
    assert world.finish() is again and again.state == "done"
    assert (job.folder / "finished-2" / "report.json").is_file()
    world.until(lambda: not again.folder.exists())  # removed on a thread


def test_half_written_results_do_not_count_as_finished(tmp_path):
    (tmp_path / "finished-4").mkdir()
    (tmp_path / "finished-2").mkdir()
    (tmp_path / "finished-2" / "report.json").write_text('{"samples": 2}')
    (tmp_path / "finished-x").mkdir()
    assert temporary_files.newestFinished(tmp_path) == (tmp_path / "finished-2", {"samples": 2})
    (tmp_path / "finished-2" / "report.json").write_text('{"samp')
    assert temporary_files.newestFinished(tmp_path) is None


def test_only_old_folders_are_removed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("")
    temporary = tmp_path / "temporary"
    for name in ("DiffusionSegmentation-old", "DiffusionSegmentation-new", "DiffusionSegmentation-busy", "Other-old"):
        (temporary / name).mkdir(parents=True)
        (temporary / name / "input.nrrd").write_text("")
    (temporary / "DiffusionSegmentation-link").symlink_to(outside)
    long_ago = time.time() - 8 * 86400
    for path in (outside, *temporary.rglob("*")):
        os.utime(path, (long_ago, long_ago), follow_symlinks=False)
    os.utime(temporary / "DiffusionSegmentation-new")
    os.utime(temporary / "DiffusionSegmentation-busy" / "input.nrrd")  # somebody still writes into it
    temporary_files.sweep(str(temporary)).join(10)
    left = sorted(path.name for path in temporary.iterdir())
    assert left == [f"DiffusionSegmentation-{n}" for n in ("busy", "link", "new")] + ["Other-old"]
    assert (outside / "precious").exists()


def test_the_first_run_removes_old_folders(bench, addHead):
    world = bench("good", "0.01")
    old = world.folder / "DiffusionSegmentation-old"
    old.mkdir()
    os.utime(old, (0, 0))
    world.runner.submit(addHead(), Choices(samples=1))
    world.finish()
    assert world.leftovers() == []


@pytest.mark.skipif(os.name == "nt", reason="the temporary folder is the user's own there")
def test_files_of_a_run_are_private_to_their_owner(bench, addHead):
    world = bench("good", "0.1")
    mask = os.umask(0)  # whatever a person has set
    try:
        job = world.runner.submit(addHead(), Choices(samples=3))
        world.until(lambda: job.finishedSamples == 1)
    finally:
        os.umask(mask)
    log = world.runner.client._process._folder
    assert [oct(folder.stat().st_mode & 0o777) for folder in (job.folder, log)] == ["0o700", "0o700"]
    world.finish()


def test_volume_names_are_in_no_file_and_no_log(bench, addHead, caplog):
    world = bench("good", "0.1")
    volumeNode = addHead("Mustermann^Max")
    job = world.runner.submit(volumeNode, Choices(samples=3))
    world.until(lambda: job.finishedSamples == 1)
    for path in (job.folder, *job.folder.rglob("*")):
        assert "Mustermann" not in path.name
        assert path.is_dir() or b"Mustermann" not in path.read_bytes()
    slicer.mrmlScene.RemoveNode(volumeNode)  # which is told on the screen
    world.finish()
    assert "Mustermann" in job.message
    assert "Mustermann" not in caplog.text + "".join(world.runner.client.log)


def test_a_result_that_cannot_be_read_is_kept_and_named(bench, addHead):
    world = bench("half-result", "0.01")
    job = world.runner.submit(addHead(), Choices(samples=1))
    world.finish()
    assert job.state == "failed" and str(job.folder) in job.message
    assert (job.folder / "segmentation.seg.nrrd").is_file()
    deadline = time.monotonic() + 5
    while (job.folder / runner.INPUT_NAME).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not (job.folder / runner.INPUT_NAME).exists()
    assert resultNodes() == []


def test_a_volume_that_is_removed_meanwhile_keeps_the_result_on_disk(bench, addHead):
    world = bench("good", "0.1")
    volumeNode = addHead()
    job = world.runner.submit(volumeNode, Choices(samples=2))
    world.until(lambda: job.finishedSamples == 1)
    slicer.mrmlScene.RemoveNode(volumeNode)
    world.finish()
    assert job.state == "failed" and "'Head' is no longer in the scene" in job.message
    assert (job.folder / "segmentation.seg.nrrd").is_file()


def test_a_volume_that_is_edited_meanwhile_is_mentioned(bench, addHead):
    world = bench("good", "0.1")
    volumeNode = addHead()
    job = world.runner.submit(volumeNode, Choices(samples=2))
    world.until(lambda: job.finishedSamples == 1)
    slicer.util.arrayFromVolume(volumeNode)[:] += 1
    slicer.util.arrayFromVolumeModified(volumeNode)
    world.finish()
    assert job.state == "done" and "modified during the run" in job.message


def test_closing_the_scene_ends_the_run_also_in_the_middle_of_the_import(bench, addHead):
    closed = []

    def importSteps(volumeNode, folder, report):
        try:
            while True:
                yield None
        finally:
            closed.append(True)

    world = bench("good", "0.01", importSteps=importSteps)
    job = world.runner.submit(addHead(), Choices(samples=1))
    world.until(lambda: job.message == "Showing the result")
    world.until(lambda: len(world.seen) > 3)
    world.runner.poll()
    world.runner.abandon()
    slicer.mrmlScene.Clear(False)
    assert job.state == "cancelled" and closed == [True]
    assert world.leftovers() == []


def test_memory_of_a_volume_is_released_after_its_run(bench, addHead):
    world = bench("good", "0.01")
    volumeNode = addHead()
    world.runner.submit(volumeNode, Choices(samples=1))
    world.finish()
    slicer.mrmlScene.RemoveNode(volumeNode)
    mine = 2  # this function and getrefcount
    world.until(lambda: sys.getrefcount(volumeNode) == mine, seconds=5)


def test_the_fraction_only_grows(bench, addHead):
    world = bench("good", "0.05")
    fractions = []
    job = world.runner.submit(addHead(), Choices(samples=4))
    world.runner.changed.connect(lambda: fractions.append(job.fraction))
    world.finish()
    known = [fraction for fraction in fractions if fraction is not None]
    assert known == sorted(known) and 0 < known[0] and known[-1] <= 1
    assert np.isfinite(known).all()
