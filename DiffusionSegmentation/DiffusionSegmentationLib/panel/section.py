"""Base of the sections that show a result."""

from typing import Any

import slicer

from .widgets import makeTimer


class Section:
    """Shows one of the module's segmentation nodes, called the result, and has a timer for deferred work."""

    TIMER_MILLISECONDS = 0

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._segmentation: slicer.vtkMRMLSegmentationNode | None = None
        self._timer = makeTimer(self.TIMER_MILLISECONDS, self._onTimer)

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Show `segmentation`, or disable the section for None."""
        raise NotImplementedError

    def close(self) -> None:
        """Stop deferred work; the widgets may be deleted afterwards."""
        self._timer.stop()

    def _onTimer(self) -> None:
        """Do the deferred work; by default nothing."""
