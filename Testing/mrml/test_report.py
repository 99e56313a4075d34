"""The report of a result: self-contained, consistent with the scene, written completely or not at all."""

import base64
import csv
import html
import json
import re
import shlex

import numpy as np
import pytest
import slicer
import vtk
from mrml_cases import addLinearTransform, addVolume, importJob, obliqueIJKToRAS, segment
from vtk.util.numpy_support import vtk_to_numpy

from DiffusionSegmentationLib.report.page import PICTURED_REGIONS, Report
from DiffusionSegmentationLib.report.pictures import SLICE_MM, SLICE_PIXELS, RegionPictures
from DiffusionSegmentationLib.review import corrections
from DiffusionSegmentationLib.review.review import DONE, FLAGGED, OUTLINE_COLOR, Review


@pytest.fixture
def result(volumeNode, job):
    return importJob(volumeNode, job)


def write(result, path):
    for _step in Report(result.segmentationNode).writeSteps(path):
        pass
    return path.read_text(encoding="utf-8")


def decoded(data, path):
    """A PNG as uint8 [row, column, RGB]."""
    path.write_bytes(data)
    reader = vtk.vtkPNGReader()
    reader.SetFileName(str(path))
    reader.Update()
    width, height, _ = reader.GetOutput().GetDimensions()
    return vtk_to_numpy(reader.GetOutput().GetPointData().GetScalars()).reshape(height, width, 3)[::-1]


def test_the_page_is_self_contained(result, job, tmp_path):
    page = write(result, tmp_path / "Bericht ü.html")
    assert not re.search(r"(src|href)=['\"](?!data:)", page) and "@import" not in page and "url(" not in page
    pictures = [
        decoded(base64.b64decode(data), tmp_path / "x.png")
        for data in re.findall(r"data:image/png;base64,([^\"]+)", page)
    ]
    assert len(pictures) == 1 + min(PICTURED_REGIONS, len(job.report["regions"]))
    assert all(np.ptp(picture) > 100 for picture in pictures)
    for entry in job.report["volumes"]:
        assert entry["name"] in page
    assert "0" * 64 in page and "Kopf é 頭" in page and "torch 2.13.0" in page
    assert sorted(path.name for path in tmp_path.glob("Bericht*")) == [
        "Bericht ü.csv",
        "Bericht ü.html",
        "Bericht ü.json",
    ]


@pytest.mark.parametrize(
    ("source", "prior", "sentence"),
    [
        ("samples", 0.0, "are from the average of the 3 samples."),
        ("direct", None, "class probabilities; the samples are not used."),
        ("exact", 0.0, "class probabilities, which are the exact average of its samples."),
        ("both", 4.5, "class probabilities, which are weighted as 4.5 samples."),
    ],
)
def test_the_page_names_the_source_of_its_numbers(volumeNode, job, tmp_path, source, prior, sentence):
    job.report |= {"map_source": source, "map_prior": prior, "warnings": ["The spread <was> not fitted."]}
    page = html.unescape(write(importJob(volumeNode, job), tmp_path / "r.html"))
    assert page.count("Segmentation and entropy are from ") == page.count(sentence) == 1
    assert "The spread <was> not fitted." in page and "Unlike the regions" not in page
    assert "<th>Expected (ml)</th><th>50 % (ml)</th><th>90 % (ml)</th><th>Mask (ml)</th>" in page
    assert "Expected: sum of the class probabilities." in page


@pytest.mark.parametrize(("names", "sentence"), [(["0", "1"], "2 folds of "), (["all"], "One fold of ")])
def test_the_page_of_folds_has_no_seed_and_a_range_in_place_of_intervals(volumeNode, job, tmp_path, names, sentence):
    job.report |= {"folds": {"names": names}, "map_source": "folds", "map_prior": None, "seed": None, "steps": 0}
    for entry in job.report["volumes"]:
        entry |= {"interval50_ml": None, "interval90_ml": None, "method": "range", "range_ml": [1.0, 2.0]}
    page = write(importJob(volumeNode, job), tmp_path / "r.html")
    assert "<th>Expected (ml)</th><th>Range of the folds (ml)</th><th>Mask (ml)</th>" in page and "1.00–2.00" in page
    assert sentence in page and "3, none, none" in page and "None" not in page


def test_the_page_says_on_how_many_labelled_cases_the_intervals_were_checked(volumeNode, job, tmp_path):
    sentence = "Checked on 24 labelled cases of Clinic: 90 % intervals held in 22."
    job.report["own_cases"] = {"data": "Clinic", "cases": 24, "checked": True, "sentence": sentence}
    for entry in job.report["volumes"]:
        entry |= {"interval50_factor": 1.2, "interval90_factor": 1.6, "held90": 22, "held_of": 24}
    page = write(importJob(volumeNode, job), tmp_path / "r.html")
    assert sentence in page and "scaled to hold the true size" in page and "not an accuracy" not in page
    table = (tmp_path / "r.csv").read_text(encoding="utf-8-sig").splitlines()
    assert dict(zip(table[0].split(","), table[1].split(","), strict=True))["held90"] == "22"
    run = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["run"]
    assert run["own_cases"]["sentence"] == sentence


def test_the_page_of_an_earlier_version_shows_the_mean(volumeNode, job, tmp_path):
    for entry in job.report["volumes"]:
        del entry["expected_ml"]
    for key in ("kept_samples", "map_prior", "start", "warnings"):
        del job.report[key]
    page = write(importJob(volumeNode, job), tmp_path / "r.html")
    assert "<th>Mean (ml)</th>" in page and "Expected (ml)" not in page and "Expected:" not in page


def test_the_page_names_the_model_that_a_sampler_is_on_top_of(volumeNode, job, tmp_path):
    job.report["model"]["frozen"] = {"name": "my-nnunet", "sha256": "ab" * 32, "temperature": 1.5}
    page = write(importJob(volumeNode, job), tmp_path / "report.html")
    assert "On top of the model" in page and f"my-nnunet, {'ab' * 32}" in page


def test_samples_without_steps_are_repeated_without_steps(volumeNode, job):
    job.report["steps"] = 0
    assert "--steps" not in Report(importJob(volumeNode, job).segmentationNode).command()


def test_text_of_the_scene_cannot_become_markup(application, tmp_path):
    volumeNode = addVolume("<script>alert(1)</script>", obliqueIJKToRAS())
    page = write(importJob(volumeNode, segment(volumeNode, tmp_path / "job")), tmp_path / "r.html")
    assert "<script" not in page and "&lt;script&gt;" in page


def test_review_and_corrections_are_reported(result, job, tmp_path):
    review = Review(result.segmentationNode)
    review.mark(review.regions[0], DONE)
    review.mark(review.regions[1], FLAGGED)
    masks = [corrections.regionMask(result.segmentationNode, region["basin"]) for region in review.regions]
    changed = sum(corrections.useSample(result.segmentationNode, 2, mask) for mask in masks)
    page = write(result, tmp_path / "r.html")
    content = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert changed > 0 and content["edited_voxels"] == changed and f"{changed} voxels (" in page
    assert [region["state"] for region in content["review"]["regions"][:3]] == [DONE, FLAGGED, "open"]
    assert "done: 1, flagged: 1, skipped: 0" in page
    with open(tmp_path / "r.csv", encoding="utf-8-sig", newline="") as file:
        assert [row["segment"] for row in csv.DictReader(file)] == [v["name"] for v in job.report["volumes"]]


def test_the_command_repeats_the_run(result, tmp_path):
    words = shlex.split(Report(result.segmentationNode).command())
    assert words[:3] == ["diffusion-segmentation", "segment", "VOLUME"]
    options = dict(zip(words[3::2], words[4::2], strict=True))
    assert options == {
        "--model": "brain-structures",
        "--samples": "3",
        "--steps": "5",
        "--seed": "0",
        "--device": "cpu",
        "--output": "DIR",
    }


@pytest.mark.parametrize("transformed", [False, True])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1)])
def test_a_picture_shows_position_and_orientation(application, tmp_path, flips, transformed):
    """A right, anterior, superior block is drawn at the upper left, whatever the order of the voxels."""
    matrix = np.diag([*np.multiply(flips, 2.0), 1.0])[:, [2, 0, 1, 3]]  # axes permuted, too
    volumeNode = addVolume("Kopf", matrix, shape=(40, 40, 40))
    if transformed:
        volumeNode.SetAndObserveTransformNodeID(addLinearTransform().GetID())
    result = importJob(volumeNode, segment(volumeNode, tmp_path))
    entropyNode = result.entropyNode
    entropyNode.GetScalarVolumeDisplayNode().SetThreshold(5, 9)
    result.segmentationNode.GetSegmentation().RemoveAllSegments()
    voxels = slicer.util.arrayFromVolume(volumeNode)
    kji = np.indices(voxels.shape).reshape(3, -1)
    ras = (matrix @ np.vstack([kji[::-1], np.ones(kji.shape[1])]))[:3]
    center = (ras.max(1) + ras.min(1)) / 2
    offset = (ras.T - center).reshape(*voxels.shape, 3)
    voxels[:] = np.where((np.abs(offset - [12, 14, 16]) <= 4).all(-1), 1000, 0)
    volumeNode.GetScalarVolumeDisplayNode().AutoWindowLevelOff()
    volumeNode.GetScalarVolumeDisplayNode().SetWindowLevelMinMax(0, 1000)
    place = center + [12, 14, 16]
    pictures = RegionPictures(result.segmentationNode)
    scale = SLICE_PIXELS / SLICE_MM
    for at, (axial, coronal, sagittal) in (
        (place, ((0, 0), (0, 0), (0, 0))),
        (center + [0, 0, 16], ((12, 14), None, None)),
    ):
        picture = pictures.slices(tuple(at))[-SLICE_PIXELS:, :, 0].astype(float)
        tiles = np.split(picture[:, : 3 * (SLICE_PIXELS + 6)][:, :SLICE_PIXELS], 1, 1)
        tiles += [picture[:, n * (SLICE_PIXELS + 6) :][:, :SLICE_PIXELS] for n in (1, 2)]
        for tile, mm in zip(tiles, (axial, coronal, sagittal), strict=True):
            if mm is None:
                assert tile.max() < 128
                continue
            rows, columns = np.nonzero(tile > 128)
            middle = SLICE_PIXELS / 2
            # The first axis of the plane, right or front, lies to the left; the second, front or head, lies high.
            assert columns.mean() == pytest.approx(middle - scale * mm[0], abs=2 * scale)
            assert rows.mean() == pytest.approx(middle - scale * mm[1], abs=2 * scale)


def test_a_picture_has_overlay_and_outline(result):
    review = Review(result.segmentationNode)
    region = review.regions[0]
    mask = corrections.regionMask(result.segmentationNode, region["basin"])
    pictures = RegionPictures(result.segmentationNode)
    picture, bare = pictures.slices(region["peak_ras_mm"], mask), pictures.slices(region["peak_ras_mm"])
    cyan = (picture == np.round(255 * np.array(OUTLINE_COLOR))).all(-1)
    above = picture[: len(picture) // 2 - 3]
    assert (np.ptp(above, axis=2)[:, :SLICE_PIXELS] == 0).all() and above.max() > 50  # the image alone
    assert cyan.sum() > 20 and not (bare == np.round(255 * np.array(OUTLINE_COLOR))).all(-1).any()
    result.entropyNode.GetScalarVolumeDisplayNode().SetThreshold(9, 10)
    assert np.abs(bare.astype(int) - RegionPictures(result.segmentationNode).slices(region["peak_ras_mm"])).max() > 40


def test_alternatives_and_contours_are_reported(result, job, tmp_path):
    page = html.unescape(write(result, tmp_path / "r.html"))
    region = Review(result.segmentationNode).regions[0]
    inside = corrections.regionMask(result.segmentationNode, region["basin"])
    distinct, counts = np.unique([sample[inside] for sample in job.samples], axis=0, return_counts=True)
    assert f"Alternatives: {', '.join(map(str, sorted(counts)[::-1]))} of 3 samples." in page
    assert "<th>Gap (mm)</th>" in page and "<td>2.50</td>" in page
    table = list(csv.DictReader((tmp_path / "r.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert [row["contour_distance_mm"] for row in table] == ["2.5", "2.5"]


def test_no_partial_files_remain(result, tmp_path):
    target = tmp_path / "there" / "r.html"
    with pytest.raises(OSError):
        write(result, target)
    assert list(tmp_path.glob("**/*.part")) == []


def test_a_removed_node_is_reported_before_anything_is_written(result, tmp_path):
    slicer.mrmlScene.RemoveNode(result.probabilitiesNode)
    with pytest.raises(LookupError, match="probabilities"):
        Report(result.segmentationNode)


def test_the_page_starts_with_the_warning_of_an_unusual_scan(volumeNode, job, tmp_path):
    sentence = "The scan is unlike those that the model was made for (distance 9.1, limit 3.0, most in white matter)"
    job.report |= {"warnings": [sentence], "region_limit": 2.3}
    for number, region in enumerate(job.report["regions"]):
        region["distance"] = 5.0 if number == 0 else 1.0
    page = html.unescape(write(importJob(volumeNode, job), tmp_path / "r.html"))
    assert page.index(f"<b>{sentence}</b>") < page.index("<h2>")
    assert page.count("Unlike the regions that the model was made for (distance 5.0, limit 2.3).") == 1
    assert json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))["run"]["region_limit"] == 2.3


def test_the_page_names_the_dicom_series(volumeNode, job, tmp_path):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(volumeNode.GetScene())
    hierarchy.SetItemUID(hierarchy.GetItemByDataNode(volumeNode), "DICOM", "1.2.3.4.5")
    page = write(importJob(volumeNode, job), tmp_path / "report.html")
    assert "DICOM series" in page and "1.2.3.4.5" in page
    assert (
        json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["run"]["input"]["series_uid"] == "1.2.3.4.5"
    )
