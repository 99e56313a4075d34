"""Restarts of the worker with another Python: never during a run, and without messages of the old worker."""

import sys
import time
from pathlib import Path

import pytest
import slicer_standin

from DiffusionSegmentationLib.runs import dependencies, runner
from DiffusionSegmentationLib.runs.runner import Choices

slicer_standin.likePythonQt(__name__)

FAKE = Path(__file__).with_name("fake_worker.py")


@pytest.fixture
def chooseWorker(application, monkeypatch):
    """Changes the command of the worker."""
    from DiffusionSegmentationLib.panel import backend

    def choose(*behaviour):
        monkeypatch.setattr(backend, "workerCommand", lambda python: [sys.executable, str(FAKE), *behaviour])

    return choose


def test_an_active_run_keeps_its_worker(openPanel, addHead, chooseWorker, monkeypatch, pumpUntil):
    volumeNode = addHead()
    module = openPanel("good", "0.1")
    job = module.backend.submit(volumeNode, Choices(samples=3))
    pumpUntil(lambda: module.runner.poll() or job.state == "running")
    process, command = module.runner.client._process, module.runner.client.command
    chooseWorker("good", "0.01")
    monkeypatch.setattr(dependencies, "ensure", lambda path: pytest.fail("asked to install packages"))
    monkeypatch.setattr(dependencies, "missing", lambda path: ["torch"])
    module.backend.settings.workerPython = ""
    with pytest.raises(RuntimeError, match="A run is active"):
        module.backend.submit(volumeNode, Choices(samples=1))
    module.backend.warmUp()
    assert module.runner.client._process is process and module.runner.client.command == command
    pumpUntil(lambda: module.runner.poll() or not job.active)
    assert job.state == "done", job.message


def test_the_worker_of_an_active_run_cannot_be_restarted(openPanel, addHead):
    module = openPanel("good", "0.1")
    module.backend.submit(addHead(), Choices(samples=1))
    with pytest.raises(RuntimeError, match="A run is active"):
        module.runner.stopWorker()
    assert module.runner.client.running


@pytest.mark.slow
def test_a_cancelled_run_of_the_old_worker_does_not_end_the_new_one(
    openPanel, addHead, chooseWorker, monkeypatch, pumpUntil
):
    monkeypatch.setattr(runner, "CANCEL_SECONDS", 1.0)
    volumeNode = addHead()
    module = openPanel("deaf")
    module.backend.submit(volumeNode, Choices())
    pumpUntil(lambda: module.runner.poll() or any(line.startswith("child") for line in module.runner.client.log))
    module.runner.cancel()
    chooseWorker("good", "0.5")
    job = module.backend.submit(volumeNode, Choices(samples=4))
    process = module.runner.client._process
    deadline = time.monotonic() + 1.5  # beyond the time that the cancelled run had
    pumpUntil(lambda: module.runner.poll() or (not job.active and time.monotonic() > deadline))
    assert job.state == "done", job.message
    assert module.runner.client._process is process
