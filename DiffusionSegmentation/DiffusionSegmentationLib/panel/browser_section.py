"""The panel's section for the samples: one at a time, in an order, played, beside the result."""

from typing import Any

import qt
import slicer

from ..i18n import tr as _
from ..scene.sample_browser import AS_DRAWN, Browser
from ..scene.side_by_side import SideBySide
from ..scene.volumes import mlText
from ..signals import Signal
from .widgets import enable, setQuietly

PLAY_MILLISECONDS = 700


class BrowserSection:
    """Shows the samples of one segmentation node of ours."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._browser: Browser | None = None
        self.changed = Signal()
        """Called when another sample is on show, or none."""
        self._timer = qt.QTimer()
        self._timer.interval = PLAY_MILLISECONDS
        self._timer.timeout.connect(self._onBeat)
        ui.sampleCheckBox.toggled.connect(self._onToggled)
        ui.orderComboBox.currentIndexChanged.connect(self._onOrder)
        ui.sampleSlider.valueChanged.connect(self._show)
        ui.playButton.clicked.connect(self._onPlay)
        ui.sideBySideCheckBox.toggled.connect(self._onSideBySide)

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        """Show the samples of `segmentation`, or that there are none."""
        earlier = self._browser
        self._browser = browser = Browser(segmentation) if segmentation else None
        if earlier is not None and earlier.segmentationNode is not segmentation:
            self._timer.stop()
            _views(earlier).stop()
            earlier.hide()
        if browser is not None and (not browser.count or browser.shown is None):
            _views(browser).stop()  # also in a scene that was saved while a sample was on show
        if browser is not None and not browser.count:
            self._timer.stop()
            browser.hide()
        ui = self._ui
        shown = browser.shown if browser else None
        missing = None if browser else _("There is no result yet; segment a volume first.")
        missing = missing or (None if browser.count else _("The samples of this result were removed."))
        hidden = missing or (None if shown is not None else _("No sample is shown."))
        enable(ui.sampleCheckBox, missing, _("Fill one of the masks that the model drew; the result stays outlined."))
        enable(ui.orderComboBox, missing, _("In which order the slider goes through the samples."))
        enable(ui.sampleSlider, hidden, _("Which sample is shown."))
        enable(ui.playButton, hidden, _("Go through the samples, one after another."))
        enable(ui.sideBySideCheckBox, hidden, _("Show result and sample in two views of the same slice."))
        setQuietly(ui.sampleCheckBox, "checked", shown is not None)
        setQuietly(ui.sideBySideCheckBox, "checked", bool(browser and _views(browser).active))
        self._fillOrders()
        blocked = ui.sampleSlider.blockSignals(True)
        ui.sampleSlider.maximum = max(browser.count - 1, 0) if browser else 0
        ui.sampleSlider.value = browser.position if browser else 0
        ui.sampleSlider.blockSignals(blocked)
        ui.playButton.text = _("Stop") if self._timer.active else _("Play")
        ui.sampleText.text = "" if hidden else _sampleText(browser, shown)
        ui.sampleText.visible = not hidden

    def hide(self) -> None:
        """Show no sample any more."""
        if self._browser is not None and self._browser.shown is not None:
            self._onToggled(False)

    def close(self) -> None:
        """Play no longer."""
        self._timer.stop()

    def _fillOrders(self) -> None:
        combo, browser = self._ui.orderComboBox, self._browser
        orders = browser.orders() if browser else []
        blocked = combo.blockSignals(True)
        if [combo.itemData(index) for index in range(combo.count)] != [order.key for order in orders]:
            combo.clear()
            for order in orders:
                combo.addItem(order.title, order.key)
        combo.currentIndex = max(combo.findData(browser.order if browser else AS_DRAWN), 0 if orders else -1)
        combo.blockSignals(blocked)

    def _onToggled(self, show: bool) -> None:
        if show:
            self._show(self._browser.position)
            return
        self._timer.stop()
        _views(self._browser).stop()
        self._browser.hide()
        self._tell()

    def _onOrder(self, index: int) -> None:
        if index < 0:
            return
        self._browser.order = self._ui.orderComboBox.itemData(index)
        if self._browser.shown is not None:
            self._show(0)

    def _onPlay(self, *_arguments: Any) -> None:
        if self._timer.active:
            self._timer.stop()
        else:
            self._timer.start()
        self._tell()

    def _onBeat(self) -> None:
        if self._browser is None or self._browser.shown is None:
            self._timer.stop()
            return
        self._show((self._browser.position + 1) % self._browser.count)

    def _onSideBySide(self, on: bool) -> None:
        views = _views(self._browser)
        if on:
            views.start()
        else:
            views.stop()
        self._tell()

    def _show(self, position: int) -> None:
        self._browser.show(position)
        _views(self._browser).refresh()
        self._tell()

    def _tell(self) -> None:
        self.refresh(self._browser.segmentationNode)
        self.changed.emit()


def _views(browser: Browser) -> SideBySide:
    return SideBySide(browser.segmentationNode, browser.scene)


def _sampleText(browser: Browser, index: int) -> str:
    drawn = browser.report["samples"]
    text = _("Sample {number} of {count}")
    if drawn > browser.count:
        text = _("Sample {number} of the {count} kept ({drawn} drawn)")
    parts = [text.format(number=index + 1, count=browser.count, drawn=drawn)]
    dice = browser.dice(index)
    if dice is not None:
        parts.append(_("Dice {dice:.3f} with the result").format(dice=dice))
    order = next((order for order in browser.orders() if order.key == browser.order), None)
    if order is not None and browser.isVolume(order.key):
        parts.append(_("{volume} ml").format(volume=mlText(browser.volumeMl(index, order.key))))
    return ", ".join(parts) + "."
