"""The message `ask`: questions about the result in a folder, with an engine that is not needed for them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from diffusion_segmentation.images import writing

LABELS = [
    {"label": 1, "id": "left", "name": "Left", "color": [1.0, 0.0, 0.0], "terminology": ""},
    {"label": 2, "id": "right", "name": "Right", "color": [0.0, 1.0, 0.0], "terminology": ""},
]


@pytest.fixture
def result(tmp_path: Path) -> Path:
    """A result of 4 samples at 10 mm: the left structure has 3, 4, 5 or 6 voxels, so ml, and ends beside the right."""
    samples = []
    for size in (3, 4, 5, 6):
        labels = np.zeros((4, 5, 12), np.uint8)
        labels[1, 1, :size] = 1
        labels[1, 1, 10:] = 2
        samples.append(labels)
    grid = sitk.GetImageFromArray(samples[1])
    grid.SetSpacing((10.0, 10.0, 10.0))
    folder = tmp_path / "Müller 図"
    folder.mkdir()
    writing.write_segmentation(folder / "segmentation.seg.nrrd", samples[1], grid, LABELS, False)
    writing.write_sequence(folder / "samples.seq.nrrd", samples, grid, ((0, 0, 0), grid.GetSize()), False)
    volumes = [{**{key: entry[key] for key in ("label", "id", "name")}, "method": "t-predictive"} for entry in LABELS]
    (folder / "report.json").write_text(json.dumps({"volumes": volumes}), encoding="utf-8")
    return folder


def test_questions_are_answered_from_the_samples_of_a_folder(workers, result: Path) -> None:
    client = workers.fake()
    questions = ["volume(left) > 4.5", "distance(left, right)"]
    client.send(type="ask", job="1", folder=str(result), questions=questions)
    received = [client.next()]
    while received[-1]["type"] == "progress":
        received.append(client.next())
    *progress, message = received
    assert progress[0].items() >= {"job": "1", "stage": "measuring", "sample": 1, "samples": 4}.items()
    assert (message["type"], message["job"]) == ("answers", "1")
    statement, number = message["answers"]
    assert [answer["question"] for answer in message["answers"]] == questions
    assert (statement["samples"], statement["value"]) == ([3, 4, 5, 6], 4)
    assert (statement["count"], statement["of"], statement["holds"]) == (2, 4, False)
    assert number["value"] == 70 and number["mean"] == pytest.approx(65) and number["unit"] == "mm"


def test_what_does_not_fit_the_result_is_an_error_of_the_job_and_the_worker_goes_on(workers, result: Path) -> None:
    client = workers.fake()
    client.send(type="ask", job="1", folder=str(result), questions=["volume(middle)"])
    error = client.next()
    assert (error["type"], error["job"], error["kind"]) == ("error", "1", "input")
    assert "no structure 'middle'" in error["message"]
    (result / "samples.seq.nrrd").unlink()
    client.send(type="ask", job="2", folder=str(result), questions=["volume(left)"])
    assert "has no samples to ask" in client.next("error")["message"]
    client.line(b'{"type":"ask","job":"3","folder":"f"}\n')
    assert client.next("error")["job"] == "3"
    client.run("4", "quick", result)
    assert client.next("done")["job"] == "4"


def test_questions_wait_for_a_run_and_can_be_cancelled(workers, result: Path) -> None:
    client = workers.fake()
    client.run("1", "patient", result)
    client.next("progress")
    for job in ("2", "3"):
        client.send(type="ask", job=job, folder=str(result), questions=["volume(left)"])
    client.send(type="cancel", job="2", keep=False)
    assert client.next("cancelled")["job"] == "2"
    client.send(type="cancel", job="1", keep=True)
    assert client.next("partial")["job"] == "1"
    assert client.next("answers")["job"] == "3"


def test_a_cancel_ends_the_measurements_of_many_samples(workers, result: Path) -> None:
    labels = np.ones((12, 160, 160), np.uint8)
    grid = sitk.GetImageFromArray(labels)
    writing.write_segmentation(result / "segmentation.seg.nrrd", labels, grid, LABELS, False)
    box = (0, 0, 0), grid.GetSize()
    writing.write_sequence(result / "samples.seq.nrrd", [labels] * 64, grid, box, False)
    client = workers.fake()
    client.send(type="ask", job="1", folder=str(result), questions=["surface(left)"])
    client.next("progress")
    client.send(type="cancel", job="1", keep=False)
    assert client.next("cancelled", "answers")["type"] == "cancelled"
