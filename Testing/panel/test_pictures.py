"""Pictures: colour volumes of one slice from selection to report, and sizes in px and mm²."""

import csv
import io
import json
import sys

import numpy as np
import pytest
import slicer
import slicer.util
import slicer_standin

from DiffusionSegmentationLib.report.page import Report
from DiffusionSegmentationLib.scene.voxel_probe import VoxelProbe

slicer_standin.likePythonQt(__name__)

COLOUR = {
    "inputs": [{"name": "Colour", "channels": 3}],
    "network": {"dims": 2, "inputs": 3},
    "working_spacing_mm": 1.0,
    "window": [64, 64],
    "input_range": {"spacing_mm": [0.1, 10], "extent_mm": [10, 4000]},
}


@pytest.fixture
def addPicture(mrmlScene):
    """Makes the node that Slicer makes of a PNG file: a disc of three colours, one slice, here 96 x 80 pixels."""

    def add(name="Photo", spacing=1.0, components=3):
        y, x = np.ogrid[-1:1:80j, -1.2:1.2:96j]
        radius = np.sqrt(x**2 + y**2)
        disc = np.clip(1.2 - radius, 0, 1)
        noise = 6 * np.random.default_rng(0).random((80, 96))
        channels = [235 - 140 * disc, 200 - 120 * disc**2, 190 * np.ones_like(disc), 255 * np.ones_like(disc)]
        values = np.stack([np.clip(channel + noise, 0, 255) for channel in channels[:components]], -1)
        matrix = np.diag([-spacing, -spacing, 1, 1])
        voxels = values[None].astype(np.uint8)
        return slicer.util.addVolumeFromArray(voxels, matrix, name, "vtkMRMLVectorVolumeNode")

    return add


@pytest.fixture
def module(openPanel, addModel, addPicture):
    """The panel with the fake worker, a colour picture and a model for such pictures, selected."""
    addModel("colours", **COLOUR)
    picture = addPicture()
    module = openPanel("good", "0.01")
    select(module, "Colours")
    assert module.ui.inputSelector.currentNode() is picture
    return module


def select(module, title):
    module.ui.modelComboBox.currentIndex = module.ui.modelComboBox.findText(title)


def headers(table):
    return [table.horizontalHeaderItem(column).text().replace("\n", " ") for column in range(table.columnCount)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spacing", "suffix", "unit"), [(1.0, "px", "px"), (0.5, "mm2", "mm²")], ids=["pixels", "with a size"]
)
def test_a_colour_picture_from_click_to_report(
    module, addPicture, run, pumpUntil, tmp_path, photograph, spacing, suffix, unit
):
    """All that shows sizes shows areas in the unit of the picture."""
    ui, node = module.ui, addPicture("Scan", spacing)
    ui.inputSelector.setCurrentNode(node)
    composites = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    for composite in composites:
        composite.SetBackgroundVolumeID(node.GetID())
    job = run(module, samples=4)
    assert job.state == "done", job.message
    assert job.report["unit"] == suffix
    assert {composite.GetForegroundVolumeID() for composite in composites} == {job.result.entropyNode.GetID()}
    entry = job.report["volumes"][0]

    ui.detailsCheckBox.checked = True
    masks = f"Mask ({unit}) Gap ({'px' if suffix == 'px' else 'mm'})"
    assert headers(ui.volumesTable)[1:4] == [f"Expected ({unit})", masks, f"50 % 90 % ({unit})"]
    mask, contours = ui.volumesTable.item(0, 2).text().splitlines()
    assert float(mask) == pytest.approx(entry[f"consensus_{suffix}"], rel=0.01) and contours == "4.00"
    assert ui.copyVolumesButton.text == "Copy areas"
    assert f" {unit}, mask " in ui.volumesTable.item(0, 1).toolTip()
    assert "Mask: area of the segment" in ui.volumesLabel.text and "volume" not in ui.volumesLabel.text
    assert headers(ui.regionTable)[2] == f"Expected error ({unit})"
    assert any(line.startswith("Area ") for line in ui.regionTable.item(0, 1).toolTip().splitlines())
    assert f" {unit} lie in thin boundary layers" in ui.reviewLabel.text and "ml" not in ui.reviewLabel.text
    assert ui.minimumSizeSpinBox.isHidden() and ui.minimumSizeLabel.isHidden()  # it is in mm³
    shown = [ui.regionTable.item(0, column).text() for column in range(4)]
    ui.thresholdSlider.value = 0.9
    pumpUntil(lambda: "0.9" in (job.result.segmentationNode.GetAttribute("DiffusionSegmentation.Regions") or ""))
    ui.thresholdSlider.value = 0.8
    pumpUntil(lambda: [ui.regionTable.item(0, column).text() for column in range(4)] == shown)

    ui.nextButton.click()
    ui.sampleCheckBox.click()
    ui.orderComboBox.currentIndex = ui.orderComboBox.findText(f"by area of {entry['name']}")
    assert ui.sampleText.text.endswith(f" {unit}.")
    ui.useSampleButton.click()
    pumpUntil(lambda: "have been edited" in ui.editedLabel.text)
    assert " pixels" in ui.editedLabel.text and ("mm²" in ui.editedLabel.text) == (unit == "mm²")
    probe = VoxelProbe(job.result.segmentationNode)
    assert probe.textAt((0, 0, 0)).startswith("White matter") and not probe.textAt((9, 0, 0))
    assert probe.textAt((-48 * spacing, -40 * spacing, 0)) == "background 100 %; 0.00 bits"

    path = tmp_path / "Bericht.html"
    for _step in Report(job.result.segmentationNode).writeSteps(path):
        pass
    page = path.read_text(encoding="utf-8")
    assert f"<th>Expected ({unit})</th>" in page and "<h2>Areas</h2>" in page
    assert " ml" not in page and "(ml)" not in page and "seen from the front" not in page and "Axial" not in page
    stored = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert stored[f"edited_{suffix}"] > 0 and f"reviewable_{suffix}" in stored["review"]["regions"][0]
    assert "smallest_mm3" not in stored["review"]
    row = next(csv.DictReader(io.StringIO(path.with_suffix(".csv").read_text(encoding="utf-8-sig"))))
    assert float(row[f"expected_{suffix}"]) == entry[f"expected_{suffix}"] and f"interval90_low_{suffix}" in row
    photograph(f"picture-{suffix}", module.widget)


@pytest.mark.slow
def test_the_second_result_of_a_volume_has_its_own_unit_again(module, run, addHead):
    run(module)
    select(module, "Brain structures (MR head)")
    module.ui.inputSelector.setCurrentNode(addHead())
    run(module)
    assert headers(module.ui.volumesTable)[1] == "Expected (ml)" and module.ui.copyVolumesButton.text == "Copy volumes"
    assert headers(module.ui.regionTable)[2] == "Expected error (ml)" and not module.ui.minimumSizeSpinBox.isHidden()


@pytest.mark.parametrize("components", [3, 4])
def test_pictures_with_and_without_transparency_can_be_segmented(module, addPicture, components):
    module.ui.inputSelector.setCurrentNode(addPicture("Other", components=components))
    assert module.ui.segmentButton.enabled


def test_what_a_model_cannot_segment_is_refused_in_one_sentence(module, addVolume, addPicture, addModel):
    ui = module.ui
    ui.inputSelector.setCurrentNode(addVolume(np.zeros((1, 20, 20), np.uint8), name="Grey"))
    assert "'Grey' has 1 value(s) per voxel and the model needs 3, as in a colour picture" in ui.segmentButton.toolTip
    select(module, "Brain structures (MR head)")
    assert "'Grey' is a single slice; select a 3-D volume or a model of pictures." in ui.segmentButton.toolTip
    stack = slicer.util.addVolumeFromArray(
        np.zeros((4, 20, 20, 3), np.uint8), name="Stack", nodeClassName="vtkMRMLVectorVolumeNode"
    )
    ui.inputSelector.setCurrentNode(stack)
    assert "'Stack' has several values per voxel" in ui.segmentButton.toolTip
    assert not ui.segmentButton.enabled and ui.statusLabel.text == ui.segmentButton.toolTip
    select(module, "Colours")  # slice by slice
    assert ui.segmentButton.enabled


@pytest.mark.slow
def test_the_batch_takes_pictures_of_the_scene_and_of_a_folder(module, addPicture, tmp_path, monkeypatch, pumpUntil):
    for name in ("b10.png", "b9.PNG", "c.jpg", "notes.txt"):
        (tmp_path / name).write_bytes(b"")
    loaded = []
    monkeypatch.setattr(
        slicer.util, "loadVolume", lambda path, properties: loaded.append(path) or addPicture("Loaded"), raising=False
    )
    monkeypatch.setattr("DiffusionSegmentationLib.panel.dialogs.selectFolder", lambda *_given: str(tmp_path))
    ui = module.ui
    ui.samplesSpinBox.value = 1
    ui.addVolumesButton.click()
    ui.addFolderButton.click()
    ui.batchButton.click()
    pumpUntil(lambda: ui.batchButton.text == "Segment all")
    assert [item.state for item in module.widget.panel._batch.items] == ["done"] * 4 and len(loaded) == 3
    ui.clearBatchButton.click()
    select(module, "Brain structures (MR head)")
    ui.addFolderButton.click()
    assert "no NRRD, NIfTI or MetaImage" in ui.batchLabel.text


@pytest.mark.slow
def test_a_colour_picture_with_the_real_worker(openPanel, makeModel, tmp_path, addPicture, run, photograph):
    import qt

    folder = makeModel(tmp_path / "models" / "colours", title="Colours", **COLOUR)
    qt.QSettings().setValue("DiffusionSegmentation/modelsFolder", str(folder.parent))
    picture = addPicture(components=4)
    module = openPanel("real")
    select(module, "Colours")
    job = run(module, samples=3)
    assert job.state == "done", (job.message, list(module.runner.client.log)[-20:])
    assert job.report["unit"] == "px" and job.report["input"]["size_ijk"] == [96, 80, 1]
    shape = slicer.util.arrayFromVolume(picture).shape[:3]
    assert slicer.util.arrayFromVolume(job.result.entropyNode).shape == shape
    assert "transparency" in module.ui.warningsLabel.text
    assert headers(module.ui.volumesTable)[1] == "Expected (px)"
    if module.ui.nextButton.enabled:
        module.ui.nextButton.click()
    assert "torch" not in sys.modules
    photograph("picture-real", module.widget)
