"""The scripted module as 3D Slicer loads it. Its classes delegate to DiffusionSegmentationLib."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path

import slicer.util
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from DiffusionSegmentationLib.panel.backend import Backend
from DiffusionSegmentationLib.panel.panel import Panel
from DiffusionSegmentationLib.panel.parameter_node import DiffusionSegmentationParameterNode
from DiffusionSegmentationLib.panel.self_test import DiffusionSegmentationTest  # noqa: F401 (Slicer looks for it here)
from DiffusionSegmentationLib.runs.job import Choices, Job
from DiffusionSegmentationLib.runs.mask_nodes import isMask
from DiffusionSegmentationLib.scene.result_nodes import RUN_ATTRIBUTE

RESOURCES = Path(__file__).parent / "Resources"


class DiffusionSegmentation(ScriptedLoadableModule):
    def __init__(self, parent):
        super().__init__(parent)
        self.parent.title = _("Diffusion Segmentation")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations", "SegmentEditor", "Volumes", "Colors"]
        self.parent.contributors = ["DiffusionSegmentation contributors"]
        self.parent.helpText = _(
            "Segments a volume with a diffusion model and shows where the result is uncertain: an overlay shows the"
            " uncertainty of the model in colour, and several plausible segmentations give the spread of the volumes."
            " All computation runs on this computer. Not for clinical use."
        )
        self.parent.acknowledgementText = _("The metadata of the included model lists its sources.")
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offer an MR head for the included model in Sample Data, which downloads it on demand."""
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
    """Life cycle of the panel: creates, shows and closes it with the module and the scene."""

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
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        for event in (scene.EndCloseEvent, scene.EndImportEvent):
            self.addObserver(scene, event, self.onSceneReady)
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent):
            self.addObserver(scene, event, self.onNodeListChanged)
        self.initializeParameterNode()

    def cleanup(self):
        self.removeObservers()
        if self.panel is not None:
            self.panel.close()
            self.logic.backend.runner.close()  # stops the worker process

    def enter(self):
        self.initializeParameterNode()
        self.panel.warmUp()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def onNodeListChanged(self, _caller, _event, node):
        """Refresh for ROI nodes, which can limit corrections, nodes of results, and possible masks and inputs."""
        if node.IsA("vtkMRMLMarkupsROINode") or node.GetAttribute(RUN_ATTRIBUTE):
            self.panel.refresh()
        elif isMask(node) and not slicer.mrmlScene.IsBatchProcessing():  # afterwards the panel is refreshed once
            self.panel.masks.updateList()
        elif node.IsA("vtkMRMLScalarVolumeNode"):
            self.panel.inputs.volumesChanged()

    def onSceneStartClose(self, _caller, _event):
        self.panel.abandon()
        self.panel.setParameterNode(None)

    def onSceneReady(self, _caller, _event):
        """Show the scene after it was closed or loaded."""
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Show the choices of this scene, and select its first volume if none is selected."""
        parameterNode = self.logic.getParameterNode()
        if parameterNode.inputVolume is None:
            parameterNode.inputVolume = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLScalarVolumeNode")
        self.panel.setParameterNode(parameterNode)

    def onReload(self):
        """Reload this file and the Lib, whose modules are removed first, so that all of them are imported again."""
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

    def segment(
        self,
        volumeNode: slicer.vtkMRMLScalarVolumeNode,
        choices: Choices | None = None,
        inputs: Mapping[str, slicer.vtkMRMLScalarVolumeNode] | None = None,
    ) -> Job:
        """Segment `volumeNode` and return the finished job; Slicer processes events meanwhile.

        `inputs`, for a model of several, are all volumes by the names of its inputs, `volumeNode` being the first.

        `job.state` is "done", "failed" or "cancelled". The result nodes are `job.result.segmentationNode`,
        `.entropyNode`, `.disagreementNode` and `.samplesNode`. Slice views and panel do not change.
        Raises DependencyError or HandoverError with a one-sentence message; RuntimeError while another run is active.
        """
        job = self.backend.submit(volumeNode, choices or Choices(), inputs=inputs)
        while job.active:
            self.backend.runner.poll()
            slicer.app.processEvents()
            time.sleep(0.02)
        return job
