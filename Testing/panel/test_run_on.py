"""Runs on another computer, chosen in the panel, against a real sshd on this one."""

import os
import signal
import sys
from pathlib import Path

import pytest
import slicer.util
import slicer_standin

sys.path.insert(0, os.path.join(os.path.dirname(__file__), ".."))

from loopback import Loopback, missing

slicer_standin.likePythonQt(__name__)

FAKE_WORKER = Path(__file__).resolve().with_name("fake_worker.py")
needsSshd = pytest.mark.skipif(bool(missing()), reason=missing() or "sshd")


def choose(module, place, host=None, python=None):
    module.ui.runOnComboBox.currentIndex = module.ui.runOnComboBox.findData(place)
    if host is not None:
        module.ui.hostLineEdit.text = host
    if python is not None:
        module.ui.hostPythonLineEdit.text = python


def test_only_the_fields_of_the_chosen_place_are_shown(openPanel):
    module = openPanel()
    ui = module.ui
    ui.advancedCollapsibleButton.collapsed = False
    for place, shown in (("this", set()), ("python", {"python"}), ("ssh", {"host", "hostPython"})):
        choose(module, place)
        widgets = {"python": ui.pythonPathLineEdit, "host": ui.hostLineEdit, "hostPython": ui.hostPythonLineEdit}
        assert {name for name, widget in widgets.items() if widget.visible} == shown
        assert module.backend.settings.runOn == place


def test_an_interpreter_of_an_older_version_stays_the_choice(openPanel):
    import qt

    qt.QSettings().setValue("DiffusionSegmentation/workerPython", sys.executable)
    module = openPanel()
    assert module.ui.runOnComboBox.itemData(module.ui.runOnComboBox.currentIndex) == "python"


def test_a_computer_has_to_be_named_and_cannot_be_an_option(openPanel, addHead):
    addHead()
    module = openPanel()
    choose(module, "ssh", host="")
    assert not module.ui.segmentButton.enabled and "Enter the computer" in module.ui.segmentButton.toolTip
    for name in ("-oProxyCommand=touch x", "a b", "gpu;ls", "user@-x"):
        choose(module, "ssh", host=name)
        assert (
            not module.ui.segmentButton.enabled and "is not the name of a computer" in module.ui.segmentButton.toolTip
        )
    choose(module, "ssh", host="me@gpu-1.example.org")
    assert module.ui.segmentButton.enabled


def test_nothing_is_sent_or_called_before_the_user_agrees(openPanel, addHead, monkeypatch):
    addHead()
    module = openPanel()
    asked = []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, **_: asked.append(text))
    module.backend.settings.runOn, module.backend.settings.workerHost = "ssh", "gpu"
    module.runner.stopWorker()
    module.backend.warmUp()
    assert not module.runner.client.running and not asked
    module.ui.segmentButton.click()
    assert len(asked) == 1 and "'gpu'" in asked[0] and "volume" in asked[0]
    assert not module.runner.client.running and "Nothing was sent" in module.ui.statusLabel.text


@pytest.fixture
def loopbackPanel(openPanel, tmp_path, monkeypatch):
    """The panel with a fake worker on the other computer, and the questions that the user was asked."""
    loopback = Loopback(tmp_path / "loopback")
    (loopback.bin / "PythonSlicer").symlink_to(sys.executable)
    startup = {**os.environ, "PATH": f"{loopback.bin}:{os.environ['PATH']}"}
    monkeypatch.setenv("PATH", startup["PATH"])
    monkeypatch.setattr(slicer.util, "startupEnvironment", lambda: startup)
    asked = []
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text, **_: asked.append(text) or True)

    def open_(*behaviour):
        loopback.configure(worker=(FAKE_WORKER, *behaviour))
        module = openPanel("real")
        choose(module, "ssh", host=loopback.host, python=loopback.python)
        return module, loopback, asked

    yield open_
    loopback.close()


@needsSshd
@pytest.mark.slow
def test_a_run_on_another_computer_and_one_that_is_cut(loopbackPanel, addHead, run, pumpUntil, photograph):
    addHead()
    module, loopback, asked = loopbackPanel("keeps", "0.3")
    job = run(module, samples=2)
    assert job.state == "done" and len(asked) == 1, (job.message, list(module.runner.client.log)[-5:])
    assert module.ui.statusLabel.text.startswith("Done: 2 samples")
    module.ui.advancedCollapsibleButton.collapsed = False
    photograph("run-on-host", module.widget, schemes=("light",))
    module.ui.samplesSpinBox.value = 64
    module.ui.segmentButton.click()
    pumpUntil(lambda: list(module.runner.job.folder.glob("finished-*/report.json")), describe=lambda: module.runner.job)
    for pid in loopback.clients():
        os.kill(pid, signal.SIGKILL)
    pumpUntil(lambda: not module.runner.busy)
    assert "The connection to 'loopback' was lost" in module.ui.statusLabel.text
    assert module.ui.keepButton.visible and module.ui.segmentButton.enabled
    loopback.leaves_nothing()
    photograph("run-on-lost", module.widget, schemes=("light",))
    module.ui.keepButton.click()
    pumpUntil(lambda: not module.runner.busy)
    assert module.runner.job.state == "partial" and module.runner.job.result is not None
    assert run(module, samples=2).state == "done"  # the run is offered again
    assert len(asked) == 1  # the confirmation is remembered
