"""3D Slicer's module: its four classes, each a thin shell over DiffusionSegmentationLib."""

import sys
import tempfile
import time
import unittest
from pathlib import Path

import numpy as np
import qt
import slicer
import slicer.util
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from DiffusionSegmentationLib import dependencies, scene, slices
from DiffusionSegmentationLib.backend import Backend
from DiffusionSegmentationLib.display import Overlay
from DiffusionSegmentationLib.jobs import Choices, Job
from DiffusionSegmentationLib.labels import Labels
from DiffusionSegmentationLib.panel import Panel
from DiffusionSegmentationLib.parameters import DiffusionSegmentationParameterNode
from DiffusionSegmentationLib.pointer import Pointer
from DiffusionSegmentationLib.report import Report
from DiffusionSegmentationLib.review import Review

RESOURCES = Path(__file__).parent / "Resources"


class DiffusionSegmentation(ScriptedLoadableModule):
    """The module as Slicer lists it."""

    def __init__(self, parent):
        super().__init__(parent)
        self.parent.title = _("Diffusion Segmentation")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations", "SegmentEditor", "Volumes", "Colors"]
        self.parent.contributors = ["DiffusionSegmentation contributors"]
        self.parent.helpText = _(
            "Segments a volume with a diffusion model and shows where not to trust the result: an overlay colours where"
            " the model is unsure, and several plausible masks are drawn, which tell how far the volumes may vary."
            " Everything is computed on this computer. Not for clinical use."
        )
        self.parent.acknowledgementText = _("The shipped model and its sources are named in its metadata.")
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offer an MR head that the shipped model was made for; it is downloaded when a person clicks it."""
    import SampleData

    digest = "cc211f0dfd9a05ca3841ce1141b292898b2dd2d3f08286affadf823a7e58df93"
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category="DiffusionSegmentation",
        sampleName="MRHead",
        thumbnailFileName=str(RESOURCES / "Icons" / "DiffusionSegmentation.png"),
        uris=f"https://github.com/Slicer/SlicerTestingData/releases/download/SHA256/{digest}",
        fileNames="MR-head.nrrd",
        nodeNames="MRHead",
        checksums=f"SHA256:{digest}",
    )


class DiffusionSegmentationWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """Life cycle of the panel."""

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic = None
        self.panel = None

    def setup(self):
        super().setup()
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/DiffusionSegmentation.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = DiffusionSegmentationLogic()
        self.panel = Panel(self.ui, self.logic.backend)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.EndImportEvent, self.onSceneEndImport)
        for event in (slicer.mrmlScene.NodeAddedEvent, slicer.mrmlScene.NodeRemovedEvent):
            self.addObserver(slicer.mrmlScene, event, self.onNodeListChanged)
        self.initializeParameterNode()

    def cleanup(self):
        self.removeObservers()
        if self.panel is not None:
            self.panel.close()
            self.logic.close()

    def enter(self):
        self.initializeParameterNode()
        self.panel.warmUp()

    def exit(self):
        """A run goes on while another module is open; nothing to do."""

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeListChanged(self, _caller, _event, node):
        """A box is a place where a sample can be used; a result may have lost a part."""
        if node.IsA("vtkMRMLMarkupsROINode") or node.GetAttribute(scene.RUN_ATTRIBUTE):
            self.panel.refresh()

    def onSceneStartClose(self, _caller, _event):
        self.panel.abandon()
        self.panel.setParameterNode(None)

    def onSceneEndClose(self, _caller, _event):
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneEndImport(self, _caller, _event):
        """Show what a loaded scene holds, now that it is whole."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Show this scene's choices; with no volume chosen yet, choose the first."""
        parameterNode = self.logic.getParameterNode()
        if parameterNode.inputVolume is None:
            parameterNode.inputVolume = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
        self.panel.setParameterNode(parameterNode)

    def onReload(self):
        """Reload this file and the whole Lib: forgotten modules are imported anew, in the right order."""
        for name in [name for name in sys.modules if name.split(".")[0] == "DiffusionSegmentationLib"]:
            del sys.modules[name]
        super().onReload()


class DiffusionSegmentationLogic(ScriptedLoadableModuleLogic):
    """For scripts: `slicer.util.getModuleLogic("DiffusionSegmentation").segment(volumeNode)`."""

    def __init__(self):
        super().__init__()
        self.backend = Backend(RESOURCES / "requirements.txt")

    def getParameterNode(self):
        return DiffusionSegmentationParameterNode(super().getParameterNode())

    def segment(self, volumeNode: slicer.vtkMRMLScalarVolumeNode, choices: Choices | None = None) -> Job:
        """Segment `volumeNode` and wait for it, with Slicer responsive meanwhile; `job.state` tells how it ended.

        The nodes are `job.result.segmentationNode`, `.entropyNode`, `.disagreementNode` and `.samplesNode`. The layers
        of the views, the panel's choices and the result that it shows stay as they are.
        Raises DependencyError or HandoverError, one sentence each; RuntimeError while another run is under way.
        """
        job = self.backend.submit(volumeNode, choices or Choices())
        while job.active:
            self.backend.runner.poll()
            slicer.app.processEvents()
            time.sleep(0.02)
        return job

    def close(self):
        """End the background process."""
        self.backend.runner.close()


class DiffusionSegmentationTest(ScriptedLoadableModuleTest):
    """The story of a person in the real application, with a volume that the test makes.

    Runs the worker with the setting DiffusionSegmentation/workerPython or Slicer's own Python; is skipped if neither
    has the packages.
    """

    TIMEOUT_SECONDS = 600.0

    def setUp(self):
        slicer.mrmlScene.Clear()
        self.widget = slicer.util.getModuleWidget("DiffusionSegmentation")
        backend = self.widget.logic.backend
        if not backend.settings.workerPython:
            needs = dependencies.missing(RESOURCES / "requirements.txt")
            if needs:
                raise unittest.SkipTest(f"Slicer's Python lacks {', '.join(need.name for need in needs)}.")

    def runTest(self):
        self.setUp()
        self.test_segmentVolume()
        self.setUp()
        self.test_reviewAndCorrect()
        self.setUp()
        self.test_manyVolumes()
        self.setUp()
        self.test_volumesThatCannotBeSegmented()
        self.setUp()
        self.test_closeSceneDuringRun()

    def test_segmentVolume(self):
        """Click Segment on a transformed volume: result nodes, their place, names, codes, overlay, and the way back."""
        self.delayDisplay("Segment a volume")
        volumeNode = self.makeHead()
        transformNode = self.putUnderRotation(volumeNode)
        otherNode = self.makeHead("Other")
        slicer.util.setSliceViewerLayers(background=volumeNode, foreground=otherNode, foregroundOpacity=0.25)
        before = self.layers()
        ui = self.enterWith(volumeNode)
        ui.samplesSpinBox.value = 2
        self.assertTrue(ui.segmentButton.enabled, ui.segmentButton.toolTip)
        ui.segmentButton.click()
        self.assertEqual(ui.segmentButton.text, _("Cancel"))
        job = self.waitForRun()
        self.assertEqual(job.state, "done", job.message)

        segmentationNode = job.result.segmentationNode
        entropyNode = job.result.entropyNode
        self.assertEqual(segmentationNode.GetName(), "Head segmentation")
        self.assertEqual(entropyNode.GetName(), "Head entropy")
        for node in (segmentationNode, entropyNode):
            self.assertIs(node.GetParentTransformNode(), transformNode)
            self.assertTrue(node.GetAttribute(scene.RUN_ATTRIBUTE))
        matrices = [vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()]
        volumeNode.GetIJKToRASMatrix(matrices[0])
        entropyNode.GetIJKToRASMatrix(matrices[1])
        difference = slicer.util.arrayFromVTKMatrix(matrices[0]) - slicer.util.arrayFromVTKMatrix(matrices[1])
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
        if before:  # there are slice views
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
        self.delayDisplay("Segmented")

    def test_reviewAndCorrect(self):
        """Look ahead, volumes, regions, slices, samples, corrections and report of one result, all by clicks."""
        self.delayDisplay("Review and correct a result")
        volumeNode = self.makeHead()
        ui = self.enterWith(volumeNode)
        self.assertTrue(ui.statusLabel.text)  # how long it will take, or that this is not known yet
        ui.samplesSpinBox.value = 3
        ui.segmentButton.click()
        job = self.waitForRun()
        self.assertEqual(job.state, "done", job.message)
        segmentationNode = job.result.segmentationNode
        labels = Labels(segmentationNode)
        self.assertEqual(labels.edited(), 0)

        self.assertEqual(ui.volumesTable.rowCount, len(job.report["volumes"]))
        ui.copyVolumesButton.click()
        copied = qt.QApplication.clipboard().text()
        self.assertEqual(len(copied.splitlines()), 1 + len(job.report["volumes"]))

        ui.nextButton.click()
        review = Review(segmentationNode)
        self.assertEqual(review.current.rank, 1)
        ui.doneButton.click()
        self.assertEqual(review.current.rank, 2)
        views = list(slices.sliceNodes(slicer.mrmlScene))
        if views:
            profiles = slices.Profiles(job.result.entropyNode)
            ui.worst1Button.click()
            profile = profiles.of(views[0])
            shown = round(profiles.position(views[0]) * len(profile) - 0.5)
            self.assertAlmostEqual(profile[shown], profile.max())
        middle = [0.0, 0.0, 0.0]
        volumeNode.TransformPointToWorld((0.0, 0.0, 0.0), middle)
        self.assertIn("%", Pointer(segmentationNode).textAt(tuple(middle)))
        bits = ui.thresholdSlider.value - 0.2
        ui.thresholdSlider.value = bits
        self.waitUntil(lambda: abs(Review(segmentationNode).wish.bits - bits) < 0.01)

        ui.sampleCheckBox.click()
        ui.sampleSlider.value = 1
        self.assertIn("2", ui.sampleText.text)
        ui.nextButton.click()
        self.assertTrue(ui.useSampleButton.enabled, ui.useSampleButton.toolTip)
        current = Review(segmentationNode).current
        inside = slicer.util.arrayFromVolume(job.result.regionsNode) == current.basin
        ui.useSampleButton.click()
        sample = slicer.util.arrayFromVolume(job.result.samplesNode.GetNthDataNode(1))
        self.assertTrue(np.array_equal(labels.current()[inside], sample[inside]))
        ui.sampleCheckBox.click()

        ui.reviewSegmentButton.click()
        self.assertIsNotNone(segmentationNode.GetSegmentation().GetSegment("to_review"))
        ui.unsureOnlyCheckBox.click()
        ui.editButton.click()
        editorNode = slicer.util.getModuleWidget("SegmentEditor").editor.mrmlSegmentEditorNode()
        self.assertTrue(editorNode.GetSourceVolumeIntensityMask())
        slicer.util.selectModule("DiffusionSegmentation")

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "report.html"
            for _step in Report(segmentationNode).writeSteps(path):
                slicer.app.processEvents()
            self.assertIn(volumeNode.GetName(), path.read_text(encoding="utf-8"))
        self.delayDisplay("Reviewed and corrected")

    def test_manyVolumes(self):
        """Two volumes and one that cannot be segmented between them: two results, one sentence."""
        self.delayDisplay("Segment many volumes")
        self.makeHead("First")
        slicer.util.addVolumeFromArray(np.zeros((1, 8, 8), np.int16), name="Flat")
        self.makeHead("Second")
        self.widget.enter()
        ui = self.widget.ui
        ui.samplesSpinBox.value = 1
        ui.addScenesButton.click()
        ui.batchButton.click()
        self.waitUntil(lambda: ui.batchButton.text == _("Segment all"))
        names = {node.GetName() for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode")}
        self.assertEqual(names, {"First segmentation", "Second segmentation"})
        self.assertIn("1", ui.batchLabel.text)
        ui.clearBatchButton.click()

    def test_volumesThatCannotBeSegmented(self):
        """The button is off and says why."""
        ui = self.enterWith(None)
        self.assertFalse(ui.segmentButton.enabled)
        self.assertIn(_("Select the volume to segment."), ui.segmentButton.toolTip)
        slice2D = slicer.util.addVolumeFromArray(np.zeros((1, 8, 8), np.int16), name="Slice")
        ui = self.enterWith(slice2D)
        self.assertFalse(ui.segmentButton.enabled)
        self.assertIn("Slice", ui.segmentButton.toolTip)

    def test_closeSceneDuringRun(self):
        """The run is given up, and nothing of it appears in the new scene."""
        ui = self.enterWith(self.makeHead())
        ui.segmentButton.click()
        slicer.app.processEvents()
        slicer.mrmlScene.Clear()
        self.assertEqual(self.widget.logic.backend.runner.job.state, "cancelled")
        self.assertIsNone(slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSegmentationNode"))

    def makeHead(self, name="Head"):
        """A head-sized phantom at 3 mm, oblique to the axes of the patient: skin, skull, brain, ventricles."""
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

    def putUnderRotation(self, volumeNode):
        transform = vtk.vtkTransform()
        transform.RotateZ(20.0)
        transform.Translate(10.0, -5.0, 3.0)
        transformNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
        transformNode.SetMatrixTransformToParent(transform.GetMatrix())
        volumeNode.SetAndObserveTransformNodeID(transformNode.GetID())
        return transformNode

    def layers(self):
        """What the slice views show."""
        return [
            (node.GetBackgroundVolumeID(), node.GetForegroundVolumeID(), node.GetForegroundOpacity())
            for node in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
        ]

    def enterWith(self, volumeNode):
        self.widget.enter()
        self.widget.ui.inputSelector.setCurrentNode(volumeNode)
        return self.widget.ui

    def waitUntil(self, condition):
        """Let Slicer live until `condition` holds."""
        deadline = time.monotonic() + self.TIMEOUT_SECONDS
        while not condition():
            self.assertLess(time.monotonic(), deadline)
            slicer.app.processEvents()
            time.sleep(0.01)

    def waitForRun(self):
        """Let Slicer live until the run has ended, and return its job."""
        runner = self.widget.logic.backend.runner
        self.waitUntil(lambda: not runner.busy)
        slicer.app.processEvents()
        return runner.job
