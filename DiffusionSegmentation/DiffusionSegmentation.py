"""3D Slicer's module: its four classes, each a thin shell over DiffusionSegmentationLib."""

import sys
import time
from pathlib import Path

import slicer
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
from DiffusionSegmentationLib.panel.parameters import DiffusionSegmentationParameterNode
from DiffusionSegmentationLib.panel.self_test import DiffusionSegmentationTest
from DiffusionSegmentationLib.runs.job import Choices, Job
from DiffusionSegmentationLib.scene import result_nodes as scene

__all__ = [
    "DiffusionSegmentation",
    "DiffusionSegmentationLogic",
    "DiffusionSegmentationTest",
    "DiffusionSegmentationWidget",
]

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
