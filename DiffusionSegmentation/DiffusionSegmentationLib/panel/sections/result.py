"""Section "Results": the displayed result, its outlines, and its uncertainty as an overlay."""

from collections.abc import Iterator
from typing import Any

import qt
import slicer

from ...i18n import tr as _
from ...runs import status_texts
from ...scene.contours import Contours
from ...scene.display import DEFAULT_OPACITY, DEFAULT_THRESHOLD_BITS, outlined, showOutlines
from ...scene.overlays import ResultOverlays
from ...scene.result_nodes import DISAGREEMENT_ROLE, ENTROPY_ROLE, INFORMATION_ROLE, reportOf
from ...signals import Signal
from ..widgets import Section, enable, fillComboBox, missingEntropy, missingResult, setQuietly


class ResultSection(Section):
    """Shows a result. The state of its overlay is kept in the scene."""

    def __init__(self, ui: Any) -> None:
        super().__init__(ui)
        self._contourSteps: Iterator[None] = iter(())
        self._observed: tuple[Any, int] | None = None
        """The display node of the result, whose hidden structures have no contours, and the tag of the observer."""
        self.removalRequested = Signal()
        self.thresholdChanged = Signal()
        """Emitted with the threshold in bits when the user changes it."""
        ui.removeResultButton.clicked.connect(lambda *_arguments: self.removalRequested.emit())
        ui.outlinesCheckBox.toggled.connect(lambda show: showOutlines(self._segmentation, show))
        self._outlinesShortcut = qt.QShortcut(qt.QKeySequence("O"), ui.outlinesCheckBox)
        self._outlinesShortcut.activated.connect(ui.outlinesCheckBox.click)
        ui.contoursCheckBox.toggled.connect(self._onContours)
        ui.overlayCheckBox.toggled.connect(self._onOverlay)
        ui.layerComboBox.currentIndexChanged.connect(self._onLayer)
        ui.opacitySlider.valueChanged.connect(self._onOpacity)
        ui.thresholdSlider.valueChanged.connect(self._onThreshold)

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        contours = Contours(segmentation) if segmentation else None
        if segmentation is not self._segmentation:
            if self._segmentation is not None:
                Contours(self._segmentation).hide()  # they must not stay over another result
            self._observe(segmentation)
            self._drawContours(segmentation)
        self._segmentation = segmentation
        ui, layers = self._ui, self._layers()
        missing = missingResult(segmentation)
        report = reportOf(segmentation) if segmentation else {}
        ui.resultLabel.text = missing or _resultText(segmentation, report)
        ui.warningsLabel.text = status_texts.warningsText(report)
        ui.warningsLabel.visible = bool(ui.warningsLabel.text)
        enable(missing, ui.removeResultButton, ui.outlinesCheckBox)
        setQuietly(ui.outlinesCheckBox, "checked", segmentation is not None and outlined(segmentation))
        enable(missing or contours.missing, ui.contoursCheckBox)
        setQuietly(ui.contoursCheckBox, "checked", contours is not None and contours.chosen and not contours.missing)
        missing = None if layers else missingEntropy(segmentation)
        enable(missing, ui.overlayCheckBox)
        self._fillLayers(layers, report, missing)
        visible = layers is not None and layers.visible
        hidden = missing or (None if visible else _("The uncertainty is not shown."))
        enable(hidden, ui.opacitySlider, ui.thresholdSlider)
        setQuietly(ui.overlayCheckBox, "checked", visible)
        if layers is not None:
            setQuietly(ui.thresholdSlider, "maximum", round(report["max_entropy_bits"], 2))
        setQuietly(ui.opacitySlider, "value", layers.opacity if layers else DEFAULT_OPACITY)
        setQuietly(ui.thresholdSlider, "value", layers.threshold if layers else DEFAULT_THRESHOLD_BITS)

    def _fillLayers(self, layers: ResultOverlays | None, report: dict, missing: str | None) -> None:
        """List the overlays of the result and explain the selected one."""
        ui, roles = self._ui, layers.roles if layers else ()
        titles = {
            ENTROPY_ROLE: _("predictive entropy"),
            DISAGREEMENT_ROLE: _("sample disagreement"),
            INFORMATION_ROLE: _("mutual information"),
        }
        fillComboBox(ui.layerComboBox, {role: titles[role] for role in roles}, layers.chosen if layers else None)
        single = None if len(roles) > 1 else _("This result has no other overlay.")
        enable(missing or single, ui.layerComboBox)
        ui.layerLabel.visible = layers is not None
        if layers is not None:
            ui.layerLabel.text = status_texts.overlayText(report, layers.chosen)

    def _layers(self) -> ResultOverlays | None:
        layers = ResultOverlays(self._segmentation) if self._segmentation else None
        return layers if layers is not None and layers.roles else None

    def _onContours(self, on: bool) -> None:
        Contours(self._segmentation).chosen = on
        self._drawContours(self._segmentation)

    def close(self) -> None:
        super().close()
        self._observe(None)

    def _observe(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Draw the contours again when structures of `segmentation` are shown or hidden."""
        if self._observed is not None:
            node, tag = self._observed
            node.RemoveObserver(tag)
        node = segmentation.GetDisplayNode() if segmentation is not None else None
        draw = lambda *_arguments: self._drawContours(segmentation)  # noqa: E731
        self._observed = None if node is None else (node, node.AddObserver("ModifiedEvent", draw))

    def _drawContours(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Hide the contours of hidden structures, and start to draw the others in steps; steps that are left end."""
        if segmentation is not None and Contours(segmentation).chosen:
            self._contourSteps = Contours(segmentation).drawSteps()
            self._timer.start()
            self._onTimer()

    def _onTimer(self) -> None:
        if next(self._contourSteps, True):  # a step yields None
            self._timer.stop()

    def _onOverlay(self, show: bool) -> None:
        layers = self._layers()
        (layers.show if show else layers.hide)()
        self.refresh(self._segmentation)

    def _onLayer(self, index: int) -> None:
        self._layers().chosen = self._ui.layerComboBox.itemData(index)
        self.refresh(self._segmentation)

    def _onOpacity(self, opacity: float) -> None:
        self._layers().opacity = opacity

    def _onThreshold(self, bits: float) -> None:
        self._layers().threshold = bits
        self.thresholdChanged.emit(bits)


def _resultText(segmentation: slicer.vtkMRMLSegmentationNode, report: dict) -> str:
    values = {key: report[key] for key in ("samples", "seed")} | {"model": report["model"]["title"]}
    isSampled = status_texts.isSampled(report)
    text = _("{name}: {samples} samples, seed {seed}, {model}") if isSampled else _("{name}: {model}")
    return text.format(name=segmentation.GetName(), **values)
