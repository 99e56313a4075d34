"""Section "Samples": shows one sample at a time, in a chosen order, automatically, or beside the result."""

from typing import Any

import numpy as np
import slicer

from ...i18n import tr as _
from ...scene.sample_browser import AS_DRAWN, Browser
from ...scene.side_by_side import SideBySide
from ...signals import Signal
from ..widgets import Section, enable, fillComboBox, missingResult, setQuietly


class SamplesSection(Section):
    TIMER_MILLISECONDS = 700
    """Time for which each sample is shown by Play."""

    def __init__(self, ui: Any) -> None:
        super().__init__(ui)
        self._browser: Browser | None = None
        self.sampleChanged = Signal()
        """Emitted when another sample, or none, is shown."""
        ui.sampleCheckBox.toggled.connect(self._onToggled)
        ui.orderComboBox.currentIndexChanged.connect(self._onOrder)
        ui.sampleSlider.valueChanged.connect(self._show)
        ui.playButton.clicked.connect(self._onPlay)
        ui.sideBySideCheckBox.toggled.connect(self._onSideBySide)

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        previous = self._browser
        self._browser = browser = Browser(segmentation) if segmentation else None
        if previous is not None and previous.segmentationNode is not segmentation:
            self._stop(previous)
        if browser is not None and not browser.count:
            self._stop(browser)
        elif browser is not None and browser.shown is None:
            SideBySide(browser.segmentationNode).stop()  # a scene may have been saved while a sample was shown
        ui = self._ui
        shown = browser.shown if browser else None
        missing = missingResult(segmentation)
        missing = missing or (None if browser.count else missingSamples(browser))
        hidden = missing or (None if shown is not None else _("No sample is shown."))
        enable(missing, ui.sampleCheckBox, ui.orderComboBox)
        enable(hidden, ui.sampleSlider, ui.playButton, ui.sideBySideCheckBox)
        setQuietly(ui.sampleCheckBox, "checked", shown is not None)
        setQuietly(ui.sideBySideCheckBox, "checked", bool(browser and SideBySide(browser.segmentationNode).active))
        fillComboBox(ui.orderComboBox, browser.orders() if browser else {}, browser.order if browser else AS_DRAWN)
        setQuietly(ui.sampleSlider, "maximum", max(browser.count - 1, 0) if browser else 0)
        setQuietly(ui.sampleSlider, "value", browser.position if browser else 0)
        ui.playButton.text = _("Stop") if self._timer.active else _("Play")
        ui.sampleText.text = "" if hidden else _sampleText(browser, shown)
        ui.sampleText.visible = not hidden

    def showPart(self, sample: int, region: int, mask: np.ndarray) -> None:
        """Show only the part of a sample (number from 0, as drawn) inside the `mask` of the region `region`."""
        self._timer.stop()
        self._browser.showPart(sample, region, mask)
        self._onShown()

    def hide(self) -> None:
        if self._browser is not None and self._browser.shown is not None:
            self._onToggled(False)

    def _stop(self, browser: Browser) -> None:
        self._timer.stop()
        SideBySide(browser.segmentationNode).stop()
        browser.hide()

    def _onToggled(self, show: bool) -> None:
        if show:
            self._show(self._browser.position)
        else:
            self._stop(self._browser)
            self._update()

    def _onOrder(self, index: int) -> None:
        self._browser.order = self._ui.orderComboBox.itemData(index)
        if self._browser.shown is not None:
            self._show(0)

    def _onPlay(self, *_arguments: Any) -> None:
        (self._timer.stop if self._timer.active else self._timer.start)()
        self._update()

    def _onTimer(self) -> None:
        if self._browser is None or self._browser.shown is None:
            self._timer.stop()
            return
        self._show((self._browser.position + 1) % self._browser.count)

    def _onSideBySide(self, on: bool) -> None:
        views = SideBySide(self._browser.segmentationNode)
        (views.start if on else views.stop)()
        self._update()

    def _show(self, position: int) -> None:
        self._browser.show(position)
        self._onShown()

    def _onShown(self) -> None:
        SideBySide(self._browser.segmentationNode).refresh()
        self._update()

    def _update(self) -> None:
        self.refresh(self._browser.segmentationNode)
        self.sampleChanged.emit()


def missingSamples(browser: Browser) -> str:
    """Why a result has no samples to show, one sentence."""
    if not browser.report["samples"]:
        return _("This result has no samples.")
    return _("The samples of this result were removed.")


def _sampleText(browser: Browser, index: int) -> str:
    """Describe sample `index`: number, Dice and, if sorted by the size of a structure, that size."""
    drawn = browser.report["samples"]
    text = _("Sample {number} of {count}")
    if drawn > browser.count:
        text = _("Sample {number} of the {count} kept ({drawn} drawn)")
    parts = [text.format(number=index + 1, count=browser.count, drawn=drawn)]
    if browser.dice:
        parts.append(_("Dice {dice:.3f} with the result").format(dice=browser.dice[index]))
    if browser.order in browser.sizes:
        parts.append(browser.unit.textOf(browser.sizes[browser.order][index]))
    if browser.part is not None:
        parts.append(_("only in the region under review"))
    return ", ".join(parts) + "."
