"""Files of a run: finished samples after a crash, removal of old folders, permissions and names."""

import os
import time

import pytest
import slicer
import slicer.util
from runner_bench import resultNodes

from DiffusionSegmentationLib.runs import runner, temporary_files
from DiffusionSegmentationLib.runs.handover import HandoverError
from DiffusionSegmentationLib.runs.runner import Choices


def test_samples_finished_before_a_crash_are_offered(makeBench, addHead):
    bench = makeBench("late-crash", "0.01")
    volumeNode = addHead()
    job = bench.runner.submit(volumeNode, Choices(samples=8))
    bench.finish()
    assert job.state == "failed" and job.recoverable == 2 and resultNodes() == []
    assert "2 samples were finished" in job.message and str(job.folder) in job.message
    bench.runner.recover()
    assert bench.finish() is job and job.state == "partial" and job.recoverable == 0
    assert "Head segmentation" in resultNodes() and bench.leftovers() == []
    with pytest.raises(RuntimeError):
        bench.runner.recover()


def test_finished_samples_are_not_shown_on_another_volume(makeBench, addHead):
    bench = makeBench("late-crash", "0.01")
    volumeNode = addHead()
    job = bench.runner.submit(volumeNode, Choices(samples=8))
    bench.finish()
    slicer.mrmlScene.RemoveNode(volumeNode)
    other = addHead()  # gets the ID of the removed one
    assert other.GetName() == "Head"
    with pytest.raises(HandoverError, match="no longer in the scene; the finished samples are kept in"):
        bench.runner.recover()
    assert resultNodes() == [] and (job.folder / "finished-2" / "report.json").is_file()


@pytest.mark.slow
def test_the_next_run_works_and_leaves_finished_samples_on_disk(makeBench, addHead):
    bench = makeBench("late-crash", "0.01")
    job = bench.runner.submit(addHead(), Choices(samples=8))
    bench.finish()
    again = bench.runner.submit(slicer.util.getNode("Head"), Choices(samples=1))
    assert bench.finish() is again and again.state == "done"
    assert (job.folder / "finished-2" / "report.json").is_file()
    bench.until(lambda: not again.folder.exists())  # removed on a thread


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
    os.utime(temporary / "DiffusionSegmentation-busy" / "input.nrrd")  # is still being written
    temporary_files.sweep(str(temporary)).join(10)
    left = sorted(path.name for path in temporary.iterdir())
    assert left == [f"DiffusionSegmentation-{n}" for n in ("busy", "link", "new")] + ["Other-old"]
    assert (outside / "precious").exists()


def test_the_first_run_removes_old_folders(makeBench, addHead):
    bench = makeBench("good", "0.01")
    old = bench.folder / "DiffusionSegmentation-old"
    old.mkdir()
    os.utime(old, (0, 0))
    bench.runner.submit(addHead(), Choices(samples=1))
    bench.finish()
    assert bench.leftovers() == []


@pytest.mark.skipif(os.name == "nt", reason="the temporary folder is the user's own there")
def test_files_of_a_run_are_private_to_their_owner(makeBench, addHead):
    bench = makeBench("good", "0.1")
    mask = os.umask(0)  # any umask of the user
    try:
        job = bench.runner.submit(addHead(), Choices(samples=3))
        bench.until(lambda: job.finishedSamples == 1)
    finally:
        os.umask(mask)
    log = bench.runner.client._process._folder
    assert [oct(folder.stat().st_mode & 0o777) for folder in (job.folder, log)] == ["0o700", "0o700"]
    bench.finish()


def test_volume_names_are_in_no_file_and_no_log(makeBench, addHead, caplog):
    bench = makeBench("good", "0.1")
    volumeNode = addHead("Mustermann^Max")
    job = bench.runner.submit(volumeNode, Choices(samples=3))
    bench.until(lambda: job.finishedSamples == 1)
    for path in (job.folder, *job.folder.rglob("*")):
        assert "Mustermann" not in path.name
        assert path.is_dir() or b"Mustermann" not in path.read_bytes()
    slicer.mrmlScene.RemoveNode(volumeNode)  # the message on the screen names the volume
    bench.finish()
    assert "Mustermann" in job.message
    assert "Mustermann" not in caplog.text + "".join(bench.runner.client.log)


def test_a_result_that_cannot_be_read_is_kept_and_named(makeBench, addHead):
    bench = makeBench("half-result", "0.01")
    job = bench.runner.submit(addHead(), Choices(samples=1))
    bench.finish()
    assert job.state == "failed" and str(job.folder) in job.message
    assert (job.folder / "segmentation.seg.nrrd").is_file()
    deadline = time.monotonic() + 5
    while (job.folder / runner.INPUT_NAME).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not (job.folder / runner.INPUT_NAME).exists()
    assert resultNodes() == []
