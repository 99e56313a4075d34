"""The panel's section for the last result: what it is, its uncertainty overlay, and the way to Segment Editor."""

import json
from typing import Any

import slicer

from .display import DEFAULT_OPACITY, DEFAULT_THRESHOLD_BITS, Overlay
from .i18n import tr as _
from .scene import ENTROPY_ROLE, RUN_ATTRIBUTE
from .signals import Signal
from .widgets import enable, setQuietly


class ResultSection:
    """Shows one segmentation node of ours. Opacity and threshold live on its entropy volume, so that they are saved."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._segmentation: slicer.vtkMRMLSegmentationNode | None = None
        self.thresholdChanged = Signal()
        """Called with the threshold in bits when a person has moved it."""
        ui.overlayCheckBox.toggled.connect(self._onOverlayToggled)
        ui.opacitySlider.valueChanged.connect(self._onOpacityChanged)
        ui.thresholdSlider.valueChanged.connect(self._onThresholdChanged)

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Show `segmentation`, or that there is none."""
        self._segmentation = segmentation
        ui, overlay = self._ui, self._overlay()
        missing = None if segmentation else _("There is no result yet; segment a volume first.")
        report = _report(segmentation) if segmentation else {}
        ui.resultLabel.text = missing or _resultText(segmentation, report)
        missing = missing or (None if overlay else _("The entropy volume of this result was removed."))
        enable(ui.overlayCheckBox, missing, _overlayTip(report))
        visible = overlay is not None and overlay.visible
        hidden = missing or (None if visible else _("The uncertainty is not shown."))
        enable(ui.opacitySlider, hidden, _("Opacity of the colours."))
        enable(ui.thresholdSlider, hidden, _thresholdTip(report))
        setQuietly(ui.overlayCheckBox, "checked", visible)
        if overlay is not None:
            setQuietly(ui.thresholdSlider, "maximum", round(report["max_entropy_bits"], 2))
        setQuietly(ui.opacitySlider, "value", overlay.opacity if overlay else DEFAULT_OPACITY)
        setQuietly(ui.thresholdSlider, "value", overlay.threshold if overlay else DEFAULT_THRESHOLD_BITS)

    def _overlay(self) -> Overlay | None:
        entropyNode = self._segmentation.GetNodeReference(ENTROPY_ROLE) if self._segmentation else None
        return Overlay(entropyNode) if entropyNode else None

    def _onOverlayToggled(self, show: bool) -> None:
        overlay = self._overlay()
        if show:
            overlay.show()
        else:
            overlay.hide()
        self.refresh(self._segmentation)

    def _onOpacityChanged(self, opacity: float) -> None:
        self._overlay().opacity = opacity

    def _onThresholdChanged(self, bits: float) -> None:
        self._overlay().threshold = bits
        self.thresholdChanged.emit(bits)


def _report(segmentation: slicer.vtkMRMLSegmentationNode) -> dict:
    return json.loads(segmentation.GetAttribute(RUN_ATTRIBUTE))


def _isDirect(report: dict) -> bool:
    """Whether segmentation and entropy are the model's direct prediction instead of the mean of the samples."""
    return report.get("map_source") == "direct"


def _overlayTip(report: dict) -> str:
    if _isDirect(report):
        return _("Colour in the slice views where the model's direct prediction is unsure.")
    return _("Colour in the slice views where the samples disagree.")


def _thresholdTip(report: dict) -> str:
    if _isDirect(report):
        return _("Entropy below which nothing is coloured; at 0 bits the model's direct prediction is sure.")
    return _("Entropy below which nothing is coloured; 0 bits is full agreement of the samples.")


def _resultText(segmentation: slicer.vtkMRMLSegmentationNode, report: dict) -> str:
    return _("{name}: {samples} samples, seed {seed}, {model}").format(
        name=segmentation.GetName(),
        samples=report["samples"],
        seed=report["seed"],
        model=report["model"]["title"],
    )
