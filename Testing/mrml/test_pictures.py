"""Results of colour pictures in the scene: overlay, outlines, samples, review, and pictures of the report."""

import base64
import json
import re

import numpy as np
import pytest
import slicer.util
from mrml_cases import addPicture, importJob, segment, showInViews

from DiffusionSegmentationLib.report.page import Report
from DiffusionSegmentationLib.report.pictures import PICTURE_PIXELS, RegionPictures
from DiffusionSegmentationLib.review.review import Review
from DiffusionSegmentationLib.scene import display, framing, offscreen
from DiffusionSegmentationLib.scene.label_map import Labels
from DiffusionSegmentationLib.scene.sample_browser import Browser
from DiffusionSegmentationLib.scene.slice_entropy import Profiles


@pytest.fixture
def picture(application):
    return addPicture()


@pytest.fixture
def result(picture, tmp_path):
    return importJob(picture, segment(picture, tmp_path / "job"))


def test_the_colours_are_seen_below_outlines_overlay_and_sample(views, picture, result):
    red = views["Red"]
    showInViews({"Red": red}, picture)
    red.frame(np.mean(np.reshape(bounds(picture), (3, 2)), axis=1), 80.0)
    display.showOutlines(result.segmentationNode, False)
    plain = red.render()
    height, width, _channels = plain.shape
    left, right, top = plain[height // 2, 20], plain[height // 2, width - 20], plain[20, width // 2]
    assert left[0] < 100 < 150 < right[0] and top[1] < 120 and abs(int(left[2]) - 40) < 4
    overlay = display.Overlay(result.entropyNode)
    overlay.show()
    covered = red.render()
    changed = np.abs(covered.astype(int) - plain).max(-1) > 20
    assert 0.2 < changed.mean() < 0.8
    overlay.hide()
    assert np.array_equal(red.render(), plain)
    display.showOutlines(result.segmentationNode, True)
    assert not np.array_equal(red.render(), plain)
    display.showOutlines(result.segmentationNode, False)
    Browser(result.segmentationNode).show(1)
    assert (np.abs(red.render().astype(int) - plain).max(-1) > 20).mean() > 0.2


def bounds(node):
    values = [0.0] * 6
    node.GetRASBounds(values)
    return values


def test_a_region_of_a_small_picture_fills_the_view(views, tmp_path):
    """Of 0.01 mm pixels: the smallest width for heads, 60 mm, would show it as a dot."""
    picture = addPicture("Slide", 0.01)
    result = importJob(picture, segment(picture, tmp_path / "job"))
    review = Review(result.segmentationNode)
    node = views["Red"].sliceNode
    before = node.GetFieldOfView()
    review.goTo(review.regions[0])
    across, up, _depth = node.GetFieldOfView()
    assert 0.2 < min(across, up) < 2
    review.leave()
    assert node.GetFieldOfView() == pytest.approx(before)
    assert framing.BEFORE_ATTRIBUTE not in result.segmentationNode.GetAttributeNames()


def test_sizes_of_a_picture_are_areas(result, picture):
    review = Review(result.segmentationNode)
    assert review.unit.suffix == "px" and review.regions and review.reviewable > 0
    labels = Labels(result.segmentationNode)
    assert labels.countText(12) == "12 pixels" and labels.sizeOf(12) == 12
    profiles = Profiles(result.entropyNode)
    assert [len(sums) for sums in profiles._sums] == [90, 60, 1]


def test_the_report_shows_the_picture_in_its_colours(result, picture, tmp_path):
    region = Review(result.segmentationNode).regions[0]
    drawn = RegionPictures(result.segmentationNode).slices(region["peak_ras_mm"])
    assert drawn.shape == (PICTURE_PIXELS, 2 * PICTURE_PIXELS + offscreen.GAP_PIXELS, 3)
    plain = drawn[:, :PICTURE_PIXELS]
    middle = plain[PICTURE_PIXELS // 2]
    assert middle[10, 0] < 40 and middle[-30, 0] > 200 and np.abs(middle[10:-30, 2].astype(int) - 40).max() < 4
    picture.GetDisplayNode().AutoWindowLevelOff()
    picture.GetDisplayNode().SetWindowLevelMinMax(0, 510)
    darker = RegionPictures(result.segmentationNode).slices(region["peak_ras_mm"])[PICTURE_PIXELS // 2]
    assert (
        np.abs(darker[-30 - PICTURE_PIXELS - offscreen.GAP_PIXELS, 0] - middle[-30, 0] / 2) < 4
    )  # as the views show it
    assert not np.array_equal(plain, drawn[:, -PICTURE_PIXELS:])
    path = tmp_path / "r.html"
    for _step in Report(result.segmentationNode).writeSteps(path):
        pass
    page = path.read_text(encoding="utf-8")
    assert "(px)" in page and "ml)" not in page and "The whole picture" in page
    pictures = re.findall(r"data:image/png;base64,([^\"]+)", page)
    regions = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["review"]["regions"]
    assert len(pictures) == min(6, len(regions)) and all(base64.b64decode(data) for data in pictures)


def test_the_browser_orders_samples_by_area(result):
    browser = Browser(result.segmentationNode)
    assert "by area of Cortical grey matter" in browser.orders().values()
    assert slicer.util.arrayFromVolume(result.samplesNode.GetNthDataNode(0)).shape[0] == 1
