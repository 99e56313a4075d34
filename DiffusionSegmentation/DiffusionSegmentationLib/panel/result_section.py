"""The panel's section for the last result: what it is, its outlines, and its uncertainty as an overlay."""

import json
from typing import Any

import qt
import slicer

from ..i18n import tr as _
from ..runs import status_texts
from ..scene.display import DEFAULT_OPACITY, DEFAULT_THRESHOLD_BITS, outlined, showOutlines
from ..scene.overlays import ResultOverlays
from ..scene.result_nodes import DISAGREEMENT_ROLE, ENTROPY_ROLE, RUN_ATTRIBUTE
from ..signals import Signal
from .widgets import enable, setQuietly


class ResultSection:
    """Shows one segmentation node of ours. What is set of its overlays lives in the scene, so that it is saved."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._segmentation: slicer.vtkMRMLSegmentationNode | None = None
        self.removalWished = Signal()
        self.thresholdChanged = Signal()
        """Called with the threshold in bits when a person has moved it."""
        ui.removeResultButton.clicked.connect(lambda *_arguments: self.removalWished.emit())
        ui.outlinesCheckBox.toggled.connect(self._onOutlinesToggled)
        self._outlinesKey = qt.QShortcut(qt.QKeySequence("O"), ui.outlinesCheckBox)
        self._outlinesKey.activated.connect(ui.outlinesCheckBox.click)
        ui.overlayCheckBox.toggled.connect(self._onOverlayToggled)
        ui.layerComboBox.currentIndexChanged.connect(self._onLayerChosen)
        ui.opacitySlider.valueChanged.connect(self._onOpacityChanged)
        ui.thresholdSlider.valueChanged.connect(self._onThresholdChanged)

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Show `segmentation`, or that there is none."""
        self._segmentation = segmentation
        ui, layers = self._ui, self._layers()
        missing = None if segmentation else _("There is no result yet; segment a volume first.")
        report = json.loads(segmentation.GetAttribute(RUN_ATTRIBUTE)) if segmentation else {}
        ui.resultLabel.text = missing or _resultText(segmentation, report)
        ui.warningsLabel.text = status_texts.warningsText(report)
        ui.warningsLabel.visible = bool(ui.warningsLabel.text)
        enable(ui.removeResultButton, missing, _("Take this result out of the scene, with all that belongs to it."))
        enable(ui.outlinesCheckBox, missing, _("Show the outlines of the segments in the slice views (key O)."))
        setQuietly(ui.outlinesCheckBox, "checked", segmentation is not None and outlined(segmentation))
        missing = missing or (None if layers else _("The entropy volume of this result was removed."))
        enable(ui.overlayCheckBox, missing, _("Colour in the slice views where the model is unsure."))
        self._fillLayers(layers, report, missing)
        visible = layers is not None and layers.visible
        hidden = missing or (None if visible else _("The uncertainty is not shown."))
        enable(ui.opacitySlider, hidden, _("Opacity of the colours."))
        enable(ui.thresholdSlider, hidden, _("What has fewer bits is not coloured; 0 bits is no doubt."))
        setQuietly(ui.overlayCheckBox, "checked", visible)
        if layers is not None:
            setQuietly(ui.thresholdSlider, "maximum", round(report["max_entropy_bits"], 2))
        setQuietly(ui.opacitySlider, "value", layers.opacity if layers else DEFAULT_OPACITY)
        setQuietly(ui.thresholdSlider, "value", layers.threshold if layers else DEFAULT_THRESHOLD_BITS)

    def _fillLayers(self, layers: ResultOverlays | None, report: dict, missing: str | None) -> None:
        """Offer the layers that are there, and say what the chosen one shows."""
        combo = self._ui.layerComboBox
        titles = {ENTROPY_ROLE: _("entropy of the map"), DISAGREEMENT_ROLE: _("sample disagreement")}
        roles = layers.roles if layers else ()
        blocked = combo.blockSignals(True)
        if tuple(combo.itemData(index) for index in range(combo.count)) != roles:
            combo.clear()
            for role in roles:
                combo.addItem(titles[role], role)
        combo.currentIndex = combo.findData(layers.chosen) if layers else -1
        combo.blockSignals(blocked)
        alone = None if len(roles) > 1 else _("This result has no other overlay.")
        enable(combo, missing or alone, _("What is coloured. Review and corrections go by the entropy of the map."))
        self._ui.layerLabel.visible = layers is not None
        if layers is not None:
            shows = status_texts.entropyText if layers.chosen == ENTROPY_ROLE else status_texts.disagreementText
            self._ui.layerLabel.text = shows(report)

    def _layers(self) -> ResultOverlays | None:
        layers = ResultOverlays(self._segmentation) if self._segmentation else None
        return layers if layers is not None and layers.roles else None

    def _onOutlinesToggled(self, show: bool) -> None:
        showOutlines(self._segmentation, show)

    def _onOverlayToggled(self, show: bool) -> None:
        layers = self._layers()
        if show:
            layers.show()
        else:
            layers.hide()
        self.refresh(self._segmentation)

    def _onLayerChosen(self, index: int) -> None:
        self._layers().chosen = self._ui.layerComboBox.itemData(index)
        self.refresh(self._segmentation)

    def _onOpacityChanged(self, opacity: float) -> None:
        self._layers().opacity = opacity

    def _onThresholdChanged(self, bits: float) -> None:
        self._layers().threshold = bits
        self.thresholdChanged.emit(bits)


def _resultText(segmentation: slicer.vtkMRMLSegmentationNode, report: dict) -> str:
    return _("{name}: {samples} samples, seed {seed}, {model}").format(
        name=segmentation.GetName(),
        samples=report["samples"],
        seed=report["seed"],
        model=report["model"]["title"],
    )
