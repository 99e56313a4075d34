"""Questions about a result: what is handed over to the worker, how answers are stored, and the report of them."""

import csv
import html
import json
import threading
import time

import numpy as np
import pytest
import SimpleITK as sitk
import slicer
from mrml_cases import addPicture, addVolume, importJob, obliqueIJKToRAS, segment

from diffusion_segmentation.measurements.table import MEASUREMENTS
from diffusion_segmentation.segmentation.asked import ask
from DiffusionSegmentationLib.report.page import Report
from DiffusionSegmentationLib.runs.asking import ResultFiles, problemOf
from DiffusionSegmentationLib.runs.handover import HandoverError
from DiffusionSegmentationLib.scene import answers, nrrd_files, questions
from DiffusionSegmentationLib.scene.label_map import Labels
from DiffusionSegmentationLib.scene.questions import ALL, Question
from DiffusionSegmentationLib.scene.result_nodes import reportOf

ALL_QUESTIONS = [
    Question(name, ("cortical_grey", "white_matter")[: measurement.structures])
    for name, measurement in questions.fitting(picture=False).items()
]


@pytest.fixture
def result(volumeNode, job):
    return importJob(volumeNode, job)


def written(result, folder):
    """The folder of what is handed over, completely written."""
    files = ResultFiles(result.segmentationNode, str(folder))
    while files.writing:
        time.sleep(0.002)
    assert files.problem is None
    return files


def answered(result, folder, asked):
    files = written(result, folder)
    found = ask(files.folder, [question.text() for question in asked])
    files.discard().join()
    assert not files.folder.exists()
    return [answer | question.facts() for answer, question in zip(found, asked, strict=True)]


def test_the_worker_measures_in_the_hand_over_what_it_measures_in_its_own_files(result, job, tmp_path):
    """The result is oblique and has other spacings along each axis."""
    (job.folder / "report.json").write_text(json.dumps(job.report), encoding="utf-8")
    expected = ask(job.folder, [question.text() for question in ALL_QUESTIONS])
    for own, handed in zip(expected, answered(result, tmp_path, ALL_QUESTIONS), strict=True):
        assert handed["samples"] == own["samples"] and None not in own["samples"], own["question"]
        assert handed.get("interval90") == own.get("interval90") and handed["unit"] == own["unit"]


def test_the_segmentation_is_handed_over_as_computed_without_corrections(result, tmp_path):
    labels = Labels(result.segmentationNode)
    consensus = labels.consensus()
    everywhere = np.ones(labels.shape, bool)
    assert labels.write(np.zeros(labels.shape, np.uint8), everywhere) > 100
    files = written(result, tmp_path)
    stored = sitk.ReadImage(str(files.folder / "segmentation.seg.nrrd"))
    assert np.array_equal(sitk.GetArrayFromImage(stored), consensus) and labels.current().max() == 0
    samples = sitk.GetArrayFromImage(sitk.ReadImage(str(files.folder / "samples.seq.nrrd")))
    assert samples.shape == (*labels.shape, 3)


def test_many_samples_are_handed_over_without_blocking(application, tmp_path):
    volumeNode = addVolume("Head", obliqueIJKToRAS(), shape=(60, 120, 120))
    result = importJob(volumeNode, segment(volumeNode, tmp_path / "job", samples=64))
    start = time.perf_counter()
    files = ResultFiles(result.segmentationNode, str(tmp_path))
    longest, last = time.perf_counter() - start, time.perf_counter()
    while files.writing:
        time.sleep(0.001)
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    assert longest < 0.3
    assert nrrd_files.readHeader(files.folder / "samples.seq.nrrd").sizes == (64, 116, 116, 56)


def test_a_hand_over_that_is_given_up_stops_and_leaves_nothing(result, tmp_path):
    files = ResultFiles(result.segmentationNode, str(tmp_path))
    files.discard().join()
    assert not files.folder.exists()
    stop = threading.Event()
    stop.set()
    nrrd_files.writeSequence(tmp_path / "s.nrrd", [np.zeros((2, 3, 4), np.uint8)] * 2, np.eye(4), stop)
    with pytest.raises(nrrd_files.ResultFileError, match="incomplete"):
        nrrd_files.readHeader(tmp_path / "s.nrrd")


def test_what_cannot_be_asked_is_said_in_one_sentence(result, volumeNode, tmp_path):
    node = result.segmentationNode
    assert problemOf(node) is None
    with pytest.raises(HandoverError, match=r"nowhere.*\.$"):
        ResultFiles(node, str(tmp_path / "nowhere"))
    slicer.mrmlScene.RemoveNode(result.probabilitiesNode)
    with pytest.raises(HandoverError, match=r"^The class probabilities of this result were removed\.$"):
        ResultFiles(node, str(tmp_path))
    single = importJob(volumeNode, segment(volumeNode, tmp_path / "single", samples=1))
    assert problemOf(single.segmentationNode) == "This result has a single sample; questions need two or more."
    job = segment(volumeNode, tmp_path / "none", samples=1)
    job.report |= {"samples": 0}
    none = importJob(volumeNode, job)
    assert problemOf(none.segmentationNode) == "This result has no samples, and only samples can be measured."


def test_folds_have_a_range(volumeNode, job, tmp_path):
    for entry in job.report["volumes"]:
        entry["method"] = "range"
    result = importJob(volumeNode, job)
    asked = [Question("volume", ("white_matter",)), Question("volume", ("white_matter",), ">", 0.1)]
    number, statement = answered(result, tmp_path, asked)
    low, high = min(number["samples"]), max(number["samples"])
    assert answers.sampleTexts(number)[1] == f"range: {low:.3g}–{high:.3g}"
    assert answers.sampleTexts(statement) == ["true in 3 of 3 samples"]
    assert answers.note(job.report).endswith("a range in place of intervals and probabilities.")


def test_pictures_have_areas_in_pixels(application, tmp_path):
    volumeNode = addPicture()
    result = importJob(volumeNode, segment(volumeNode, tmp_path / "job"))
    report = reportOf(result.segmentationNode)
    assert "area" in questions.available(report) and "volume" not in questions.available(report)
    assert [questions.unitOf(name, report) for name in ("area", "diameter", "ratio")] == ["px", "px", ""]
    (area,) = answered(result, tmp_path, [Question("area", (ALL,), "<", 2.5)])
    assert area["unit"] == "px" and area["samples"][0] > 100
    assert questions.words(area, report) == "Area of all structures <\u00a02.5\u00a0px"


def test_every_measurement_has_a_title_and_words():
    assert list(questions.titles()) == list(MEASUREMENTS)
    report = {"volumes": [{"id": "a", "name": "lesion"}, {"id": "b", "name": "vessel"}]}
    for name, measurement in MEASUREMENTS.items():
        facts = Question(name, ("a", "b")[: measurement.structures]).facts()
        words = questions.words({"question": "", "unit": "", **facts}, report)
        assert "lesion" in words.lower() and ("vessel" in words) == (measurement.structures == 2)
        assert "{" not in words and words[0].isupper()
    assert questions.words({"question": "volume(a)", "unit": "ml"}, report) == "volume(a)"  # not asked in Slicer


def test_answers_are_in_the_report_of_the_result(result, tmp_path):
    asked = [Question("distance", ("cortical_grey", "white_matter")), Question("volume", (ALL,), ">", 0.5)]
    found = answered(result, tmp_path, asked)
    answers.store(result.segmentationNode, found)
    answers.store(result.segmentationNode, answered(result, tmp_path, [Question("exists", ("white_matter",))]))
    for _step in Report(result.segmentationNode).writeSteps(tmp_path / "r.html"):
        pass
    page = html.unescape((tmp_path / "r.html").read_text(encoding="utf-8"))
    assert page.index("<h2>Measurements</h2>") < page.index("Weiße Substanz is present")
    assert page.index("Weiße Substanz is present") < page.index("Smallest distance between Cortical grey matter and")
    assert "true in 3 of 3 samples; 88 % (" in page and "corrections by hand, and in its 3 samples." in page
    assert "For a statement: in how many samples it is true, its probability and the 90 % interval of that." in page
    stored = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["run"]["answers"]
    assert stored[1:] == found and [answer["measurement"] for answer in stored] == ["exists", "distance", "volume"]
    with open(tmp_path / "r.answers.csv", encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["question"] for row in rows] == ["exists(white_matter)", *(question.text() for question in asked)]
    assert [float(rows[1][f"sample{n}"]) for n in range(3)] == found[0]["samples"] and "value_before" not in rows[0]
    assert float(rows[2]["probability"]) == found[1]["probability"] and rows[1]["probability"] == ""
    assert [float(rows[1][f"interval90_{end}"]) for end in ("low", "high")] == found[0]["interval90"]


def test_the_note_says_that_sizes_are_calibrated_and_for_which_samples_that_was_not_checked():
    report = {"samples": 20, "kept_samples": 16, "volumes": [{"label": 1}], "answers": [{"samples": [1.0] * 32}]}
    assert "scaled" not in answers.note(report)
    report |= {"volumes": [{"label": 1, "interval90_factor": 1.5}], "own_cases": {"checked": True}}
    assert answers.note(report).endswith("labelled cases. That was not checked for answers from 32 samples.")
    assert answers.note(report | {"answers": [{"samples": [1.0] * 20}]}).endswith("true size of labelled cases.")
    assert answers.note(report | {"own_cases": {"checked": False}}).endswith("true size of labelled cases.")


def test_answers_of_an_update_have_the_words_and_the_answer_before(volumeNode, job):
    former, updated = (importJob(volumeNode, job).segmentationNode for _result in range(2))
    asked = Question("volume", ("white_matter",), ">", 0.1)
    old = {"question": asked.text(), "unit": "ml", "value": 0.2, "samples": [0.1, 0.2], "holds": True, "count": 1}
    answers.store(former, [{**old, **asked.facts(), "before": {"value": 0.3}}])
    answers.carryOver(former, updated)
    assert "answers" not in reportOf(updated), "it was not asked again"
    new = {**old, "value": 0.4, "samples": [0.3, 0.4], "count": 2}
    answers.store(updated, [new, {**new, "question": "volume(all)"}])
    answers.carryOver(former, updated)
    first, other = reportOf(updated)["answers"]
    assert first == {**new, **asked.facts(), "before": {**old, **asked.facts()}} and "before" not in other
    assert answers.beforeTexts(first) == ["before: true, 0.2 ml", "true in 1 of 2 samples"]
    assert answers.beforeTexts(other) == []
    rows = list(csv.DictReader(answers.asTable(reportOf(updated), ",").splitlines()))
    assert [(row["value_before"], row["holds_before"]) for row in rows] == [("0.2", "True"), ("", "")]
    assert [row["sample1"] for row in rows] == ["0.4"] * 2
    report = {**reportOf(updated), "samples": 64, "kept_samples": 16}
    assert "that were kept of 64. 'Before' is" in answers.note(report)
    report["answers"][0]["samples"] = [0.3] * 64
    text = answers.note(report)
    assert text.endswith("Answers from 64 samples are from all that were drawn.") and "drawn again" not in text
