"""Models of several inputs: one selector for each, filled by name, and a run that gets all volumes."""

import numpy as np
import pytest
import slicer
import slicer.util
import slicer_standin

from diffusion_segmentation.images.input_names import Input
from DiffusionSegmentationLib.report.page import Report
from DiffusionSegmentationLib.runs import input_volumes
from DiffusionSegmentationLib.runs.handover import HandoverError
from DiffusionSegmentationLib.runs.job import Choices

slicer_standin.likePythonQt(__name__)

TWO = [{"name": "T1"}, {"name": "FLAIR"}]


class Named:
    """Stands for a volume node, of which only the name matters."""

    def __init__(self, name):
        self.GetName = lambda: name


@pytest.mark.parametrize(
    ("inputs", "first", "names", "expected"),
    [
        ("T1 FLAIR", "p_T1", "p_FLAIR p_T1", "p_T1 p_FLAIR"),
        ("T1 FLAIR", "a-T1", "b-FLAIR a-FLAIR", "a-T1 a-FLAIR"),  # of the same patient
        ("T1 FLAIR", "c T1", "b FLAIR,a FLAIR", "c T1,"),  # it is unknown which of the two
        ("T1 FLAIR", "p_FLAIR", "p_T1 q_T1", "p_T1 p_FLAIR"),  # the first volume of the scene was another input's
        ("T1 FLAIR", "MRHead", "FLAIR", "MRHead FLAIR"),
        ("T1 FLAIR", "p_FLAIR", "", "p_FLAIR "),  # there is no better one, and none is taken twice
        ("T1 FLAIR", "", "p_T1 p_FLAIR", "p_T1 p_FLAIR"),
        ("T1 T2 FLAIR", "p_T1", "p_T2 p_T2_FLAIR", "p_T1 p_T2 p_T2_FLAIR"),
        ("T1 T1Gd", "p_T1", "p_t1_gd", "p_T1 p_t1_gd"),
        ("T1 T2", "p_T1", "p_T2w LAST2", "p_T1 "),  # no part of a word
    ],
)
def test_volumes_are_found_by_the_names_of_the_inputs(inputs, first, names, expected):
    def split(text):
        return text.split("," if "," in text else " ") if text else []

    nodes = {name: Named(name) for name in [first, *split(names)] if name}
    wanted = [Input(name) for name in inputs.split()]
    found = input_volumes.matched(wanted, {wanted[0].name: nodes.get(first)}, list(nodes.values()))
    assert [node.GetName() if node else "" for node in found.values()] == split(expected)


@pytest.fixture
def module(openPanel, addModel, addHead):
    """The panel with the fake worker, T1 and FLAIR of a patient in the scene, and a model of both, not yet selected."""
    addModel("several", inputs=TWO)
    addHead("patient_T1")
    addHead("patient_FLAIR", size=32)
    return openPanel("good", "0.01")


def select(module, title):
    module.ui.modelComboBox.currentIndex = module.ui.modelComboBox.findText(title)


def rows(module):
    """Label and volume of each visible selector."""
    layout = module.ui.inputsCollapsibleButton.layout()
    shown = []
    for row in range(layout.rowCount()):
        label, field = (
            layout.itemAt(row, role).widget() for role in (layout.ItemRole.LabelRole, layout.ItemRole.FieldRole)
        )
        if isinstance(field, slicer.qMRMLNodeComboBox) and field.isVisibleTo(field.parentWidget()):
            shown.append((label.text, field.currentNode().GetName() if field.currentNode() else None))
    return shown


def selector(module, number):
    return module.ui.inputsCollapsibleButton.findChild(slicer.qMRMLNodeComboBox, f"inputSelector{number}")


def test_a_selector_for_each_input_comes_and_goes_with_the_model(module, photograph):
    assert rows(module) == [("Volume:", "patient_T1")]
    select(module, "Several")
    assert rows(module) == [("T1:", "patient_T1"), ("FLAIR:", "patient_FLAIR")]
    assert "Volume of the input FLAIR" in selector(module, 2).toolTip
    assert "result lies on its grid" in module.ui.inputSelector.toolTip
    assert module.ui.segmentButton.enabled
    photograph("two-inputs", module.widget)
    photograph("two-inputs-section", module.widget, part=module.ui.inputsCollapsibleButton)
    select(module, "Brain structures (MR head)")
    assert rows(module) == [("Volume:", "patient_T1")] and module.ui.inputSelector.toolTip.startswith("Volume to")


def test_an_empty_selector_and_one_volume_for_two_inputs_disable_segment(module, photograph):
    select(module, "Several")
    selector(module, 2).setCurrentNode(None)
    sentence = "Select the volume of the input FLAIR."
    ui = module.ui
    assert not ui.segmentButton.enabled and ui.segmentButton.toolTip == ui.statusLabel.text == sentence
    selector(module, 2).setCurrentNode(slicer.util.getNode("patient_T1"))
    sentence = "The volume 'patient_T1' is selected for two inputs; select another one for FLAIR."
    assert not ui.segmentButton.enabled and ui.segmentButton.toolTip == ui.statusLabel.text == sentence
    photograph("two-inputs-duplicate", module.widget)
    selector(module, 2).setCurrentNode(slicer.util.getNode("patient_FLAIR"))
    assert ui.segmentButton.enabled


def test_volumes_that_are_loaded_later_fill_the_selectors(module, addHead, pumpUntil, mrmlScene):
    select(module, "Several")
    for name in ("patient_T1", "patient_FLAIR"):
        mrmlScene.RemoveNode(slicer.util.getNode(name))
    pumpUntil(lambda: rows(module) == [("T1:", None), ("FLAIR:", None)])
    for name in ("other_FLAIR", "other_T1"):
        addHead(name)
    pumpUntil(lambda: rows(module) == [("T1:", "other_T1"), ("FLAIR:", "other_FLAIR")])
    selector(module, 2).setCurrentNode(None)  # and a choice of the user stays
    module.widget.panel.refresh()
    assert rows(module) == [("T1:", "other_T1"), ("FLAIR:", None)]


def test_the_run_gets_all_volumes_by_the_names_of_the_inputs(module, run):
    select(module, "Several")
    slicer.util.arrayFromVolume(slicer.util.getNode("patient_FLAIR"))[:] += 70
    slicer.util.arrayFromVolumeModified(slicer.util.getNode("patient_FLAIR"))
    job = run(module)
    assert job.state == "done"
    nodes = {"T1": slicer.util.getNode("patient_T1"), "FLAIR": slicer.util.getNode("patient_FLAIR")}
    means = {name: slicer.util.arrayFromVolume(node).mean() for name, node in nodes.items()}
    assert job.report["means"] == pytest.approx(means) and job.volumeName == "patient_T1"
    assert job.result.segmentationNode.GetName() == "patient_T1 segmentation"
    command = Report(job.result.segmentationNode).command()
    assert "segment --input T1=VOLUME1 --input FLAIR=VOLUME2 --model" in command


def test_a_saved_scene_keeps_the_choice(module, application, tmp_path, pumpUntil, addHead):
    select(module, "Several")
    addHead("another")
    selector(module, 2).setCurrentNode(slicer.util.getNode("another"))
    path = tmp_path / "Fall ü.mrb"
    assert slicer.mrmlScene.WriteToMRB(str(path))
    slicer.mrmlScene.Clear(False)
    assert rows(module) == [("Volume:", None)]
    assert application.headless.logic.OpenSlicerDataBundle(str(path), str(tmp_path))
    pumpUntil(lambda: rows(module) == [("T1:", "patient_T1"), ("FLAIR:", "another")])


def test_the_batch_takes_models_of_one_input(module, addHead):
    ui = module.ui
    ui.addVolumesButton.click()
    assert ui.batchButton.enabled
    select(module, "Several")
    sentence = "The batch takes models of one input; choose another model."
    for button in (ui.batchButton, ui.addVolumesButton, ui.addFolderButton, ui.addSequenceButton):
        assert not button.enabled and button.toolTip == sentence
    assert ui.batchLabel.text == sentence
    select(module, "Brain structures (MR head)")
    assert ui.batchButton.enabled and ui.addVolumesButton.enabled and sentence not in ui.batchLabel.text


def test_a_script_names_the_volumes(module):
    nodes = {"T1": slicer.util.getNode("patient_T1"), "FLAIR": slicer.util.getNode("patient_FLAIR")}
    logic, choices = module.widget.logic, Choices("several", samples=1)
    job = logic.segment(nodes["T1"], choices, nodes)
    assert job.state == "done" and list(job.report["means"]) == ["T1", "FLAIR"]
    with pytest.raises(HandoverError, match=r"^Select the volume of the input FLAIR\.$"):
        logic.segment(nodes["T1"], choices)


@pytest.mark.slow
def test_two_inputs_with_the_real_worker(openPanel, makeModel, tmp_path, addVolume, addHead, run, photograph):
    """The second volume has another grid, and its other half lies outside of the first."""
    import qt

    folder = makeModel(tmp_path / "models" / "pair", title="Pair", inputs=TWO, network={"inputs": 2})
    qt.QSettings().setValue("DiffusionSegmentation/modelsFolder", str(folder.parent))
    first, second = addHead("p_T1", size=44), addHead("p_FLAIR", size=32)
    second.SetOrigin(*np.add(first.GetOrigin(), (96, 0, 0)))
    module = openPanel("real")
    select(module, "Pair")
    assert rows(module) == [("T1:", "p_T1"), ("FLAIR:", "p_FLAIR")]
    job = run(module)
    assert job.state == "done", (job.message, list(module.runner.client.log)[-20:])
    assert job.report["input"]["names"] == ["T1", "FLAIR"]
    shown = module.ui.warningsLabel.text
    assert "The input FLAIR was resampled to the grid of the first input." in shown
    assert "The input FLAIR covers only 41 % of the first input" in shown
    assert job.result.segmentationNode.GetNodeReference("DiffusionSegmentation.Volume") is first
    photograph("two-inputs-real", module.widget)
