import json
import os
import shutil
import subprocess
import sys
import time
import types
from pathlib import Path

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
sys.path.insert(0, str(Path(__file__).parent))

import numpy as np
import pytest
import slicer
import slicer.util
import slicer_standin
from update_bench import first, settle, update  # noqa: F401  fixtures

from DiffusionSegmentationLib.headless import session
from DiffusionSegmentationLib.runs import worker_client

MODULE = Path(__file__).resolve().parents[2] / "DiffusionSegmentation" / "DiffusionSegmentation.py"
FAKE_WORKER = Path(__file__).with_name("fake_worker.py")

MAKE_MODEL = """
import json, sys
import unittest
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
import conftest, torch
from diffusion_segmentation.model.building import build
from diffusion_segmentation.model.folder import save
torch.manual_seed(7)
metadata = conftest.metadata()
section = metadata["diffusion_segmentation"]
changes = json.loads(sys.argv[4])
section["network"] |= changes.pop("network", {})
section |= changes
encoder, denoiser = build(metadata["diffusion_segmentation"]["network"], 3)
torch.nn.init.normal_(denoiser.head.weight, std=0.5)
save(Path(sys.argv[3]), metadata, encoder, denoiser)
"""

slicer_standin.likePythonQt(__name__)
slicer_standin.likePythonQt("DiffusionSegmentation")
for path in (MODULE.parent / "DiffusionSegmentationLib" / "panel").rglob("*.py"):
    slicer_standin.likePythonQt(".".join(path.relative_to(MODULE.parent).with_suffix("").parts))


def pytest_addoption(parser):
    parser.addoption("--screenshots", type=Path, help="folder for pictures of the panel")


@pytest.fixture(scope="session")
def application(tmp_path_factory):
    """The stand-in's `slicer.app` over a booted slicer-core."""
    headless = session.boot()
    application = slicer_standin.install(tmp_path_factory.mktemp("slicer"))
    application.headless = headless
    sys.modules["SampleData"] = types.SimpleNamespace(SampleDataLogic=_SampleDataLogic)
    return application


class _SampleDataLogic:
    registered = []

    @classmethod
    def registerCustomSampleDataSource(cls, **source):
        cls.registered.append(source)


@pytest.fixture
def mrmlScene(application):
    """An empty scene with the composite nodes of three slice views."""
    application.headless.scene.Clear(False)
    for name in ("Red", "Green", "Yellow"):
        composite = slicer.vtkMRMLSliceCompositeNode()
        composite.SetLayoutName(name)
        composite.SetName(name)
        application.headless.scene.AddNode(composite)
    return application.headless.scene


@pytest.fixture
def addVolume(mrmlScene):
    """Makes a scalar volume node from an array [k, j, i]; `oblique` turns and mirrors its axes."""

    def add(voxels, name="Head", spacing=2.0, oblique=False):
        ijkToRAS = np.diag([spacing, spacing, spacing, 1.0])
        if oblique:
            cosine, sine = np.cos(0.3), np.sin(0.3)
            ijkToRAS[:3, :3] = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, -1]]) @ np.diag([1.1, 2.2, 0.7])
            ijkToRAS[:3, 3] = (-31.25, 12.5, 1e-3)
        return slicer.util.addVolumeFromArray(voxels, ijkToRAS=ijkToRAS, name=name)

    return add


@pytest.fixture
def addHead(addVolume):
    """Makes a ball of three intensities, `size` voxels wide."""

    def add(name="Head", size=40, **options):
        axis = np.linspace(-1, 1, size)
        z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
        radius = np.sqrt(x * x + y * y + z * z)
        return addVolume(
            (1000 * np.clip(1.2 - radius, 0, 1)).astype(np.int16), name=name, spacing=160 / size, **options
        )

    return add


@pytest.fixture
def modelFolder(tmp_path, monkeypatch):
    """A folder of included models with one model, with the metadata that the panel reads."""
    from DiffusionSegmentationLib.runs import models

    folder = tmp_path / "models" / "brain-structures"
    folder.mkdir(parents=True)
    writeModel(folder, "Brain structures (MR head)")
    monkeypatch.setattr(models, "SHIPPED", folder.parent)
    return folder


def writeModel(folder, title, **changes):
    """Write the metadata that the panel reads; `changes` are further entries of our section."""
    names = ["Cerebrospinal fluid", "Ventricles", "Cortical grey matter", "White matter"]
    section = {
        "schema": 1,
        "name": folder.name,
        "title": title,
        "labels": [{"label": n, "id": f"s{n}", "name": name} for n, name in enumerate(names, 1)],
        "input_range": {"spacing_mm": [0.3, 8.0], "extent_mm": [60, 500], "modality": "MR"},
        **changes,
    }
    metadata = {"description": "Seven structures on MR heads.", "diffusion_segmentation": section}
    (folder / "metadata.json").write_text(json.dumps(metadata))
    (folder / "model.safetensors").write_bytes(b"weights")


@pytest.fixture
def addModel(modelFolder):
    """Adds a model, listed under its title, to the included ones; called with further entries of its section."""

    def add(name, **changes):
        (modelFolder.parent / name).mkdir()
        writeModel(modelFolder.parent / name, name.title(), **changes)

    return add


@pytest.fixture
def shipped(modelFolder):
    """Lets the included model be the one that the fake worker names, with other entries in its section."""

    def change(sha256="0" * 64, **entries):
        path = modelFolder / "metadata.json"
        metadata = json.loads(path.read_text(encoding="utf-8"))
        metadata["diffusion_segmentation"] |= {"sha256": sha256, **entries}
        path.write_text(json.dumps(metadata), encoding="utf-8")

    return change


@pytest.fixture
def openPanel(application, mrmlScene, modelFolder, monkeypatch, tmp_path_factory):
    """Opens the module's panel as at the start of Slicer, with a fake worker of some behaviour or the "real" one."""
    import qt

    from DiffusionSegmentationLib.panel import backend

    qt.QSettings().clear()
    opened = []

    def open_(*behaviour):
        base = tmp_path_factory.getbasetemp()
        # One folder for all processes of the tests, each of which has a folder of its own in that of the run.
        kept = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "fake-results"
        command = [sys.executable, str(FAKE_WORKER), *(behaviour or ("good", "0.05")), "--kept", str(kept)]
        real = worker_client.workerCommand
        monkeypatch.setattr(backend, "workerCommand", real if behaviour == ("real",) else lambda python: command)
        for module in opened:
            module.widget.cleanup()
        opened[:] = [OpenedModule(application)]
        return opened[0]

    yield open_
    for module in opened:
        module.widget.cleanup()


class OpenedModule:
    """The module, loaded and entered, with its widget, backend and runner."""

    def __init__(self, application):
        import qt

        if not qt.QSettings().contains("DiffusionSegmentation/workerPython"):
            qt.QSettings().setValue("DiffusionSegmentation/workerPython", sys.executable)
        application.loadModule(MODULE)
        application.addSegmentEditor()
        self.root = slicer.modules.diffusionsegmentation.widgetRepresentation()
        self.widget = self.root.self()
        self.root.isEntered = True
        self.root.size = qt.QSize(400, 760)
        self.root.show()
        self.widget.enter()
        self.ui = self.widget.ui
        self.backend = self.widget.logic.backend
        self.runner = self.backend.runner


@pytest.fixture
def makeBench(tmp_path):
    """Makes a runner with a fake worker of some behaviour, closed at the end of the test."""
    from runner_bench import RunnerBench

    benches = []

    def make(*behaviour, **options):
        folder = tmp_path / "Übung mit Raum"
        folder.mkdir(exist_ok=True)
        benches.append(RunnerBench(folder, *behaviour, **options))
        return benches[-1]

    yield make
    for bench in benches:
        bench.runner.close()


@pytest.fixture(scope="session")
def randomModel(tmp_path_factory):
    """A model folder with random weights, written by another process, because this one must not import torch."""
    return _makeModel(tmp_path_factory.mktemp("Modelle ü") / "random")


def _makeModel(folder, **changes):
    """`changes` are entries of our section of the metadata."""
    testing = Path(__file__).resolve().parents[1]
    arguments = [testing, worker_client.ENGINE_FOLDER, folder, json.dumps(changes)]
    subprocess.run([sys.executable, "-c", MAKE_MODEL, *arguments], check=True)
    return folder


@pytest.fixture(scope="session")
def makeModel():
    """Makes a model folder as `randomModel`, with other entries in its metadata."""
    return _makeModel


@pytest.fixture(scope="session")
def fittedModel(randomModel):
    """The same model with a fitted covariance: samples are drawn from a copula without a network."""
    folder = shutil.copytree(randomModel, randomModel.with_name("fitted"))
    path = folder / "metadata.json"
    metadata = json.loads(path.read_text(encoding="utf-8"))
    covariance = {"scales_mm": [8.0], "weights": [[0.8]] * 3, "shared": [0.2] * 3}
    start = {"covariance": covariance, "log_snr": None}
    metadata["diffusion_segmentation"] |= {"title": "Fitted", "map_prior": 0, "start": start}
    path.write_text(json.dumps(metadata), encoding="utf-8")
    return folder


@pytest.fixture
def openRealPanel(openPanel, randomModel):
    """Opens the panel with the real worker and selects the model with random weights."""
    import qt

    def open_():
        qt.QSettings().setValue("DiffusionSegmentation/modelsFolder", str(randomModel.parent))
        module = openPanel("real")
        module.ui.modelComboBox.currentIndex = module.ui.modelComboBox.findData(str(randomModel))
        return module

    return open_


@pytest.fixture
def pumpUntil(application):
    """Processes events until a condition holds."""

    def pump(condition, seconds=60.0, describe=lambda: ""):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, describe()
            application.processEvents()
            time.sleep(0.002)
        widget = getattr(slicer.modules, "DiffusionSegmentationWidget", None)
        while widget is not None and widget.panel is not None and widget.panel.settling:
            assert time.monotonic() < deadline, "the end of a run took too long"
            application.processEvents()
            time.sleep(0.001)
        application.processEvents()

    return pump


@pytest.fixture
def run(pumpUntil):
    """Clicks Segment in an opened panel, waits, and returns the job."""

    def click(module, samples=2):
        module.ui.samplesSpinBox.value = samples
        module.ui.segmentButton.click()
        pumpUntil(lambda: not module.runner.busy, describe=lambda: (module.runner.job, list(module.runner.client.log)))
        return module.runner.job

    return click


@pytest.fixture
def photograph(application, request):
    """Saves a picture of a module's panel, 400 pixels wide, into the folder of the option --screenshots."""
    import qt

    folder = request.config.getoption("--screenshots", None)

    def take(name, widget, schemes=("light", "dark"), part=None):
        if folder is None:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for scheme in schemes:
            application.setColorScheme(scheme)
            application.processEvents()
            # At its preferred height: in Slicer it is in a scroll area.
            widget.panel.refresh()  # pictures of numbers are drawn in the colours of their time
            for _turn in range(10):
                application.processEvents()
                time.sleep(0.02)
            layout = widget.parent.layout()
            widget.parent.size = qt.QSize(400, max(760, layout.heightForWidth(400), layout.sizeHint().height()))
            application.processEvents()
            (part or widget.parent).grab().save(str(folder / f"panel-{name}-{scheme}.png"))
        application.setColorScheme("light")

    take.wanted = folder is not None
    return take
