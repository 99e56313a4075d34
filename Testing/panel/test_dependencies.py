"""Packages are found without importing them, and installed only if they are needed and the user agrees."""

import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import slicer
import slicer.util

REQUIREMENTS = Path(__file__).resolve().parents[2] / "DiffusionSegmentation" / "Resources" / "requirements.txt"


@pytest.fixture
def packages(application, monkeypatch):
    """Slicer 5.12 without packages, a user who agrees, and the list of calls."""
    from DiffusionSegmentationLib.runs import dependencies

    calls = []
    installed = set()

    class PyTorchUtilsLogic:
        def installTorch(self, **options):
            calls.append(("installTorch", options))
            installed.add("torch")
            return "torch"

    def pipEnsure(requirements, requester):
        calls.append(("pip_ensure", requirements))
        installed.update(re.match(r"[\w-]+", text)[0] for text in requirements)

    packaging = types.ModuleType("slicer.packaging")
    packaging.pip_ensure = pipEnsure
    monkeypatch.setitem(sys.modules, "slicer.packaging", packaging)
    monkeypatch.setattr(slicer, "packaging", packaging, raising=False)
    monkeypatch.setitem(sys.modules, "PyTorchUtils", types.SimpleNamespace(PyTorchUtilsLogic=PyTorchUtilsLogic))
    monkeypatch.setattr(dependencies, "isInstalled", lambda requirement: requirement.name in installed)
    monkeypatch.setattr(application, "testing", False)
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda text: calls.append(("restart?", text)))
    monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: calls.append(("install?", text)) or True)
    monkeypatch.setattr(slicer.util, "pip_install", lambda requirements: calls.append(("pip_install", requirements)))
    return types.SimpleNamespace(calls=calls, installed=installed, dependencies=dependencies)


def test_requirements_are_what_the_engine_needs_without_torch(application):
    import tomllib

    from DiffusionSegmentationLib.runs import dependencies

    project = tomllib.loads((REQUIREMENTS.parents[2] / "pyproject.toml").read_text())["project"]
    ours = {str(requirement) for requirement in dependencies.readRequirements(REQUIREMENTS)}
    theirs = {str(dependencies.Requirement(text)) for text in project["dependencies"]}
    assert ours | {str(dependencies.TORCH)} == theirs


def test_the_check_for_packages_imports_nothing(application):
    from DiffusionSegmentationLib.runs import dependencies

    assert dependencies.isInstalled(dependencies.Requirement("numpy>=1.26"))
    assert not dependencies.isInstalled(dependencies.Requirement("numpy>=99"))
    assert not dependencies.isInstalled(dependencies.Requirement("no-such-package"))
    dependencies.missing(REQUIREMENTS)
    assert "torch" not in sys.modules


def test_torch_is_installed_first_by_its_extension(packages):
    packages.dependencies.ensure(REQUIREMENTS)
    assert [name for name, _detail in packages.calls] == ["installTorch", "pip_ensure", "restart?"]
    assert packages.calls[0][1] == {"askConfirmation": True, "torchVersionRequirement": "<3,>=2.4"}
    assert not any("torch" in text for text in packages.calls[1][1])
    packages.calls.clear()
    packages.dependencies.ensure(REQUIREMENTS)
    assert packages.calls == []


def test_a_restart_comes_last(packages, monkeypatch):
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda text: True)
    monkeypatch.setattr(slicer.util, "restart", lambda: packages.calls.append(("restart", None)), raising=False)
    with pytest.raises(packages.dependencies.DependencyError) as caught:
        packages.dependencies.ensure(REQUIREMENTS)
    assert str(caught.value) == "Slicer is restarting; click Segment again afterwards."
    assert [name for name, _detail in packages.calls] == ["installTorch", "pip_ensure", "restart"]
    packages.dependencies.ensure(REQUIREMENTS)  # after the restart nothing is left to do
    assert len(packages.calls) == 3


def test_a_restart_submits_no_run(packages, openPanel, addHead, monkeypatch):
    addHead()
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda text: True)
    monkeypatch.setattr(slicer.util, "restart", lambda: None, raising=False)
    panel = openPanel()
    panel.ui.pythonPathLineEdit.currentPath = ""
    panel.ui.segmentButton.click()
    assert panel.ui.statusLabel.text == "Slicer is restarting; click Segment again afterwards."
    assert panel.runner.job is None


def test_slicer_510_has_no_packaging(packages, monkeypatch):
    packages.installed.add("torch")
    monkeypatch.setitem(sys.modules, "slicer.packaging", None)
    packages.dependencies.ensure(REQUIREMENTS)
    assert [name for name, _detail in packages.calls] == ["install?", "pip_install"]


@pytest.mark.parametrize("version", ["5.10", "5.12"])
def test_declining_is_one_sentence(packages, monkeypatch, version):
    packages.installed.add("torch")
    if version == "5.10":
        monkeypatch.setitem(sys.modules, "slicer.packaging", None)
        monkeypatch.setattr(slicer.util, "confirmOkCancelDisplay", lambda text: False)
    else:

        def decline(requirements, requester):
            raise RuntimeError("User declined package installation")

        monkeypatch.setattr(slicer.packaging, "pip_ensure", decline)
    with pytest.raises(packages.dependencies.DependencyError, match="were not installed"):
        packages.dependencies.ensure(REQUIREMENTS)


def test_a_failed_installation_is_one_sentence(packages, monkeypatch):
    packages.installed.add("torch")

    def fail(requirements, requester):
        raise subprocess.CalledProcessError(1, "pip")

    monkeypatch.setattr(slicer.packaging, "pip_ensure", fail)
    with pytest.raises(packages.dependencies.DependencyError, match="exit code 1"):
        packages.dependencies.ensure(REQUIREMENTS)


def test_without_the_pytorch_extension(packages, monkeypatch):
    monkeypatch.setitem(sys.modules, "PyTorchUtils", None)
    with pytest.raises(packages.dependencies.DependencyError, match="Extensions Manager"):
        packages.dependencies.ensure(REQUIREMENTS)


def test_declining_torch(packages, monkeypatch):
    logic = sys.modules["PyTorchUtils"].PyTorchUtilsLogic
    monkeypatch.setattr(logic, "installTorch", lambda self, **options: None)
    with pytest.raises(packages.dependencies.DependencyError, match="needs PyTorch"):
        packages.dependencies.ensure(REQUIREMENTS)
    assert packages.calls == []


def test_testing_mode_installs_nothing(packages, application, monkeypatch):
    monkeypatch.setattr(application, "testing", True)
    with pytest.raises(packages.dependencies.DependencyError, match="torch"):
        packages.dependencies.ensure(REQUIREMENTS)
    assert packages.calls == []
