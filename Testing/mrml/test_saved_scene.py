"""A saved scene with a result: contents, references and features after reopening."""

import json
import time
import xml.etree.ElementTree
import zipfile
from pathlib import PurePosixPath
from urllib.parse import unquote

import numpy as np
import pytest
import slicer
import slicer.util
from mrml_cases import LABELS, MAXIMUM_BITS, addLinearTransform, addVolume, importJob

from DiffusionSegmentationLib.headless import session
from DiffusionSegmentationLib.review import corrections
from DiffusionSegmentationLib.review.ranking import Ranker, RegionCriteria
from DiffusionSegmentationLib.review.review import Review
from DiffusionSegmentationLib.scene import display, result_nodes
from DiffusionSegmentationLib.scene.label_map import Labels
from DiffusionSegmentationLib.scene.sample_browser import Browser


@pytest.fixture
def bundle(application, volumeNode, job, tmp_path):
    """A .mrb with a result under a transform; its overlay hides a PET in the foreground."""
    application.addSliceViews((96, 96))
    volumeNode.SetAndObserveTransformNodeID(addLinearTransform().GetID())
    result = importJob(volumeNode, job)
    pet = addVolume("PET", np.eye(4))
    for view in application.sliceViews.values():
        view.compositeNode.SetBackgroundVolumeID(volumeNode.GetID())
        view.compositeNode.SetForegroundVolumeID(pet.GetID())
        view.compositeNode.SetForegroundOpacity(0.35)
    overlay = display.Overlay(result.entropyNode)
    overlay.opacity = 0.6
    overlay.threshold = 0.25
    overlay.show()
    path = tmp_path / "Szene é.mrb"
    assert slicer.mrmlScene.WriteToMRB(str(path))
    return path


@pytest.fixture
def reopened(application, bundle, tmp_path):
    """The bundle opened in a new application."""
    application.close()
    other = session.boot()
    other.addSliceViews((96, 96))
    assert other.logic.OpenSlicerDataBundle(str(bundle), str(tmp_path))
    yield other
    other.close()


def node(application, name):
    return application.scene.GetFirstNodeByName(name)


def test_bundle_contains_every_file_by_relative_path(bundle):
    with zipfile.ZipFile(bundle) as archive:
        names = archive.namelist()
        mrml = next(name for name in names if name.endswith(".mrml"))
        root = xml.etree.ElementTree.fromstring(archive.read(mrml))
    files = [element.get("fileName") for element in root.iter() if element.get("fileName")]
    # volume, PET, transform, segmentation, entropy, disagreement, their colours, regions, samples, probabilities
    assert len(files) == 10
    for file in files:
        assert not PurePosixPath(file).is_absolute()
        assert str(PurePosixPath(mrml).parent / unquote(file)) in names


def test_bundle_raises_no_warning_about_the_application(bundle):
    with zipfile.ZipFile(bundle) as archive:
        mrml = next(name for name in archive.namelist() if name.endswith(".mrml"))
        assert xml.etree.ElementTree.fromstring(archive.read(mrml)).get("version") == "Slicer 5.10.0 0"


def test_segmentation_and_entropy_are_restored(reopened, job):
    volumeNode = node(reopened, "Kopf é 頭")
    segmentationNode = node(reopened, "Kopf é 頭 segmentation")
    entropyNode = node(reopened, "Kopf é 頭 entropy")

    assert np.array_equal(slicer.util.arrayFromVolume(entropyNode), job.entropy)
    for entry in LABELS:
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(segmentationNode, entry["id"], volumeNode)
        assert np.array_equal(mask, job.labels == entry["label"])
        segment = segmentationNode.GetSegmentation().GetSegment(entry["id"])
        assert (segment.GetName(), segment.GetTerminology()) == (entry["name"], entry["terminology"])
    for resultNode in (segmentationNode, entropyNode):
        assert resultNode.GetParentTransformNode() is volumeNode.GetParentTransformNode() is not None


def test_samples_are_restored(reopened, job):
    samplesNode = node(reopened, "Kopf é 頭 samples")

    assert samplesNode.GetNumberOfDataNodes() == len(job.samples)
    for index, labels in enumerate(job.samples):
        assert np.array_equal(slicer.util.arrayFromVolume(samplesNode.GetDataNodeAtValue(str(index))), labels)


def test_report_and_references_are_restored(reopened, job):
    volumeNode = node(reopened, "Kopf é 頭")
    segmentationNode = node(reopened, "Kopf é 頭 segmentation")
    entropyNode = node(reopened, "Kopf é 頭 entropy")
    samplesNode = node(reopened, "Kopf é 頭 samples")

    for resultNode in (segmentationNode, entropyNode, samplesNode):
        assert json.loads(resultNode.GetAttribute(result_nodes.RUN_ATTRIBUTE)) == job.report
        assert resultNode.GetNodeReference(result_nodes.VOLUME_ROLE) is volumeNode
    assert segmentationNode.GetNodeReference(result_nodes.ENTROPY_ROLE) is entropyNode
    assert segmentationNode.GetNodeReference(result_nodes.SAMPLES_ROLE) is samplesNode


def test_subject_hierarchy_is_restored(reopened):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(reopened.scene)
    items = [
        hierarchy.GetItemByDataNode(node(reopened, f"Kopf é 頭{suffix}"))
        for suffix in ("", " entropy", " segmentation")
    ]
    assert all(items)
    assert len({hierarchy.GetItemParent(item) for item in items}) == 1


def test_display_is_restored(reopened):
    entropyNode = node(reopened, "Kopf é 頭 entropy")
    displayNode = entropyNode.GetScalarVolumeDisplayNode()

    assert displayNode.GetColorNode().GetName() == "Entropy (plasma)"
    assert np.allclose(
        displayNode.GetColorNode().GetColorTransferFunction().GetColor(1.0), display.COLORS[-1], atol=1e-3
    )
    assert (displayNode.GetWindowLevelMin(), displayNode.GetWindowLevelMax()) == pytest.approx(
        (0, MAXIMUM_BITS), abs=1e-5
    )
    assert displayNode.GetApplyThreshold() and displayNode.GetLowerThreshold() == 0.25
    legend = slicer.modules.colors.logic().GetColorLegendDisplayNode(entropyNode)
    assert legend.GetTitleText() == "Entropy (bits)" and legend.GetVisibility()
    segmentationNode = node(reopened, "Kopf é 頭 segmentation")
    assert not segmentationNode.GetDisplayNode().GetVisibility2DFill()


def test_overlay_is_restored_and_restores_the_foreground(reopened):
    overlay = display.Overlay(node(reopened, "Kopf é 頭 entropy"))
    composites = [view.compositeNode for view in reopened.sliceViews.values()]
    assert overlay.visible and overlay.opacity == 0.6
    assert {composite.GetForegroundOpacity() for composite in composites} == {0.6}
    reopened.sliceViews["Red"].render()

    overlay.hide()

    assert {composite.GetForegroundVolumeID() for composite in composites} == {node(reopened, "PET").GetID()}
    assert {composite.GetForegroundOpacity() for composite in composites} == {0.35}


def test_outlines_are_drawn(reopened):
    display.Overlay(node(reopened, "Kopf é 頭 entropy")).hide()
    segmentationNode = node(reopened, "Kopf é 頭 segmentation")
    bounds = [0.0] * 6
    segmentationNode.GetRASBounds(bounds)
    center = [(low + high) / 2 for low, high in zip(bounds[::2], bounds[1::2], strict=True)]

    for view in reopened.sliceViews.values():
        view.frame(center, 40.0)
        assert (np.ptp(view.render().astype(int), axis=2) > 25).sum() > 30


def test_a_second_result_uses_the_colors_of_the_scene(reopened, job):
    importJob(node(reopened, "Kopf é 頭"), job)

    colors = slicer.util.getNodesByClass("vtkMRMLProceduralColorNode")
    assert [color.GetName() for color in colors].count("Entropy (plasma)") == 1


def test_review_and_corrections_work_in_the_reopened_scene(reopened, job):
    segmentationNode = node(reopened, "Kopf é 頭 segmentation")
    labels = Labels(segmentationNode)
    assert labels.edited() == 0
    browser = Browser(segmentationNode)
    assert browser.count == len(job.samples)
    browser.show(1)
    review = Review(segmentationNode)
    review.goTo(review.regions[0])
    ranker = Ranker(segmentationNode)
    ranker.ask(RegionCriteria(0.5, 60))
    deadline = time.monotonic() + 20
    while (regions := ranker.poll()) is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert review.replaceRegions(*regions).regions
    mask = np.ones(labels.shape, bool)
    changed = corrections.useSample(segmentationNode, 1, mask)
    assert changed == labels.edited() == (job.samples[1] != labels.consensus()).sum() > 0
