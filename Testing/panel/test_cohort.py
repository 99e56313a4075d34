"""The section Cohort: cases in the order of the triage page, one in the scene at a time, and no work lost."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util
import slicer_standin

from DiffusionSegmentationLib.headless import demo
from DiffusionSegmentationLib.review.review import DONE, Review
from DiffusionSegmentationLib.runs import cohort as cohorts
from DiffusionSegmentationLib.runs.worker_client import ENGINE_FOLDER
from DiffusionSegmentationLib.scene.label_map import Labels

slicer_standin.likePythonQt(__name__)

MAKE = """
import sys
from pathlib import Path
sys.path[:0] = sys.argv[1:3]
from cohorts import set_report, write_cohort
from diffusion_segmentation.cohort.triage import write_triage
spreads = {"First of a long name sub-0001": 0.3, "Second": 1.0, "Third": 0.6}
folder = write_cohort(Path(sys.argv[3]), spreads, ("Failed",))
set_report(folder, "key0", input={"distance": 9.0, "limit": 3.0, "unlike_training": True})
write_triage(folder)
"""
ORDER = ["Second", "Third", "First of a long name sub-0001"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A cohort that another process has written, because this one must not import torch."""
    folder = tmp_path_factory.mktemp("Kohorte ü")
    engine = Path(__file__).resolve().parents[1] / "engine"
    subprocess.run([sys.executable, "-c", MAKE, str(engine), str(ENGINE_FOLDER), str(folder)], check=True)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return Path(shutil.copytree(finished, tmp_path / "cohort"))


@pytest.fixture
def opened(openPanel, folder, monkeypatch, pumpUntil):
    """The panel with the cohort opened, and a function that clicks a button and waits for its case."""
    monkeypatch.setattr(slicer.util, "loadVolume", lambda path, _options: demo.loadVolume(Path(path)), raising=False)
    monkeypatch.setattr("DiffusionSegmentationLib.panel.dialogs.selectFolder", lambda *_given: str(folder))
    module = openPanel()

    def click(button):
        button.click()
        pumpUntil(lambda: module.ui.openCohortButton.enabled)

    module.click = click
    module.ui.cohortCollapsibleButton.collapsed = False
    click(module.ui.openCohortButton)
    assert shown(module) is not None, module.ui.cohortLabel.text
    return module


def names(kind):
    return sorted(node.GetName() for node in slicer.util.getNodesByClass(kind))


def shown(module):
    return module.widget.logic.getParameterNode().segmentation


def edit(node):
    labels = Labels(node)
    array = slicer.util.arrayFromSegmentBinaryLabelmap(node, node.GetSegmentation().GetNthSegmentID(0))
    array = np.array(array)
    array[:4, :4, :4] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(array, node, node.GetSegmentation().GetNthSegmentID(0))
    assert labels.edited()


@pytest.mark.slow
def test_each_case_replaces_the_one_before(opened, photograph):
    ui = opened.ui
    seen = []
    for _turn in ORDER:
        seen.append(ui.caseComboBox.itemText(ui.caseComboBox.currentIndex))
        name = seen[-1].partition(" ")[2]
        assert names("vtkMRMLSegmentationNode") == [f"{name} segmentation"] == [shown(opened).GetName()]
        assert opened.widget.logic.getParameterNode().inputVolume.GetName() == name
        volumes = [
            one for one in names("vtkMRMLScalarVolumeNode") if "entropy" not in one and "disagreement" not in one
        ]
        assert volumes == [name]
        if len(seen) == 1:
            photograph("cohort", opened.widget)
        if ui.nextCaseButton.enabled:
            opened.click(ui.nextCaseButton)
    assert seen == [f"{n}. {name}" for n, name in enumerate(ORDER, 1)]
    assert ui.nextCaseButton.toolTip == "This is the last case." and ui.previousCaseButton.enabled
    dice = json.loads(shown(opened).GetAttribute("DiffusionSegmentation.Run"))["expected_dice"]
    unlike = "The scan is unlike those that the model was made for."
    assert ui.cohortLabel.text == f"Case 3 of 3: expected Dice {dice:.3f}. {unlike}"
    opened.click(ui.previousCaseButton)
    assert shown(opened).GetName().startswith("Third segmentation")


@pytest.mark.slow
def test_warned_scans_come_first_if_wanted(opened):
    ui = opened.ui
    ui.warnedFirstCheckBox.click()
    assert ui.caseComboBox.itemText(0) == f"1. {ORDER[2]}" and ui.cohortLabel.text.startswith("Case 2 of 3")
    opened.click(ui.previousCaseButton)
    assert shown(opened).GetName() == f"{ORDER[2]} segmentation"


@pytest.mark.slow
@pytest.mark.parametrize("work", ["correction", "review", "segment", "second result"])
def test_corrections_and_reviews_are_not_lost_without_a_question(opened, monkeypatch, work):
    asked, answers = [], [False, True]

    def ask(text, **_options):
        asked.append(text)
        return answers.pop(0)

    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", ask)
    node = shown(opened)
    if work == "correction":
        edit(node)
    elif work == "segment":
        node.GetSegmentation().AddEmptySegment("mine", "Mine")
    elif work == "second result":  # as after an update, which is the shown one; the first has the edits
        other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Other")
        other.Copy(node)
        edit(node)
        opened.widget.logic.getParameterNode().segmentation = node = other
    else:
        review = Review(node)
        review.mark(review.regions[0], DONE)
    opened.click(opened.ui.nextCaseButton)
    assert len(asked) == 1 and shown(opened) is node and node.GetScene() is not None
    assert opened.ui.cohortLabel.text.startswith("Case 1 of 3")
    opened.click(opened.ui.nextCaseButton)
    assert len(asked) == 2 and shown(opened).GetName() == "Third segmentation" and node.GetScene() is None
    opened.click(opened.ui.nextCaseButton)
    assert len(asked) == 2  # nothing was done in this one


@pytest.mark.slow
def test_a_case_that_cannot_be_shown_leaves_the_one_before_and_can_be_passed(opened, folder):
    (folder / "cases" / "key2" / "entropy.nrrd").write_bytes(b"NRRD0004\n")
    opened.click(opened.ui.nextCaseButton)
    assert "The case 'Third' cannot be shown (" in opened.ui.cohortLabel.text
    assert opened.ui.cohortLabel.text.endswith("; the one before it stays.")
    assert names("vtkMRMLSegmentationNode") == ["Second segmentation"] == [shown(opened).GetName()]
    opened.click(opened.ui.nextCaseButton)
    assert shown(opened).GetName() == f"{ORDER[2]} segmentation"


@pytest.mark.slow
def test_a_volume_that_was_moved_is_named(opened, folder):
    index = json.loads((folder / "cohort.json").read_text(encoding="utf-8"))
    for case in index["cases"]:
        case["inputs"] = ["/nowhere/volume.nrrd"]
    (folder / "cohort.json").write_text(json.dumps(index), encoding="utf-8")
    opened.click(opened.ui.openCohortButton)
    assert "The volume of 'Second' is not where it was" in opened.ui.cohortLabel.text
    assert shown(opened).GetName() == "Second segmentation"


@pytest.mark.slow
def test_closing_the_scene_while_a_case_opens_leaves_nothing(opened, mrmlScene, pumpUntil):
    opened.ui.nextCaseButton.click()
    mrmlScene.Clear(False)
    pumpUntil(lambda: opened.ui.openCohortButton.enabled)
    assert names("vtkMRMLSegmentationNode") == names("vtkMRMLScalarVolumeNode") == []
    opened.click(opened.ui.nextCaseButton)
    assert shown(opened).GetName().startswith("Second segmentation")  # from the first case on


def test_another_folder_is_refused_with_a_sentence(openPanel, tmp_path, monkeypatch):
    monkeypatch.setattr("DiffusionSegmentationLib.panel.dialogs.selectFolder", lambda *_given: str(tmp_path))
    module = openPanel()
    module.ui.openCohortButton.click()
    assert "is not the folder of a cohort" in module.ui.cohortLabel.text
    assert not module.ui.nextCaseButton.enabled and module.ui.nextCaseButton.toolTip == "Open a cohort first."
    for name in ("cohort.json", "triage.json"):
        (tmp_path / name).write_text('{"cases": []}')
    module.ui.openCohortButton.click()
    assert "no finished case yet" in module.ui.cohortLabel.text


def test_a_dicom_folder_is_loaded_by_its_series(tmp_path, monkeypatch, addHead):
    calls = []

    class Database:
        def __enter__(self):
            return "database"

        def __exit__(self, *_error):
            calls.append("closed")

    class DICOMUtils:
        TemporaryDICOMDatabase = Database

        @staticmethod
        def importDicom(folder, database):
            calls.append((folder, database))

        @staticmethod
        def loadSeriesByUID(uids):
            calls.append(uids)
            return [addHead("Head").GetID()]

    monkeypatch.setitem(sys.modules, "DICOMLib", type(sys)("DICOMLib"))
    sys.modules["DICOMLib"].DICOMUtils = DICOMUtils
    case = cohorts.Case("sub-01", tmp_path, tmp_path, "1.2.3", None, None)
    assert cohorts._loadVolume(case).GetName() == "sub-01"
    assert calls == [(str(tmp_path), "database"), ["1.2.3"], "closed"]
