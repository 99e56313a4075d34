"""The section Measurements: questions about a result are asked by clicks and answered by the worker."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import slicer
import slicer.util
import slicer_standin

from DiffusionSegmentationLib.runs.handover import HandoverError
from DiffusionSegmentationLib.runs.more_samples import MoreSamples
from DiffusionSegmentationLib.scene import answers
from DiffusionSegmentationLib.scene.answers import MOST
from DiffusionSegmentationLib.scene.result_nodes import RUN_ATTRIBUTE, SAMPLES_ROLE, reportOf

slicer_standin.likePythonQt(__name__)


@pytest.fixture
def ask(pumpUntil):
    """Chooses, clicks Ask, waits, and returns the row of the newest answer, or no texts."""

    def click(module, measurement, a, b=None, comparison="", threshold=0.0):
        ui = module.ui
        choose(ui.measurementComboBox, measurement)
        choose(ui.structureAComboBox, a)
        if b is not None:
            choose(ui.structureBComboBox, b)
        choose(ui.comparisonComboBox, comparison)
        ui.thresholdSpinBox.value = threshold
        ui.askButton.click()
        pumpUntil(lambda: not module.backend.asker.busy, describe=lambda: list(module.runner.client.log)[-20:])
        return row(ui)

    return click


def choose(comboBox, key):
    assert comboBox.findData(key) >= 0, key
    comboBox.currentIndex = comboBox.findData(key)


def row(ui, number=0):
    items = [ui.answersTable.item(number, column) for column in range(2)]
    return [item.text() for item in items if item is not None]


@pytest.fixture
def jobFolders(application):
    """Lists the job folders made since the test began; those of unfinished runs in earlier tests stay for a week."""

    def folders():
        return set(Path(application.temporaryPath).glob("DiffusionSegmentation-*"))

    before = folders()
    return lambda: folders() - before


@pytest.mark.slow
def test_questions_are_asked_answered_stored_with_the_scene_and_reported(
    openPanel, addHead, run, ask, application, jobFolders, pumpUntil, tmp_path, monkeypatch, photograph, capfd
):
    addHead()
    module = openPanel("good", "0.01")
    ui = module.ui
    assert not ui.askButton.enabled and "no result yet" in ui.askButton.toolTip
    result = run(module, samples=12).result
    assert not ui.answersTable.visible and not ui.measuredLabel.visible
    assert [ui.measurementComboBox.findData(name) for name in ("area", "perimeter")] == [-1, -1]
    entry = reportOf(result.segmentationNode)["volumes"][1]
    threshold = round(entry["samples_ml"][0], 2) + 0.01

    assert not ui.thresholdSpinBox.visible and not ui.structureBComboBox.visible
    choose(ui.comparisonComboBox, ">")
    assert ui.thresholdSpinBox.visible and ui.thresholdSpinBox.suffix == " ml"
    question, lines = ask(module, "volume", "white_matter", comparison=">", threshold=threshold)
    count = sum(size > threshold for size in entry["samples_ml"])
    assert 0 < count < 12
    assert question == f"Volume of White matter >\u00a0{threshold:.12g}\u00a0ml"
    value, *samples = lines.splitlines()
    assert value == f"{'true' if entry['consensus_ml'] > threshold else 'false'}, {entry['consensus_ml']:.4g} ml"
    assert samples[0] == f"true in {count} of 12 samples"
    assert samples[1].startswith(f"{100 * (count + 0.5) / 13:.0f} % (")

    answer = ask(module, "distance", "grey_matter", "white_matter")
    assert ui.structureBComboBox.visible and ui.structureALabel.text == "Structure A:"
    assert answer == ["Smallest distance between Grey matter and White matter", "4 mm\nmean 4\n90 %: 4–4"]
    assert row(ui, 1)[0] == question
    ask(module, "volume", "all")
    assert ask(module, "one_piece", "grey_matter")[0] == "Grey matter is in one piece"
    assert f"In the samples: {', '.join(['true'] * 12)}" in ui.answersTable.item(0, 0).toolTip()
    assert not ui.comparisonComboBox.visible and not ui.thresholdSpinBox.visible
    assert [row(ui, n)[0].split(" ")[0] for n in range(4)] == ["Grey", "Volume", "Smallest", "Volume"]
    assert ui.measuredLabel.text.endswith("without corrections by hand, and in its 12 samples.")
    plots = [ui.answersTable.cellWidget(n, 2).pixmap for n in range(4)]
    assert not any(plot.isNull() for plot in plots)
    pumpUntil(lambda: not jobFolders())
    for combo, key in ((ui.measurementComboBox, "distance"), (ui.comparisonComboBox, "<")):
        choose(combo, key)
    photograph("measurements", module.widget, part=ui.measurementsCollapsibleButton)
    photograph("measurements-whole", module.widget, schemes=("light",))

    monkeypatch.setattr(
        "DiffusionSegmentationLib.panel.dialogs.selectFileToSave", lambda *_given: str(tmp_path / "Bericht.html")
    )
    ui.reportButton.click()
    pumpUntil(lambda: ui.reportButton.enabled, seconds=30)
    assert "true in" in (tmp_path / "Bericht.html").read_text(encoding="utf-8")

    before = [row(ui, n) for n in range(4)]
    path = tmp_path / "Fall ü.mrb"
    assert slicer.mrmlScene.WriteToMRB(str(path))
    slicer.mrmlScene.Clear(False)
    assert ui.answersTable.rowCount == 0 and not ui.answersTable.visible
    assert application.headless.logic.OpenSlicerDataBundle(str(path), str(tmp_path))
    pumpUntil(lambda: ui.answersTable.rowCount == 4)
    assert [row(ui, n) for n in range(4)] == before
    assert ask(module, "pieces", "white_matter") == ["Number of pieces of White matter", "1\nmean 1\n90 %: 1–1"]
    assert "Traceback" not in "".join(capfd.readouterr())


@pytest.mark.slow
def test_a_question_that_is_asked_again_has_one_answer(openPanel, addHead, run, ask):
    """The result is one of version 0.3."""
    addHead()
    module = openPanel("old", "0.01")
    node = run(module, samples=2).result.segmentationNode
    ask(module, "volume", "grey_matter")
    first = row(module.ui)
    ask(module, "exists", "grey_matter")
    ask(module, "volume", "grey_matter")
    assert row(module.ui) == first and module.ui.answersTable.rowCount == 2
    example, *_rest = reportOf(node)["answers"]
    answers.store(node, [{**example, "question": f"volume(grey_matter) > {n}"} for n in range(2 * MOST)])
    assert [answer["question"][-1] for answer in reportOf(node)["answers"]][:3] == ["0", "1", "2"]
    assert len(reportOf(node)["answers"]) == 2 * MOST  # all those to one click
    answers.store(node, [example])
    assert len(reportOf(node)["answers"]) == MOST and reportOf(node)["answers"][0] == example


@pytest.mark.slow
@pytest.mark.parametrize(
    ("behaviour", "sentence"),
    [
        ("older", "The background process is of an older version that cannot measure; restart Slicer."),
        ("mute", "The background process ended before it answered; ask again."),
    ],
)
def test_a_worker_that_cannot_answer_is_reported_in_one_sentence(
    openPanel, addHead, run, ask, jobFolders, pumpUntil, behaviour, sentence
):
    addHead()
    module = openPanel(behaviour, "0.01")
    run(module, samples=2)
    assert ask(module, "volume", "grey_matter") == []
    assert module.ui.measuredLabel.text == sentence and module.ui.askButton.enabled
    pumpUntil(lambda: not jobFolders())


@pytest.mark.slow
def test_a_worker_that_does_not_start_is_reported(openPanel, addHead, run, ask):
    addHead()
    run(openPanel("good", "0.01"), samples=2)
    module = openPanel("no-start")
    assert module.ui.askButton.enabled and ask(module, "volume", "grey_matter") == []
    assert "No module named 'torch'" in module.ui.measuredLabel.text
    module.ui.askButton.click()
    assert module.backend.asker.busy and module.ui.measuredLabel.text == "Writing the samples"


@pytest.mark.parametrize(
    ("samples", "sentence"),
    [
        (1, "This result has a single sample; questions need two or more."),
        (2, "The samples of this result were removed."),
    ],
)
def test_without_samples_the_section_says_why_it_cannot_ask(openPanel, addHead, run, samples, sentence):
    addHead()
    module = openPanel("good", "0.01")
    node = run(module, samples=samples).result.segmentationNode
    if samples > 1:
        assert module.ui.askButton.enabled
        slicer.mrmlScene.RemoveNode(node.GetNodeReference(SAMPLES_ROLE))
        module.widget.enter()
    ui = module.ui
    assert ui.measuredLabel.visible and ui.measuredLabel.text == sentence
    for widget in (ui.measurementComboBox, ui.structureAComboBox, ui.comparisonComboBox, ui.askButton):
        assert not widget.enabled and widget.toolTip == sentence


def test_a_result_that_is_removed_takes_its_question_with_it(openPanel, addHead, run, jobFolders, pumpUntil):
    addHead()
    module = openPanel("good", "0.01")
    node = run(module, samples=2).result.segmentationNode
    module.ui.askButton.click()
    assert module.backend.asker.busy and module.ui.askButton.text == "Cancel"
    slicer.mrmlScene.RemoveNode(node)
    pumpUntil(lambda: not module.backend.asker.busy)
    assert module.ui.answersTable.rowCount == 0 and module.ui.askButton.text == "Ask"
    pumpUntil(lambda: not jobFolders())


@pytest.mark.slow
def test_cancel_gives_up_a_question_and_the_next_is_answered(openPanel, addHead, run, ask, jobFolders, pumpUntil):
    addHead()
    module = openPanel("good", "0.01")
    run(module, samples=2)
    ui = module.ui
    ui.askButton.click()
    ui.askButton.click()
    assert not module.backend.asker.busy and ui.askButton.text == "Ask" and ui.answersTable.rowCount == 0
    assert ask(module, "exists", "white_matter")[1:] == ["true\ntrue in 2 of 2 samples\n83 % (43–100 %)"]
    pumpUntil(lambda: not jobFolders())


def test_during_a_run_no_question_is_asked(openPanel, addHead, run, pumpUntil):
    addHead()
    module = openPanel("good", "0.01")
    run(module, samples=2)
    ui = module.ui
    ui.samplesSpinBox.value = 200
    ui.segmentButton.click()
    assert not ui.askButton.enabled and ui.askButton.toolTip == "A run is active; ask when it has ended."
    ui.segmentButton.click()
    pumpUntil(lambda: ui.askButton.enabled)


def test_a_structure_is_not_compared_with_itself(openPanel, addHead, run):
    addHead()
    module = openPanel("good", "0.01")
    run(module, samples=2)
    ui = module.ui
    choose(ui.structureAComboBox, "white_matter")
    assert ui.structureBComboBox.itemData(ui.structureBComboBox.currentIndex) == "white_matter" and ui.askButton.enabled
    choose(ui.measurementComboBox, "ratio")
    assert not ui.askButton.enabled and ui.askButton.toolTip == "Choose two different structures."
    choose(ui.structureBComboBox, "all")
    assert ui.askButton.enabled


@pytest.mark.slow
def test_each_structure_is_asked_about_with_one_click(openPanel, addHead, run, ask):
    addHead()
    module = openPanel("seven", "0.01")
    node = run(module, samples=2).result.segmentationNode
    ask(module, "volume", "each", comparison=">", threshold=3)
    names = [f"s{n}" for n in range(1, 8)]
    stored = reportOf(node)["answers"]
    assert [(answer["question"], answer["structures"]) for answer in stored] == [
        (f"volume({name}) > 3", [name]) for name in names
    ]
    ask(module, "ratio", "each", "s2")
    assert [answer["structures"] for answer in reportOf(node)["answers"][:6]] == [
        [name, "s2"] for name in names if name != "s2"
    ]


@pytest.mark.parametrize("changed", [{"sha256": "b"}, {"spacing_mm": [1.0, 1.0, 3.0]}])
def test_more_samples_of_a_changed_volume_are_not_taken(openPanel, addHead, run, tmp_path, changed):
    addHead()
    node = run(openPanel("good", "0.01"), samples=2).result.segmentationNode
    report = reportOf(node)
    report["input"]["sha256"] = "a"
    node.SetAttribute(RUN_ATTRIBUTE, json.dumps(report))
    more = MoreSamples(node, SimpleNamespace(key="any"), 16, str(tmp_path))
    try:
        assert more.answers({"report": report | {"answers": [1]}}) == [1]
        with pytest.raises(HandoverError, match="The volume was changed since this result"):
            more.answers({"report": report | {"input": report["input"] | changed}})
    finally:
        more.discard().join()


@pytest.mark.slow
def test_a_failure_is_shown_with_the_result_that_was_asked(openPanel, addHead, run, ask, pumpUntil):
    addHead()
    module = openPanel("mute", "0.01")
    first, second = (run(module, samples=2).result.segmentationNode for _run in range(2))
    assert module.widget.logic.getParameterNode().segmentation is second
    module.ui.askButton.click()
    module.widget.logic.getParameterNode().segmentation = first
    pumpUntil(lambda: not module.backend.asker.busy)
    assert module.ui.askButton.enabled and not module.ui.measuredLabel.visible
    assert ask(module, "volume", "grey_matter") == [] and module.ui.measuredLabel.text.endswith("; ask again.")


@pytest.mark.slow
def test_questions_about_long_names_can_be_read_in_a_narrow_panel(openPanel, addHead, run, ask, application):
    """Also where an answer is as long as that of a surface in mm²."""
    import qt

    addHead()
    module = openPanel("seven", "0.01")
    run(module, samples=8)
    ui, widget = module.ui, module.widget
    ask(module, "surface", "s3")
    widget.parent.size = qt.QSize(400, 1500)
    for _turn in range(5):
        application.processEvents()
    table = ui.answersTable
    assert sum(table.columnWidth(column) for column in range(3)) <= table.viewport().width
    assert table.columnWidth(0) >= table.fontMetrics().horizontalAdvance("Cortical grey matter")
