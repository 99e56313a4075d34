"""Slice views in section "Review": the entropy of each slice, and the class probabilities at the mouse pointer."""

from typing import Any

import slicer
import vtk
from slicer.util import VTKObservationMixin

from ...i18n import tr as _
from ...scene import slice_entropy
from ...scene.result_nodes import ENTROPY_ROLE
from ...scene.slice_entropy import Profiles
from ...scene.voxel_probe import VoxelProbe
from ..plots import profilePlot
from ..widgets import Section, missingEntropy, setButton

PLOT_HEIGHT = 18


class SlicesSection(Section, VTKObservationMixin):
    """Observes the slice views and the mouse pointer; redraws at most once per timer interval."""

    TIMER_MILLISECONDS = 40

    def __init__(self, ui: Any) -> None:
        super().__init__(ui)
        VTKObservationMixin.__init__(self)
        self._rows = [(getattr(ui, f"profile{n}"), getattr(ui, f"worst{n}Button")) for n in (1, 2, 3)]
        for n, (_plot, button) in enumerate(self._rows):
            button.clicked.connect(lambda *_arguments, n=n: self._profiles.goToWorst(self._views[n]))
        self._profiles: Profiles | None = None
        self._profiledStamp: tuple | None = None
        """Node and modification time of the entropy for which the profiles were computed."""
        self._pointer: VoxelProbe | None = None
        self._views: list[slicer.vtkMRMLSliceNode] = []

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        entropyNode = segmentation.GetNodeReference(ENTROPY_ROLE) if segmentation else None
        stamp = (entropyNode.GetID(), entropyNode.GetImageData().GetMTime()) if entropyNode else None
        if segmentation is not self._segmentation or stamp != self._profiledStamp:
            self._segmentation, self._profiledStamp = segmentation, stamp
            self._pointer = VoxelProbe(segmentation) if segmentation else None
            self._profiles = Profiles(entropyNode) if entropyNode else None
            self._showPointer("")
        self._observe()
        missing = missingEntropy(segmentation)
        for n, (plot, button) in enumerate(self._rows):
            plot.visible = button.visible = button.enabled = n < len(self._views)
            if n >= len(self._views):
                continue
            view = self._views[n].GetLayoutName()
            tip = _("Uncertainty of each slice in {view}. The line marks the current slice.")
            plot.toolTip = missing or tip.format(view=view)
            tip = _("Show the most uncertain slice in {view}.").format(view=view)
            setButton(button, _("{view}: worst").format(view=view), tip, missing)
        self._ui.pointerLabel.visible = segmentation is not None
        self._timer.start()

    def close(self) -> None:
        """Stop drawing and remove all observers."""
        super().close()
        self.removeObservers()

    def _observe(self) -> None:
        self.close()
        scene = self._segmentation.GetScene() if self._segmentation else None
        self._views = slice_entropy.sliceNodes() if scene else []
        for view in self._views:
            self.addObserver(view, vtk.vtkCommand.ModifiedEvent, lambda *_arguments: self._timer.start())
        crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode") if scene else None
        if crosshair is not None:
            event = slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent
            self.addObserver(crosshair, event, lambda *_arguments: self._onPointer(crosshair))

    def _onTimer(self) -> None:
        self._timer.stop()
        for view, (plot, _button) in zip(self._views, self._rows, strict=False):
            if self._profiles is not None and plot.visible:
                profile, position = self._profiles.of(view), self._profiles.position(view)
                plot.pixmap = profilePlot(plot, max(plot.width, 40), PLOT_HEIGHT, profile, position)

    def _onPointer(self, crosshair: slicer.vtkMRMLCrosshairNode) -> None:
        world = [0.0, 0.0, 0.0]
        inView = self._pointer is not None and crosshair.GetCursorPositionRAS(world)
        self._showPointer(self._pointer.textAt(tuple(world)) if inView else "")

    def _showPointer(self, text: str) -> None:
        self._ui.pointerLabel.text = text or _("Point at a voxel to see its class probabilities.")
