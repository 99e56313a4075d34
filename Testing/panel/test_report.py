"""The section Report: written in steps, with errors reported."""

import pytest
import slicer_standin

slicer_standin.likePythonQt(__name__)


@pytest.mark.slow
def test_a_click_writes_the_report(openPanel, addHead, run, pumpUntil, tmp_path, monkeypatch, photograph):
    addHead()
    module = openPanel()
    ui = module.ui
    assert not ui.reportButton.enabled and "no result yet" in ui.reportButton.toolTip
    run(module)
    answers = [str(tmp_path / "Bericht"), str(tmp_path / "nowhere" / "r.html"), ""]
    names = []
    monkeypatch.setattr(
        "DiffusionSegmentationLib.panel.dialogs.selectFileToSave",
        lambda *given: names.append(given[2]) or answers.pop(0),
    )
    ui.reportButton.click()
    assert not ui.reportButton.enabled and ui.reportButton.toolTip == "The report is being written."
    pumpUntil(lambda: ui.reportButton.enabled, seconds=30)
    assert names == ["segmentation report.html"]
    assert ui.reportLabel.text.startswith("Saved as ") and (tmp_path / "Bericht.html").stat().st_size > 10000
    assert (tmp_path / "Bericht.json").is_file() and (tmp_path / "Bericht.csv").is_file()
    photograph("report", module.widget)
    ui.reportButton.click()
    pumpUntil(lambda: ui.reportButton.enabled, seconds=30)
    assert ui.reportLabel.text.startswith("The report could not be written: ")
    ui.reportButton.click()  # the dialog was cancelled
    assert ui.reportButton.enabled
