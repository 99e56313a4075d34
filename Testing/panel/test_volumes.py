"""The volumes in the panel: what the samples say, worded as their spread, and the way to a spreadsheet."""

import csv

import pytest
import slicer_standin

from DiffusionSegmentationLib import volumes

slicer_standin.likePythonQt(__name__)


def volume(**values):
    base = {"id": "a", "name": "A", "consensus_ml": 5.0, "mean_ml": 5.0, "interval50_ml": [4.9, 5.1]}
    return base | {"interval90_ml": [4.0, 6.0], "samples_ml": [4.5, 5.5]} | values


@pytest.mark.parametrize(
    ("ml", "text"), [(1234.4, "1234"), (99.96, "100"), (51.26, "51.3"), (9.996, "10.0"), (0.416, "0.42"), (0, "0.00")]
)
def test_a_volume_has_three_digits(ml, text):
    assert volumes.mlText(ml) == text


def test_both_bounds_are_as_exact_as_the_upper():
    assert volumes.intervalText((9.5, 102.3)) == "10–102" and volumes.intervalText((0.5, 0.75)) == "0.50–0.75"
    assert volumes.intervalText(None) == "–"


@pytest.mark.parametrize(
    ("count", "words"), [(1, "draw 8 or more for intervals"), (4, "So few samples"), (8, "not its accuracy")]
)
def test_too_few_samples_are_said(count, words):
    told = volumes.volumesOf({"volumes": [volume(samples_ml=[5.0] * count)]})
    assert words in volumes.noteOn(told)
    assert ("So few" in volumes.noteOn(told)) == (count == 4)


def test_the_table_shows_what_the_report_tells(openPanel, addHead, run, photograph):
    addHead()
    world = openPanel()
    ui = world.ui
    assert not ui.copyVolumesButton.enabled and "no result yet" in ui.copyVolumesButton.toolTip
    report = run(world, samples=8).report
    assert ui.volumesTable.rowCount == 2
    for row, entry in enumerate(report["volumes"]):
        texts = [ui.volumesTable.item(row, column).text() for column in range(4)]
        assert texts[0] == entry["name"] and float(texts[1]) == pytest.approx(entry["mean_ml"], rel=0.01)
        assert float(texts[3].split("–")[0]) == pytest.approx(entry["interval90_ml"][0], rel=0.01)
        plot = ui.volumesTable.cellWidget(row, 4).pixmap.toImage()
        assert len({plot.pixel(x, 8) for x in range(64)}) > 3
    assert "8 samples spread" in ui.volumesLabel.text
    photograph("volumes", world.widget)


def test_the_volumes_go_to_the_clipboard_and_to_a_file(openPanel, addHead, run, tmp_path, monkeypatch):
    import qt

    addHead("Kopf é")
    world = openPanel()
    report = run(world, samples=3).report
    world.ui.copyVolumesButton.click()
    lines = qt.QApplication.clipboard().text().splitlines()
    assert len(lines) == 3 and lines[0].split("\t")[:3] == ["segment", "consensus_ml", "mean_ml"]
    target = tmp_path / "Volumen ü.csv"
    asked = []
    answers = [str(target), ""]
    monkeypatch.setattr(
        "DiffusionSegmentationLib.questions.fileToSave", lambda *given: asked.append(given[2]) or answers.pop(0)
    )
    world.ui.saveVolumesButton.click()
    world.ui.saveVolumesButton.click()  # given up
    assert asked[0] == "segmentation volumes.csv"
    with open(target, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["segment"] for row in rows] == [entry["name"] for entry in report["volumes"]]
    assert float(rows[1]["sample2_ml"]) == report["volumes"][1]["samples_ml"][2]
