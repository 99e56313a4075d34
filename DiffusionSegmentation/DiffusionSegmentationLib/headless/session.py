"""Slicer without a window: scene, logics and slice views on PyPI's `slicer-core`, and the demo's command line.

`boot` provides what code for 3D Slicer expects: `slicer.mrmlScene`, `slicer.modules.<name>.logic()`, subject hierarchy
items.
"""

import contextlib
import json
import os
import sys
import traceback
import types
from collections.abc import Sequence

import slicer
import vtk

from diffusion_segmentation import errors
from diffusion_segmentation.arguments import parse_demo

from ..runs.handover import HandoverError
from ..runs.job import Choices
from ..runs.worker_client import WorkerClient, workerCommand, workerEnvironment
from ..scene import offscreen
from . import demo

CANCELLED = 130

CLASSES_WITH_ITEMS = ("vtkMRMLVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLTransformNode")


class Application:
    """A scene, the logics that work on it, and slice views."""

    def __init__(self) -> None:
        self.scene = slicer.vtkMRMLScene()
        # The version of the wheel, "slicer-core 4.0.0", makes Slicer warn that a scene may not load. Slicer 5.10 can
        # load all that is saved here.
        self.scene.SetVersion("Slicer 5.10.0 0")
        # In Slicer, Qt plug-ins create the subject hierarchy items of nodes.
        slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(self.scene)  # creates the node
        self.scene.AddObserver(slicer.vtkMRMLScene.NodeAddedEvent, _addItem)
        self.scene.AddObserver(slicer.vtkMRMLScene.NodeAboutToBeRemovedEvent, _removeItem)
        self.logic = slicer.vtkSlicerApplicationLogic()
        self.logic.SetMRMLScene(self.scene)
        self.logic.SetSliceLogics(vtk.vtkCollection())
        self.logic.SetViewLogics(vtk.vtkCollection())
        self.scene.RegisterNodeClass(slicer.vtkMRMLColorLegendDisplayNode())
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(self.scene, True)  # patient's right on the left
        # The base class: Slicer's own color logic needs color files of an installed Slicer.
        self._colorLogic = self._module(slicer.vtkMRMLColorLogic(), "Colors").logic()
        self._colorLogic.AddDefaultColorNodes()
        self.modules = types.SimpleNamespace(
            colors=types.SimpleNamespace(logic=lambda: slicer.vtkSlicerColorLogic),  # its functions are static
            volumes=self._module(slicer.vtkSlicerVolumesLogic(), "Volumes"),
            segmentations=self._module(slicer.vtkSlicerSegmentationsModuleLogic(), "Segmentations"),
            cameras=self._module(slicer.vtkSlicerCamerasModuleLogic(), "Cameras"),
            sequences=self._module(slicer.vtkSlicerSequencesLogic(), "Sequences"),
        )
        self.sliceViews: dict[str, offscreen.SliceView] = {}

    def addSliceViews(self, size: tuple[int, int]) -> None:
        """Add Red (axial), Yellow (sagittal) and Green (coronal); `size` is width and height in pixels.

        A color legend appears only in views added before it.
        """
        for name in offscreen.LAYOUTS:
            self.sliceViews[name] = offscreen.SliceView(self.logic, name, size)

    def close(self) -> None:
        """Delete views, then nodes; VTK crashes in the other order."""
        for view in self.sliceViews.values():
            view.close()
        self.sliceViews.clear()
        self.scene.Clear(True)

    def _module(self, logic: slicer.vtkMRMLAbstractLogic, name: str) -> types.SimpleNamespace:
        logic.SetMRMLApplicationLogic(self.logic)
        logic.SetMRMLScene(self.scene)
        self.logic.SetModuleLogic(name, logic)
        return types.SimpleNamespace(logic=lambda: logic)


@vtk.calldata_type(vtk.VTK_OBJECT)
def _addItem(scene: slicer.vtkMRMLScene, _event: str, node: slicer.vtkMRMLNode) -> None:
    # A scene that is being loaded has its own items.
    if any(map(node.IsA, CLASSES_WITH_ITEMS)) and not scene.IsImporting():
        # Not stored: loading a scene replaces the hierarchy node.
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)


@vtk.calldata_type(vtk.VTK_OBJECT)
def _removeItem(scene: slicer.vtkMRMLScene, _event: str, node: slicer.vtkMRMLNode) -> None:
    hierarchy = scene.GetFirstNodeByClass("vtkMRMLSubjectHierarchyNode")
    item = hierarchy.GetItemByDataNode(node) if hierarchy is not None else 0
    if item:
        hierarchy.RemoveItem(item, False, False)  # keep the node and child items


def boot() -> Application:
    """Create an Application and set `slicer.mrmlScene` and `slicer.modules`. The caller must keep a reference to it."""
    application = Application()
    slicer.mrmlScene = application.scene
    slicer.modules = application.modules
    return application


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the demo; returns the exit code: 0, 1 with one sentence on stderr, or 130 if it was interrupted."""
    options = parse_demo(arguments)
    client = WorkerClient(workerCommand(sys.executable), workerEnvironment(os.environ))
    try:
        choices = Choices(options.model, options.samples, options.steps, options.seed, options.device)
        options.output.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(boot()) as application:
            application.addSliceViews(demo.VIEW_SIZE)
            volumeNode = demo.loadVolume(options.volume or demo.findHead())
            print(f"Segmenting {volumeNode.GetName()}", file=sys.stderr)
            result = demo.segment(volumeNode, choices, client, options.output, sys.stderr)
            demo.show(result, application.sliceViews)
            demo.save(application.scene, application.sliceViews, options.output)
    except KeyboardInterrupt:
        print("Cancelled.", file=sys.stderr)
        return CANCELLED
    except (demo.DemoError, HandoverError, OSError) as error:
        if errors.debug_enabled():
            traceback.print_exc()
        print(errors.explain(error)[1] if isinstance(error, OSError) else error, file=sys.stderr)
        return 1
    report = json.loads((options.output / "report.json").read_text(encoding="utf-8"))
    print(demo.volumesText(report))
    print(*(f"{options.output / name}" for name in (*demo.RESULT_FILES, "scene.mrb", "overview.png")), sep="\n")
    return 0
