"""The list of installed models: added from folders and archives, chosen, and removed, with the real engine."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import slicer.util
import slicer_standin

slicer_standin.likePythonQt(__name__)


@pytest.fixture
def root(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUSION_SEGMENTATION_MODELS", str(tmp_path / "added"))
    # The worker's environment is that in which Slicer was started.
    startup = dict(slicer.util.startupEnvironment()) | {"DIFFUSION_SEGMENTATION_MODELS": str(tmp_path / "added")}
    monkeypatch.setattr(slicer.util, "startupEnvironment", lambda: startup)
    return tmp_path / "added"


def written(folder, module, function):
    """The folder that a function of a module of the engine's tests writes; in a process that may import torch."""
    testing = Path(__file__).resolve().parents[1]
    code = "import sys, pathlib; sys.path[:0] = sys.argv[1:3]; import {0}; {0}.{1}(pathlib.Path(sys.argv[3]))"
    paths = testing / "engine", testing.parent / "DiffusionSegmentation", folder
    subprocess.run([sys.executable, "-c", code.format(module, function), *map(str, paths)], check=True)
    return folder


def rows(module):
    table = module.ui.modelsTable
    return [[table.item(row, column).text() for column in range(3)] for row in range(table.rowCount)]


def choices(module):
    combo = module.ui.modelComboBox
    return [combo.itemText(index) for index in range(combo.count)]


def choose(monkeypatch, path):
    from DiffusionSegmentationLib.panel import dialogs

    monkeypatch.setattr(dialogs, "selectFolder", lambda *_arguments: str(path))
    monkeypatch.setattr(dialogs, "selectFiles", lambda *_arguments: [str(path)])
    monkeypatch.setattr(dialogs, "confirmModelRemoval", lambda _title, _dependents: True)


def changed(module, pumpUntil):
    """Wait for the end of the command; return its message."""
    pumpUntil(lambda: module.ui.addModelFolderButton.enabled, seconds=60)
    return module.ui.modelsLabel.text


@pytest.mark.slow
def test_a_model_is_added_chosen_and_removed(openPanel, addHead, randomModel, root, pumpUntil, monkeypatch, photograph):
    addHead(size=8)
    module = openPanel("real")
    ui = module.ui
    ui.advancedCollapsibleButton.collapsed = False
    assert [row[0] for row in rows(module)] == ["Brain structures (MR head)"] and rows(module)[0][2] == "included"
    ui.modelsTable.selectRow(0)
    assert not ui.removeModelButton.enabled and "Only models that were added" in ui.removeModelButton.toolTip
    choose(monkeypatch, randomModel)
    ui.addModelFolderButton.click()
    assert not ui.addModelFolderButton.enabled and ui.modelsLabel.text == "Checking the model"
    assert changed(module, pumpUntil).startswith("Added the model 'random' in ")
    assert [row[0] for row in rows(module)] == ["Brain structures (MR head)", "Random weights"]
    assert rows(module)[1][2] == Path(randomModel).name
    photograph("models", module.widget, part=ui.advancedCollapsibleButton)
    assert module.widget.logic.getParameterNode().model == "brain-structures"
    ui.modelComboBox.currentIndex = 1
    assert module.widget.logic.getParameterNode().model == str(root / "random")
    ui.modelsTable.selectRow(1)
    assert ui.removeModelButton.enabled
    ui.removeModelButton.click()
    assert changed(module, pumpUntil) == "Removed the model 'random'"
    assert not (root / "random").exists() and len(rows(module)) == 1
    assert not ui.segmentButton.enabled and "is not installed" in ui.segmentButton.toolTip


@pytest.mark.slow
def test_an_archive_without_a_model_is_refused_with_a_sentence(openPanel, root, pumpUntil, monkeypatch, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "readme.txt").write_text("x")
    archive = shutil.make_archive(str(tmp_path / "a"), "zip", tmp_path / "folder")
    module = openPanel("real")
    choose(monkeypatch, archive)
    module.ui.addModelArchiveButton.click()
    assert changed(module, pumpUntil) == "The archive 'a.zip' has no model; give the archive of one model folder."
    assert len(rows(module)) == 1


@pytest.mark.slow
def test_a_trained_nnunet_is_added_and_listed(openPanel, root, pumpUntil, monkeypatch, tmp_path):
    module = openPanel("real")
    module.ui.advancedCollapsibleButton.collapsed = False
    choose(monkeypatch, written(tmp_path / "trained", "nnunet_folders", "write_folder"))
    module.ui.addModelFolderButton.click()
    assert changed(module, pumpUntil).startswith("Added the model 'Dataset001_Ball-3d_fullres' in ")
    assert rows(module)[1][0] == "Dataset001_Ball (nnU-Net 3d_fullres)" and rows(module)[1][2] == "trained"
    assert choices(module) == ["Brain structures (MR head)", "Dataset001_Ball (nnU-Net 3d_fullres) (no samples yet)"]
    (root / "Dataset001_Ball-3d_fullres" / "fold_1.safetensors").unlink()
    from DiffusionSegmentationLib.runs import models

    assert [entry.title for entry in models.models((root,))] == ["Brain structures (MR head)"]


@pytest.mark.slow
def test_a_monai_bundle_is_added_listed_and_marked(openPanel, root, pumpUntil, monkeypatch, tmp_path):
    module = openPanel("real")
    module.ui.advancedCollapsibleButton.collapsed = False
    choose(monkeypatch, written(tmp_path / "bundle", "monai_bundles", "write_bundle"))
    module.ui.addModelFolderButton.click()
    assert changed(module, pumpUntil).startswith("Added the model 'bundle' in ")
    assert [row[0] for row in rows(module)] == ["Ball and core (MONAI UNet)", "Brain structures (MR head)"]
    assert choices(module) == ["Ball and core (MONAI UNet) (no samples yet)", "Brain structures (MR head)"]


def test_models_that_need_another_one_are_named_before_it_is_removed(openPanel, monkeypatch):
    openPanel()
    from DiffusionSegmentationLib.panel import dialogs
    from DiffusionSegmentationLib.runs.models import Entry, dependents

    def entry(title, digest, frozen=""):
        return Entry(title, title, "", (), Path(title), 1, "", True, True, digest=digest, frozen=frozen)

    network, copy, sampler = entry("Net", "a"), entry("Copy", "a"), entry("Sampler", "b", frozen="a")
    assert dependents(network, [network, sampler]) == [sampler] and dependents(sampler, [network, sampler]) == []
    assert dependents(network, [network, copy, sampler]) == []
    asked = []
    monkeypatch.setattr(slicer.util, "confirmYesNoDisplay", lambda text, **_: asked.append(text))
    dialogs.confirmModelRemoval("Net", ["Sampler"])
    dialogs.confirmModelRemoval("Net", [])
    question = "Delete the model 'Net' from this computer?"
    assert asked == [f"{question} These models cannot run without it: Sampler.", question]


def test_texts_of_a_network_without_samples():
    from DiffusionSegmentationLib.runs import status_texts

    report = {"samples": 0, "requested_samples": 1, "partial": False, "map_source": "network"}
    report |= {"network": {"class": "UNet", "bundle": "1"}, "model": {"title": "Ball"}}
    assert status_texts.doneText(report, 12.3) == "Done in 12 s."
    assert status_texts.mapSource(report) == "the class probabilities of the model's network"
    assert not status_texts.isSampled(report) and status_texts.isSampled({"samples": 3})


@pytest.mark.parametrize(
    ("partial", "sentence"),
    [(False, "Done: 2 folds in 12 s."), (True, "Stopped after 2 of 5 folds; the result uses these.")],
)
def test_texts_name_the_folds_of_an_nnunet(partial, sentence):
    from DiffusionSegmentationLib.runs import status_texts

    report = {"samples": 2, "requested_samples": 5, "partial": partial, "map_source": "folds"}
    report |= {"folds": {"names": ["0", "1"]}, "model": {"title": "Ball"}}
    assert status_texts.doneText(report, 12.3) == sentence
    assert status_texts.mapSource(report) == "the average class probabilities of the model's folds"
