"""Answers of the section Measurements after an update: the same questions, answered from the new samples."""

import json

import pytest
import slicer
import slicer_standin
from update_bench import paint

from DiffusionSegmentationLib.scene.result_nodes import RUN_ATTRIBUTE, SAMPLES_ROLE, reportOf

slicer_standin.likePythonQt(__name__)


@pytest.fixture
def ask(pumpUntil):
    """Asks for the volume of a structure, or whether it exceeds a number of ml; returns the rows of all answers."""

    def click(module, structure, comparison="", threshold=0.0, samples=0):
        ui = module.ui
        for combo, key in (
            (ui.measurementComboBox, "volume"),
            (ui.structureAComboBox, structure),
            (ui.comparisonComboBox, comparison),
            (ui.askSamplesComboBox, samples),
        ):
            combo.currentIndex = combo.findData(key)
        ui.thresholdSpinBox.value = threshold
        ui.askButton.click()
        pumpUntil(lambda: not module.backend.asker.busy, describe=lambda: list(module.runner.client.log)[-20:])
        return rows(ui)

    return click


def rows(ui):
    return [[ui.answersTable.item(n, column).text() for column in range(2)] for n in range(ui.answersTable.rowCount)]


def volumeOf(node, structure):
    return next(entry for entry in reportOf(node)["volumes"] if entry["id"] == structure)


@pytest.mark.slow
def test_questions_are_answered_again_from_the_new_samples_and_undo_brings_back_the_former_answers(
    first, ask, update, settle, pumpUntil, photograph, tmp_path, monkeypatch
):
    module, node = first
    ui = module.ui
    limit = round(volumeOf(node, "grey_matter")["samples_ml"][0], 1)
    ask(module, "grey_matter", ">", limit)
    before = ask(module, "white_matter")
    assert [question.split(" >")[0] for question, _lines in before] == [
        "Volume of White matter",
        "Volume of Grey matter",
    ]
    painted = paint(node, (4, 5, 6), 2)
    settle(module)
    assert "The questions of Measurements are asked again, which takes further time" in ui.updateLabel.text
    updated = update(module)
    after = rows(ui)
    assert [question for question, _lines in after] == [question for question, _lines in before]
    for (_question, lines), (_same, former) in zip(after, before, strict=True):
        count, last = former.count("\n") + 1, former.splitlines()[-1]
        new, told = lines.splitlines()[:count], lines.splitlines()[count:]
        assert told == [f"before: {former.splitlines()[0]}", last] and new != former.splitlines()
    white = volumeOf(updated, "white_matter")
    answers = reportOf(updated)["answers"]
    assert answers[0]["value"] == pytest.approx(white["consensus_ml"], rel=1e-5)
    assert answers[0]["samples"] == pytest.approx(white["samples_ml"], rel=1e-5)
    assert answers[0]["samples"] != answers[0]["before"]["samples"]
    assert updated.GetNodeReference(SAMPLES_ROLE).GetNumberOfDataNodes() == 3
    assert "with the facts of the update and without later corrections" in ui.measuredLabel.text
    photograph("measurements-update", module.widget, part=ui.measurementsCollapsibleButton)

    path = tmp_path / "report.html"
    monkeypatch.setattr("DiffusionSegmentationLib.panel.dialogs.selectFileToSave", lambda *_given: str(path))
    ui.reportButton.click()
    pumpUntil(lambda: ui.reportButton.enabled, seconds=60)
    assert f"before: {before[0][1].splitlines()[0]}; 90 %" in path.read_text(encoding="utf-8")

    assert ask(module, "white_matter")[0] == after[0], "the earlier value stays beside an answer that is asked again"
    assert ui.answersTable.rowCount == 2
    paint(updated, (20, 5, 6), 1)
    last = update(module)
    assert [answer["before"]["value"] for answer in reportOf(last)["answers"]] == [
        answer["value"] for answer in reportOf(updated)["answers"]
    ]
    assert painted.any() and "before" not in reportOf(last)["answers"][0]["before"]
    ui.undoUpdateButton.click()
    assert rows(ui) == after
    monkeypatch.setattr("DiffusionSegmentationLib.panel.dialogs.confirmUndo", lambda _name: True)
    ui.undoUpdateButton.click()
    assert rows(ui) == before


@pytest.mark.slow
def test_questions_of_the_command_line_are_asked_again(first, ask, update):
    module, node = first
    ask(module, "white_matter")
    report = reportOf(node)
    for key in ("measurement", "structures"):
        del report["answers"][0][key]
    node.SetAttribute(RUN_ATTRIBUTE, json.dumps(report))
    paint(node, (4, 5, 6), 2)
    update(module)
    ((question, lines),) = rows(module.ui)
    assert question == "volume(white_matter)" and "before: " in lines


@pytest.mark.slow
def test_no_update_starts_while_questions_are_answered(first, settle, pumpUntil):
    module, node = first
    ui = module.ui
    paint(node, (4, 5, 6), 2)
    settle(module)
    assert ui.updateButton.enabled and "Measurements" not in ui.updateLabel.text
    ui.askButton.click()
    assert not ui.updateButton.enabled
    assert ui.updateButton.toolTip == "Questions are being answered; update when they have been."
    pumpUntil(lambda: not module.backend.asker.busy)
    assert ui.updateButton.enabled
    slicer.mrmlScene.RemoveNode(node)
