"""The module's self test for Reload and Test in Slicer, which finds the class in the module's file."""

import sys
import tempfile
import time
import unittest
from pathlib import Path

import numpy as np
import qt
import slicer.util
import vtk
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleTest

from ..i18n import tr as _
from ..report.page import Report
from ..review.review import Review
from ..scene import slice_entropy, voxel_grids
from ..scene.contours import CONTOURS_ROLE
from ..scene.display import Overlay
from ..scene.label_map import Labels
from ..scene.result_nodes import RUN_ATTRIBUTE, regionsVolume
from ..scene.sample_browser import Browser
from ..scene.voxel_probe import VoxelProbe


class DiffusionSegmentationTest(ScriptedLoadableModuleTest):
    """Operates the panel in the running application on a synthetic head.

    The worker runs in the Python of the setting DiffusionSegmentation/workerPython, otherwise in Slicer's Python.
    Skipped if Slicer's Python is used and lacks packages.
    """

    TIMEOUT_SECONDS = 600.0

    def setUp(self):
        slicer.mrmlScene.Clear()
        self.widget = slicer.util.getModuleWidget("DiffusionSegmentation")
        missing = self.widget.logic.backend.missingPackages()
        if missing:
            raise unittest.SkipTest(f"Slicer's Python lacks {', '.join(package.name for package in missing)}.")

    def runTest(self):
        for name in unittest.defaultTestLoader.getTestCaseNames(type(self)):
            self.setUp()
            getattr(self, name)()

    def test_segmentVolume(self):
        """Segment a transformed volume: names, transforms, grid, terminology and overlay of the result nodes."""
        volumeNode = self.makeHead()
        transform = vtk.vtkTransform()
        transform.RotateZ(20.0)
        transform.Translate(10.0, -5.0, 3.0)
        transformNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transformNode.SetMatrixTransformToParent(transform.GetMatrix())
        volumeNode.SetAndObserveTransformNodeID(transformNode.GetID())
        otherNode = self.makeHead("Other")
        slicer.util.setSliceViewerLayers(background=volumeNode, foreground=otherNode, foregroundOpacity=0.25)
        before = self.layers()
        ui = self.enterWith(volumeNode)
        job = self.segment(samples=2)
        segmentationNode = job.result.segmentationNode
        entropyNode = job.result.entropyNode
        self.assertEqual(segmentationNode.GetName(), "Head segmentation")
        self.assertEqual(entropyNode.GetName(), "Head entropy")
        for node in (segmentationNode, entropyNode):
            self.assertIs(node.GetParentTransformNode(), transformNode)
            self.assertTrue(node.GetAttribute(RUN_ATTRIBUTE))
        difference = voxel_grids.ijkToRAS(volumeNode) - voxel_grids.ijkToRAS(entropyNode)
        self.assertLess(np.abs(difference).max(), 1e-4)
        entropy = slicer.util.arrayFromVolume(entropyNode)
        self.assertEqual(entropy.shape, slicer.util.arrayFromVolume(volumeNode).shape)
        self.assertGreaterEqual(entropy.min(), 0.0)
        self.assertLessEqual(entropy.max(), job.report["max_entropy_bits"] + 1e-3)
        segmentation = segmentationNode.GetSegmentation()
        self.assertGreater(segmentation.GetNumberOfSegments(), 0)
        for index in range(segmentation.GetNumberOfSegments()):
            entry = vtk.reference("")
            segment = segmentation.GetNthSegment(index)
            self.assertTrue(segment.GetTag(segment.GetTerminologyEntryTagName(), entry))
            self.assertIn("SCT", str(entry))

        overlay = Overlay(entropyNode)
        if before:  # only with slice views
            self.assertTrue(overlay.visible)
            self.assertTrue(ui.overlayCheckBox.checked)
            ui.overlayCheckBox.click()
            self.assertFalse(overlay.visible)
            self.assertEqual(self.layers(), before)
            ui.overlayCheckBox.click()
            ui.layerComboBox.currentIndex = 1
            self.assertTrue(Overlay(job.result.disagreementNode).visible)
            ui.layerComboBox.currentIndex = 0
            self.assertTrue(overlay.visible)
            ui.opacitySlider.value = 0.5
        ui.thresholdSlider.value = 0.5
        self.assertAlmostEqual(overlay.threshold, 0.5, places=2)
        self.assertTrue(ui.editButton.enabled)
        self.assertNotIn("torch", sys.modules)

    def test_reviewAndCorrect(self):
        """Use the estimate, volumes, regions, slices, samples, measurements, corrections and report of one result."""
        volumeNode = self.makeHead()
        ui = self.enterWith(volumeNode)
        self.assertTrue(ui.statusLabel.text)  # estimated run time
        job = self.segment(samples=3)
        segmentationNode = job.result.segmentationNode
        labels = Labels(segmentationNode)
        self.assertEqual(labels.edited(), 0)

        self.assertEqual(ui.volumesTable.rowCount, len(job.report["volumes"]))
        ui.copyVolumesButton.click()
        copied = qt.QApplication.clipboard().text()
        self.assertEqual(len(copied.splitlines()), 1 + len(job.report["volumes"]))

        ui.nextButton.click()
        review = Review(segmentationNode)
        self.assertEqual(review.current["rank"], 1)
        ui.doneButton.click()
        self.assertEqual(review.current["rank"], 2)
        views = slice_entropy.sliceNodes()
        if views:
            profiles = slice_entropy.Profiles(job.result.entropyNode)
            ui.worst1Button.click()
            profile = profiles.of(views[0])
            shown = round(profiles.position(views[0]) * len(profile) - 0.5)
            self.assertAlmostEqual(profile[shown], profile.max())
        middle = [0.0, 0.0, 0.0]
        volumeNode.TransformPointToWorld((0.0, 0.0, 0.0), middle)
        self.assertIn("%", VoxelProbe(segmentationNode).textAt(tuple(middle)))
        bits = ui.thresholdSlider.value - 0.2
        ui.thresholdSlider.value = bits
        self.waitUntil(lambda: abs(Review(segmentationNode).criteria.bits - bits) < 0.01)

        ui.askButton.click()
        self.waitUntil(lambda: not self.widget.logic.backend.asker.busy)
        self.assertEqual(ui.answersTable.rowCount, 1, ui.measuredLabel.text)

        ui.sampleCheckBox.click()
        ui.sampleSlider.value = 1
        self.assertIn("2", ui.sampleText.text)
        ui.nextButton.click()
        self.assertTrue(ui.useSampleButton.enabled, ui.useSampleButton.toolTip)
        current = Review(segmentationNode).current
        inside = slicer.util.arrayFromVolume(regionsVolume(segmentationNode)) == current["basin"]
        ui.useSampleButton.click()
        sample = slicer.util.arrayFromVolume(job.result.samplesNode.GetNthDataNode(1))
        self.assertTrue(np.array_equal(labels.current()[inside], sample[inside]))
        ui.sampleCheckBox.click()
        ui.alternative1Button.click()
        self.assertTrue(ui.alternative1Button.checked, ui.alternative1Button.toolTip)
        self.assertEqual(Browser(segmentationNode).part, current["basin"])
        ui.useAlternativeButton.click()
        self.assertIsNone(Browser(segmentationNode).shown)
        self.assertTrue(ui.alternativesLabel.text)

        ui.contoursCheckBox.click()
        self.assertIsNotNone(segmentationNode.GetNodeReference(CONTOURS_ROLE))
        ui.contoursCheckBox.click()
        self.assertIsNone(segmentationNode.GetNodeReference(CONTOURS_ROLE))

        ui.reviewSegmentButton.click()
        self.assertIsNotNone(segmentationNode.GetSegmentation().GetSegment("to_review"))
        ui.uncertainOnlyCheckBox.click()
        ui.editButton.click()
        editorNode = slicer.util.getModuleWidget("SegmentEditor").editor.mrmlSegmentEditorNode()
        self.assertTrue(editorNode.GetSourceVolumeIntensityMask())
        slicer.util.selectModule("DiffusionSegmentation")

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "report.html"
            for _step in Report(segmentationNode).writeSteps(path):
                slicer.app.processEvents()
            self.assertIn(volumeNode.GetName(), path.read_text(encoding="utf-8"))

    def test_manyVolumes(self):
        """Segment a batch of three volumes, of which the second fails."""
        self.makeHead("First")
        slicer.util.addVolumeFromArray(np.zeros((1, 8, 8), np.int16), name="Flat")
        self.makeHead("Second")
        self.widget.enter()
        ui = self.widget.ui
        ui.samplesSpinBox.value = 1
        ui.addVolumesButton.click()
        ui.batchButton.click()
        self.waitUntil(lambda: ui.batchButton.text == _("Segment all"))
        names = {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")}
        self.assertEqual(names, {"First segmentation", "Second segmentation"})
        self.assertIn("1", ui.batchLabel.text)
        ui.clearBatchButton.click()

    def test_volumesThatCannotBeSegmented(self):
        """The Segment button is disabled with a reason in its tooltip."""
        ui = self.enterWith(None)
        self.assertFalse(ui.segmentButton.enabled)
        self.assertIn(_("Select the volume to segment."), ui.segmentButton.toolTip)
        slice2D = slicer.util.addVolumeFromArray(np.zeros((1, 8, 8), np.int16), name="Slice")
        ui = self.enterWith(slice2D)
        self.assertFalse(ui.segmentButton.enabled)
        self.assertIn("Slice", ui.segmentButton.toolTip)

    def test_closeSceneDuringRun(self):
        """Closing the scene cancels the run, and no result appears."""
        ui = self.enterWith(self.makeHead())
        ui.segmentButton.click()
        slicer.app.processEvents()
        slicer.mrmlScene.Clear()
        self.assertEqual(self.widget.logic.backend.runner.job.state, "cancelled")
        self.assertIsNone(slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode"))

    def makeHead(self, name="Head"):
        """Add a head of skin, skull, brain and ventricles: 64³ voxels of 3 mm, rotated by 10° about the S axis."""
        axis = np.linspace(-1.0, 1.0, 64)
        z, y, x = np.meshgrid(axis, axis, axis, indexing="ij")
        radius = np.sqrt((x / 0.7) ** 2 + (y / 0.85) ** 2 + (z / 0.75) ** 2)
        voxels = np.zeros(radius.shape, np.int16)
        for limit, intensity in ((1.0, 900), (0.93, 150), (0.85, 550), (0.72, 800), (0.25, 200)):
            voxels[radius < limit] = intensity
        voxels += np.random.default_rng(0).normal(0, 15, voxels.shape).astype(np.int16)
        angle = np.radians(10.0)
        ijkToRAS = np.diag([3.0, 3.0, 3.0, 1.0])
        ijkToRAS[:2, :2] = 3.0 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        ijkToRAS[:3, 3] = -ijkToRAS[:3, :3] @ np.full(3, 31.5)
        return slicer.util.addVolumeFromArray(voxels, ijkToRAS=ijkToRAS, name=name)

    def layers(self):
        return [
            (node.GetBackgroundVolumeID(), node.GetForegroundVolumeID(), node.GetForegroundOpacity())
            for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        ]

    def enterWith(self, volumeNode):
        self.widget.enter()
        self.widget.ui.inputSelector.setCurrentNode(volumeNode)
        return self.widget.ui

    def waitUntil(self, condition):
        deadline = time.monotonic() + self.TIMEOUT_SECONDS
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            slicer.app.processEvents()
            time.sleep(0.01)

    def segment(self, samples):
        """Click Segment, process events until the run has ended and is shown, and return its job."""
        ui, runner = self.widget.ui, self.widget.logic.backend.runner
        ui.samplesSpinBox.value = samples
        self.assertTrue(ui.segmentButton.enabled, ui.segmentButton.toolTip)
        ui.segmentButton.click()
        self.assertEqual(ui.segmentButton.text, _("Cancel"))
        self.waitUntil(lambda: not runner.busy and not self.widget.panel.settling)
        slicer.app.processEvents()
        self.assertEqual(runner.job.state, "done", runner.job.message)
        return runner.job
