"""A runner with the fake worker in a temporary folder, for tests of whole runs."""

import os
import sys
import time
from pathlib import Path

import slicer
import slicer.util

from DiffusionSegmentationLib.runs.runner import Runner
from DiffusionSegmentationLib.runs.worker_client import WorkerClient, workerEnvironment
from DiffusionSegmentationLib.scene import result_nodes

FAKE = Path(__file__).with_name("fake_worker.py")


class RunnerBench:
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


def resultNodes():
    return [
        node.GetName()
        for kind in ("vtkMRMLSegmentationNode", "vtkMRMLSequenceNode")
        for node in slicer.util.getNodesByClass(kind)
    ]
