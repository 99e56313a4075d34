"""The panel's rows for the slice views: how unsure each slice is, where the view stands, and the way to the worst.

Beneath them what is in dispute under the mouse.
"""

from collections.abc import Callable
from typing import Any

import qt
import slicer
import vtk

from ..i18n import tr as _
from ..scene import slice_entropy as slices
from ..scene.result_nodes import ENTROPY_ROLE
from ..scene.slice_entropy import Profiles
from ..scene.voxel_probe import VoxelProbe
from . import strips
from .widgets import enable

STRIP_HEIGHT = 18
REDRAW_MILLISECONDS = 40


class SlicesSection:
    """Follows the slice views and the mouse for one segmentation node of ours."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._rows = [(getattr(ui, f"strip{n}"), getattr(ui, f"worst{n}Button")) for n in (1, 2, 3)]
        for n, (_strip, button) in enumerate(self._rows):
            button.clicked.connect(lambda *_arguments, n=n: self._onWorst(n))
        self._segmentation: slicer.vtkMRMLSegmentationNode | None = None
        self._profiles: Profiles | None = None
        self._profiled: tuple | None = None
        self._pointer: VoxelProbe | None = None
        self._views: list[slicer.vtkMRMLSliceNode] = []
        self._observed: list[tuple[vtk.vtkObject, int]] = []
        self._timer = qt.QTimer()
        self._timer.interval = REDRAW_MILLISECONDS
        self._timer.timeout.connect(self._draw)

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Follow `segmentation` from now on, or nothing."""
        entropyNode = segmentation.GetNodeReference(ENTROPY_ROLE) if segmentation else None
        missing = None if segmentation else _("There is no result yet; segment a volume first.")
        missing = missing or (None if entropyNode else _("The entropy volume of this result was removed."))
        stamp = (entropyNode.GetID(), entropyNode.GetImageData().GetMTime()) if entropyNode else None
        if segmentation is not self._segmentation or stamp != self._profiled:
            self._segmentation, self._profiled = segmentation, stamp
            self._pointer = VoxelProbe(segmentation) if segmentation else None
            self._profiles = Profiles(entropyNode) if entropyNode else None
            self._ui.hoverLabel.text = _("Point at a voxel to see what is in dispute there.")
        self._observe()
        for n, (strip, button) in enumerate(self._rows):
            present = n < len(self._views)
            strip.visible = button.visible = present
            if not present:
                enable(button, missing or _("This view is not there."), "")
            if present:
                name = self._views[n].GetLayoutName()
                strip.toolTip = missing or _(
                    "Uncertainty of the slices of {view}; the line is the slice shown."
                ).format(view=name)
                button.text = _("{view}: worst").format(view=name)
                enable(button, missing, _("Show the most uncertain slice in {view}.").format(view=name))
        self._ui.hoverLabel.visible = segmentation is not None
        self._timer.start()

    def close(self) -> None:
        """Follow nothing any more."""
        self._timer.stop()
        for observed, tag in self._observed:
            observed.RemoveObserver(tag)
        self._observed = []

    def _observe(self) -> None:
        """Look at the views and the mouse while there is something to tell."""
        self.close()
        scene = self._segmentation.GetScene() if self._segmentation else None
        self._views = list(slices.sliceNodes(scene)) if scene else []
        for view in self._views:
            self._watch(view, vtk.vtkCommand.ModifiedEvent, lambda *_arguments: self._timer.start())
        crosshair = scene.GetFirstNodeByClass("vtkMRMLCrosshairNode") if scene else None
        if crosshair is not None:
            event = slicer.vtkMRMLCrosshairNode.CursorPositionModifiedEvent
            self._watch(crosshair, event, lambda *_arguments: self._onPointed(crosshair))

    def _watch(self, observed: vtk.vtkObject, event: int, callback: Callable[..., None]) -> None:
        self._observed.append((observed, observed.AddObserver(event, callback)))

    def _draw(self) -> None:
        self._timer.stop()
        for view, (strip, _button) in zip(self._views, self._rows, strict=False):
            if self._profiles is None or not strip.visible:
                continue
            width = max(strip.width, 40)
            strip.pixmap = strips.profile(
                strip, width, STRIP_HEIGHT, self._profiles.of(view), self._profiles.position(view)
            )

    def _onWorst(self, n: int) -> None:
        self._profiles.goToWorst(self._views[n])

    def _onPointed(self, crosshair: slicer.vtkMRMLCrosshairNode) -> None:
        world = [0.0, 0.0, 0.0]
        pointed = self._pointer is not None and crosshair.GetCursorPositionRAS(world)
        text = self._pointer.textAt(tuple(world)) if pointed else ""
        self._ui.hoverLabel.text = text or _("Point at a voxel to see what is in dispute there.")
