"""The table of volumes: values, intervals, explanations, clipboard and CSV file."""

import csv
import json

import pytest
import slicer_standin

from DiffusionSegmentationLib.scene.result_nodes import RUN_ATTRIBUTE
from DiffusionSegmentationLib.scene.units import Unit, sizeText
from DiffusionSegmentationLib.scene.volumes import Sizes, intervalText

slicer_standin.likePythonQt(__name__)


def volume(**values):
    base = {"id": "a", "name": "A"} | dict.fromkeys(("expected_ml", "consensus_ml", "mean_ml"), 5.0)
    return base | {"interval50_ml": [4.9, 5.1], "interval90_ml": [4.0, 6.0], "samples_ml": [4.5, 5.5]} | values


@pytest.mark.parametrize(
    ("size", "text"), [(1234.4, "1234"), (99.96, "100"), (51.26, "51.3"), (9.996, "10.0"), (0.416, "0.42"), (0, "0.00")]
)
def test_a_size_has_three_digits(size, text):
    assert sizeText(size) == text


@pytest.mark.parametrize(
    ("report", "text", "size"), [({}, "ml", 0.06), ({"unit": "mm2"}, "mm²", 30.0), ({"unit": "px"}, "px", 30.0)]
)
def test_sizes_have_the_unit_of_the_report(report, text, size):
    unit = Unit.of(report)
    assert unit.text == text and unit.key("mean") == f"mean_{report.get('unit', 'ml')}"
    assert unit.ofVoxels(10, (1.5, 2.0, 2.0)) == pytest.approx(size) and unit.either("volume", "area") == (
        "volume" if text == "ml" else "area"
    )


def test_both_bounds_have_the_digits_of_the_upper():
    assert intervalText((9.5, 102.3)) == "10–102" and intervalText((0.5, 0.75)) == "0.50–0.75"
    assert intervalText(None) == "–"


@pytest.mark.parametrize(
    ("count", "words"),
    [(1, "One sample gives no intervals; 8 or more are better."), (4, "Few samples"), (8, "not an accuracy")],
)
def test_few_samples_are_reported(count, words):
    texts = [volume(samples_ml=[5.0] * count)]
    note = Sizes({"volumes": texts}).note()
    assert words in note and ("Few" in note) == (count == 4)


def test_measured_coverage_of_the_intervals_is_shown():
    assert Sizes({"model": {"card": {}}}).coverageText() == Sizes({}).coverageText() == ""
    spread = {
        "100 heads": {"coverage_90": 0.914},
        "one head": {"coverage_90": None},
        "3 real heads": {"coverage_90": 0.71},
    }
    texts = Sizes({"model": {"card": {"spread": spread}}}).coverageText()
    assert texts == "Measured: 90 % intervals contain the true volume in 91 % of 100 heads, 71 % of 3 real heads."


def test_a_report_of_an_earlier_version_shows_the_mean():
    entry = volume(mean_ml=5.1)
    del entry["expected_ml"]
    sizes = Sizes({"volumes": [entry]})
    assert sizes.shown(entry) == 5.1 and "Mean: average of the samples." in sizes.note()
    assert sizes.asTable(",").splitlines()[1].startswith("A,,5.0,5.1,")


def test_a_new_number_of_the_report_is_a_column_of_the_csv():
    entry = volume() | {"label": 1, "method": "quantile", "surface_mm2": 12.5}
    head, row = Sizes({"volumes": [entry]}).asTable(",").splitlines()
    assert dict(zip(head.split(","), row.split(","), strict=True))["surface_mm2"] == "12.5"
    assert "label" not in head and "method" not in head


def calibrated(checked=True):
    """A report whose intervals were calibrated on labelled cases, as the engine writes it."""
    held = {"held50": 13, "held90": 22, "held_of": 24} if checked else {}
    entry = volume(interval50_factor=1.2, interval90_factor=1.6, **held)
    sentence = "Checked on 24 labelled cases of Clinic: 90 % intervals held in 22." if checked else "It does not hold."
    card = {"spread": {"100 heads": {"coverage_90": 0.91}}}
    return {
        "volumes": [volume(name="B"), entry],
        "model": {"card": card},
        "own_cases": {"data": "Clinic", "cases": 24, "checked": checked, "sentence": sentence},
    }


def test_calibrated_intervals_say_so_and_do_not_quote_the_coverage_of_others():
    sizes = Sizes(calibrated())
    assert sizes.areCalibrated and not Sizes({"volumes": [volume()]}).areCalibrated
    assert "scaled to hold the true size of labelled cases" in sizes.note() and sizes.coverageText() == ""
    assert sizes.checkText() == "Checked on 24 labelled cases of Clinic: 90 % intervals held in 22."
    head, other, row = (line.split(",") for line in sizes.asTable(",").splitlines())
    cells, others = dict(zip(head, row, strict=True)), dict(zip(head, other, strict=True))
    assert (cells["interval90_factor"], cells["held90"], cells["held_of"]) == ("1.6", "22", "24")
    assert others["interval90_factor"] == others["held90"] == ""
    assert "held90" not in Sizes(calibrated(checked=False)).asTable(",")


def test_a_contour_that_does_not_exist_leaves_its_cell_empty():
    report = {"contours": {"inner": 0.95, "outer": 0.05}}
    report["volumes"] = [volume(contour_distance_mm=None), volume(contour_distance_mm=1.25)]
    sizes = Sizes(report)
    head, first, second = (line.split(",") for line in sizes.asTable(",").splitlines())
    column = head.index("contour_distance_mm")
    assert (first[column], second[column]) == ("", "1.25")
    assert [sizes.contourTexts(segment) for segment in sizes.segments] == [["–"], ["1.25"]]


def test_folds_have_a_range_in_place_of_intervals():
    entry = volume(interval50_ml=None, interval90_ml=None, method="range", range_ml=[4.5, 5.5])
    sizes = Sizes({"volumes": [entry]})
    assert sizes.areRanges and sizes.bounds(entry, (50, 90)) == [[4.5, 5.5]]
    assert not Sizes({"volumes": [volume()]}).areRanges and not Sizes({}).areRanges
    assert "smallest and largest mask of 2 folds" in sizes.note() and "Few samples" not in sizes.note()
    assert not sizes.fewSamplesWarning() and sizes.asTable(",").splitlines()[1].endswith(",,,,,4.5,5.5")


def headers(table):
    return [table.horizontalHeaderItem(column).text().split("\n") for column in range(5)]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("behaviour", "title", "key"), [("good", "Expected", "expected_ml"), ("old", "Mean", "mean_ml")]
)
def test_the_table_shows_the_volumes_of_the_report(openPanel, addHead, run, photograph, behaviour, title, key):
    addHead()
    module = openPanel(behaviour, "0.01")
    table = module.ui.volumesTable
    assert not module.ui.copyVolumesButton.visible and not module.ui.copyVolumesButton.enabled
    assert "no result yet" in module.ui.copyVolumesButton.toolTip
    report = run(module, samples=8).report
    assert [column for column in range(5) if not table.isColumnHidden(column)] == [0, 1, 3]
    assert [table.item(row, 3).text() for row in range(2)] == [
        intervalText(entry["interval90_ml"]) for entry in report["volumes"]
    ]
    assert headers(table)[3] == ["90 %", "(ml)"] and not module.ui.volumesLabel.visible
    photograph(f"volumes-{behaviour}", module.widget, part=module.ui.resultCollapsibleButton)
    module.ui.detailsCheckBox.click()
    assert not any(table.isColumnHidden(column) for column in range(5))
    masks = ["Mask", "(ml)"] if behaviour == "old" else ["Mask", "(ml)", "Gap", "(mm)"]
    assert headers(table) == [["Structure"], [title, "(ml)"], masks, ["50 %", "90 %", "(ml)"], ["Samples"]]
    assert all(table.horizontalHeaderItem(column).toolTip() for column in range(5))
    assert table.rowCount == 2
    for row, entry in enumerate(report["volumes"]):
        name, shown, masks, intervals = (table.item(row, column).text() for column in range(4))
        mask = masks.partition("\n")[0]
        assert name == entry["name"] and float(shown) == pytest.approx(entry[key], rel=0.01)
        assert float(mask) == pytest.approx(entry["consensus_ml"], rel=0.01)
        assert float(intervals.splitlines()[1].split("–")[0]) == pytest.approx(entry["interval90_ml"][0], rel=0.01)
        assert f"mask {mask} ml" in table.item(row, 1).toolTip()
        plot = table.cellWidget(row, 4).pixmap.toImage()
        assert len({plot.pixel(x, 8) for x in range(48)}) > 3
    assert "spread of the 8 samples" in module.ui.volumesLabel.text
    photograph(f"volumes-{behaviour}-details", module.widget, part=module.ui.resultCollapsibleButton)


def test_the_check_on_labelled_cases_is_read_without_details(openPanel, addHead, run, photograph):
    addHead()
    module = openPanel()
    ui, node = module.ui, run(module, samples=8).result.segmentationNode
    report, checked = json.loads(node.GetAttribute(RUN_ATTRIBUTE)), calibrated()
    for entry in report["volumes"]:
        entry |= {
            key: value for key, value in checked["volumes"][1].items() if key.startswith(("held", "interval90_f"))
        }
    node.SetAttribute(RUN_ATTRIBUTE, json.dumps(report | {"own_cases": checked["own_cases"]}))
    module.widget.panel.refresh()
    sentence = checked["own_cases"]["sentence"]
    assert ui.volumesLabel.text == sentence and ui.volumesLabel.visible
    assert "scaled to hold the true size in labelled cases" in ui.volumesTable.horizontalHeaderItem(3).toolTip()
    photograph("volumes-own-cases", module.widget, part=ui.resultCollapsibleButton)
    ui.detailsCheckBox.click()
    assert ui.volumesLabel.text.endswith(sentence) and "not an accuracy" not in ui.volumesLabel.text
    photograph("volumes-own-cases-details", module.widget, part=ui.resultCollapsibleButton)


def test_few_samples_are_reported_without_details(openPanel, addHead, run):
    addHead()
    module = openPanel("good", "0.01")
    run(module, samples=4)
    assert module.ui.volumesLabel.visible and module.ui.volumesLabel.text.startswith("Few samples make")


def test_the_volumes_go_to_the_clipboard_and_to_a_file(openPanel, addHead, run, tmp_path, monkeypatch):
    import qt

    addHead("Kopf é")
    module = openPanel()
    report = run(module, samples=3).report
    module.ui.copyVolumesButton.click()
    lines = qt.QApplication.clipboard().text().splitlines()
    assert len(lines) == 3 and lines[0].split("\t")[:4] == ["segment", "expected_ml", "consensus_ml", "mean_ml"]
    target = tmp_path / "Volumen ü.csv"
    calls = []
    answers = [str(target), ""]
    monkeypatch.setattr(
        "DiffusionSegmentationLib.panel.dialogs.selectFileToSave",
        lambda *given: calls.append(given[2]) or answers.pop(0),
    )
    module.ui.saveVolumesButton.click()
    module.ui.saveVolumesButton.click()  # the dialog was cancelled
    assert calls[0] == "segmentation volumes.csv"
    with open(target, encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["segment"] for row in rows] == [entry["name"] for entry in report["volumes"]]
    assert float(rows[1]["sample2_ml"]) == report["volumes"][1]["samples_ml"][2]
    assert float(rows[1]["expected_ml"]) == report["volumes"][1]["expected_ml"]
