"""Fixtures of the tests of updates: a result that can follow corrections, what is painted into it, and the update."""

import numpy as np
import pytest
import slicer_standin

from DiffusionSegmentationLib.scene.label_map import Labels

slicer_standin.likePythonQt(__name__)

COPULA = {"start": {"covariance": {}, "log_snr": None}}


@pytest.fixture
def first(openPanel, addHead, run, shipped, settle):
    """A panel with the result of a copula model, whose corrections have been collected."""
    shipped(**COPULA)
    addHead()
    module = openPanel("good", "0.01")
    node = run(module, samples=3).result.segmentationNode
    settle(module)
    return module, node


@pytest.fixture
def settle(pumpUntil):
    """Enters the panel as after edits in another module, and waits until the corrections are collected."""

    def wait(module):
        module.widget.enter()
        pumpUntil(lambda: "ollect" not in module.ui.updateButton.toolTip, seconds=20)

    return wait


@pytest.fixture
def update(pumpUntil, settle):
    """Clicks the button, waits, and returns the updated segmentation."""

    def click(module):
        settle(module)
        assert module.ui.updateButton.enabled, module.ui.updateButton.toolTip
        module.ui.updateButton.click()
        assert module.runner.busy and module.ui.updateButton.text == "Cancel update"
        pumpUntil(lambda: not module.runner.busy, describe=lambda: list(module.runner.client.log)[-20:])
        assert module.runner.job.state == "done", module.runner.job.message
        settle(module)
        return module.runner.job.result.segmentationNode

    return click


def paint(node, corner, label, width=4):
    """Paint a block of a label; returns its mask on the block of the result."""
    labels = Labels(node)
    mask = np.zeros(labels.shape, bool)
    mask[tuple(slice(n, n + width) for n in corner)] = True
    labels.write(np.full(labels.shape, label, np.uint8), mask)
    return mask
