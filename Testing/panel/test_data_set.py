"""The button "Add to my data set": a corrected case goes into a folder from which `train` reads it."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import slicer
import slicer.util
import slicer_standin

from DiffusionSegmentationLib.runs import case_export, models
from DiffusionSegmentationLib.runs.worker_client import ENGINE_FOLDER
from DiffusionSegmentationLib.scene.label_map import Labels

slicer_standin.likePythonQt(__name__)

DENOISER = {"channels": [8, 16], "blocks": 1, "strata": 0, "gain": 0, "pools": []}
NETWORK = {"encoder": {"channels": [8, 16], "blocks": [1, 1]}, "denoiser": DENOISER}  # those of `randomModel`
SHORT = {
    "diffusion_segmentation": {"network": NETWORK, "working_spacing_mm": 4.0, "steps": {"cpu": 2, "gpu": 2}},
    "optimisation": {"iterations": 3, "warm_up": 1, "shapes": [[16, 16, 16]]},
}


class FakeCommand:
    """In place of a command of the engine: still running until it is `finish`ed."""

    def __init__(self, arguments):
        self.arguments, self.running, self.message = list(arguments), True, ""

    def finish(self, message):
        self.running, self.message = False, message

    def files(self):
        """Content of the files of --labels and --review, as long as they exist."""
        review = Path(self.arguments[self.arguments.index("--review") + 1])
        return review, json.loads(review.read_text(encoding="utf-8"))


@pytest.fixture
def commands(monkeypatch):
    """The commands that the panel has started."""
    from DiffusionSegmentationLib.panel.backend import Backend

    started = []
    monkeypatch.setattr(
        Backend, "command", lambda _self, arguments: started.append(FakeCommand(arguments)) or started[-1]
    )
    return started


def choose(monkeypatch, *folders):
    from DiffusionSegmentationLib.panel import dialogs

    answers = [str(folder) for folder in folders]
    asked = []
    monkeypatch.setattr(dialogs, "selectFolder", lambda *given: asked.append(given[2]) or answers.pop(0))
    return asked


def test_a_click_hands_over_files_and_facts_and_shows_the_outcome(
    openPanel, addHead, run, pumpUntil, commands, tmp_path, monkeypatch, photograph
):
    addHead("Mrs Example", size=12)
    module = openPanel()
    ui, asked = module.ui, choose(monkeypatch, tmp_path / "Klinik ü", tmp_path / "Klinik ü", "")
    assert not ui.addCaseButton.enabled and "no result yet" in ui.addCaseButton.toolTip
    run(module)
    ui.nextButton.click()
    ui.doneButton.click()
    ui.addCaseButton.click()
    assert not ui.addCaseButton.enabled and ui.addCaseButton.toolTip == "A case is being added."
    pumpUntil(lambda: commands)
    assert commands[0].arguments[:2] == ["add-case", str(tmp_path / "Klinik ü")]
    path, facts = commands[0].files()
    assert facts["edited_voxels"] == 0 and facts["model"]["name"] == "brain-structures"
    assert "done" in [region["state"] for region in facts["review"]["regions"]]
    assert "Example" not in json.dumps(facts), "a name can be that of the patient"
    photograph("data-set-busy", module.widget, part=ui.reportCollapsibleButton)
    commands[0].finish("Added the case 'case_014' to the data set 'Clinic', which has 14 cases now.")
    pumpUntil(lambda: ui.addCaseButton.enabled)
    assert ui.addCaseLabel.text == commands[0].message and ui.addCaseLabel.visible
    pumpUntil(lambda: not path.parent.exists())
    photograph("data-set", module.widget, part=ui.reportCollapsibleButton)
    ui.addCaseButton.click()
    pumpUntil(lambda: len(commands) == 2)
    commands[1].finish("The image is in the data set already.")
    pumpUntil(lambda: ui.addCaseButton.enabled)
    assert ui.addCaseLabel.text == "The image is in the data set already."
    ui.addCaseButton.click()  # the dialog was cancelled
    assert asked == ["", *[str(tmp_path / "Klinik ü")] * 2] and len(commands) == 2


def test_a_removed_volume_is_one_sentence(openPanel, addHead, run, commands, tmp_path, monkeypatch):
    volumeNode = addHead(size=12)
    module = openPanel()
    run(module)
    choose(monkeypatch, tmp_path)
    slicer.mrmlScene.RemoveNode(volumeNode)
    module.ui.addCaseButton.click()
    assert module.ui.addCaseLabel.text == "The volume of this result was removed." and module.ui.addCaseButton.enabled


def test_an_edit_while_the_files_are_written_is_noticed(
    openPanel, addHead, run, pumpUntil, commands, tmp_path, monkeypatch
):
    volumeNode = addHead(size=12)
    module = openPanel()
    run(module)
    choose(monkeypatch, tmp_path)
    module.ui.addCaseButton.click()
    slicer.util.arrayFromVolume(volumeNode)[0, 0, 0] = 77
    slicer.util.arrayFromVolumeModified(volumeNode)
    pumpUntil(lambda: module.ui.addCaseButton.enabled)
    assert "was modified while" in module.ui.addCaseLabel.text and not commands


@pytest.mark.slow
def test_closing_the_panel_gives_up(openPanel, addHead, run, pumpUntil, commands, tmp_path, monkeypatch):
    addHead(size=12)
    module = openPanel()
    run(module)
    choose(monkeypatch, tmp_path)
    module.ui.addCaseButton.click()
    pumpUntil(lambda: commands)
    folder = commands[0].files()[0].parent
    openPanel()  # closes the other one
    deadline = time.monotonic() + 10
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not folder.exists()


def test_the_channel_is_named_after_the_modality_of_the_model(addModel):
    addModel("ct", sha256="a" * 64, input_range={"modality": "CT"})
    addModel("colour", sha256="b" * 64, inputs=[{"name": "Colour", "channels": 3}])
    addModel("two", sha256="c" * 64, inputs=[{"name": "T1"}, {"name": "FLAIR"}])
    addModel("mr", sha256="d" * 64)
    entries = models.models()
    names = [case_export.channelName({"model": {"sha256": digit * 64}}, entries) for digit in "abcde"]
    assert names == ["CT", "Colour", "", "MRI", ""]


def engine(*arguments):
    """A command of the engine; returns its output."""
    command = [sys.executable, "-X", "utf8", "-m", "diffusion_segmentation", *map(str, arguments)]
    ended = subprocess.run(command, cwd=ENGINE_FOLDER, capture_output=True, encoding="utf-8", check=False)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def correct(segmentationNode, corner):
    """Paint a block of the first structure; returns the number of changed voxels."""
    labels = Labels(segmentationNode)
    mask = np.zeros(labels.shape, bool)
    mask[tuple(slice(corner, corner + 6) for _ in range(3))] = True
    return labels.write(np.full(labels.shape, 1, np.uint8), mask)


@pytest.mark.slow
def test_two_corrected_cases_are_added_trained_on_and_a_case_is_segmented(
    openRealPanel, addHead, randomModel, run, pumpUntil, tmp_path, monkeypatch
):
    folder, edits, corrected = tmp_path / "Klinik ü", [], []
    choose(monkeypatch, folder, folder, folder)
    for name, size in (("First", 44), ("Second", 40)):
        head = addHead(name, size=size)
        module = openRealPanel()
        module.ui.inputSelector.setCurrentNode(head)
        node = run(module).result.segmentationNode
        edits.append(correct(node, 8))
        corrected.append(Labels(node).current())
        module.ui.addCaseButton.click()
        pumpUntil(lambda ui=module.ui: ui.addCaseButton.enabled)
        assert module.ui.addCaseLabel.text.startswith("Added the case 'case_00"), module.ui.addCaseLabel.text
    module.ui.addCaseButton.click()
    pumpUntil(lambda: module.ui.addCaseButton.enabled)
    assert "already, as 'case_002'" in module.ui.addCaseLabel.text

    reviews = [json.loads((folder / "reviewsTr" / f"case_00{n}.json").read_text(encoding="utf-8")) for n in (1, 2)]
    assert [review["edited_voxels"] for review in reviews] == edits and min(edits) > 0
    listing = json.loads((folder / "dataset.json").read_text(encoding="utf-8"))
    assert listing["channel_names"] == {"0": "MRI"} and listing["numTraining"] == 2
    assert listing["labels"] == {"background": 0, "Structure 1": 1, "Structure 2": 2}

    (tmp_path / "short.json").write_text(json.dumps(SHORT), encoding="utf-8")
    engine("train", folder, "--start", randomModel, "--output", tmp_path / "model", "--config", tmp_path / "short.json")
    stored = folder / "imagesTr" / "case_001_0000.nii.gz"
    report = json.loads(
        engine("segment", stored, "--model", tmp_path / "model", "--output", tmp_path / "out", "--json")
    )
    assert [entry["name"] for entry in report["volumes"]] == ["Structure 1", "Structure 2"]
    metadata = json.loads((tmp_path / "model" / "metadata.json").read_text(encoding="utf-8"))
    training = metadata["diffusion_segmentation"]["training"]
    assert sorted(training["data"]["cases"] + training["data"]["held_out"]) == ["case_001", "case_002"]
    assert training["started_from"]["share_of_weights"] > 0.99
