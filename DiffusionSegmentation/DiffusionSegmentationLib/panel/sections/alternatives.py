"""Alternatives in section "Review": distinct candidates of the samples in the current region, to show and to use."""

from typing import Any

import qt
import slicer

from ...i18n import tr as _
from ...review.corrections import regionMask
from ...review.region_alternatives import Alternative, alternativesIn
from ...review.review import Region, Review
from ...scene.result_nodes import SAMPLES_ROLE
from ...scene.sample_browser import Browser
from ..widgets import Section, missingResult, setButton, setQuietly
from .corrections import CorrectionsSection
from .review import ReviewSection
from .samples import SamplesSection, missingSamples


class AlternativesSection(Section):
    """Keys 1 to 3 show an alternative in the current region, key U puts it into the segmentation.

    Alternatives are samples: what is shown is the sample of section "Samples", of which only the region is filled.
    """

    def __init__(
        self, ui: Any, review: ReviewSection, samples: SamplesSection, corrections: CorrectionsSection
    ) -> None:
        super().__init__(ui)
        self._samples, self._corrections = samples, corrections
        self._found: list[Alternative] = []
        self._foundFor: tuple | None = None
        """Samples and region in which alternatives were last looked for."""
        self._message = ""
        """What has become of the alternative that was used last."""
        self._buttons = [getattr(ui, f"alternative{number}Button") for number in (1, 2, 3)]
        self._shortcuts = []
        for n, button in enumerate(self._buttons):
            button.clicked.connect(lambda *_arguments, n=n: self._onShow(n))
        ui.useAlternativeButton.clicked.connect(self._onUse)
        for key, button in zip("123U", (*self._buttons, ui.useAlternativeButton), strict=True):
            shortcut = qt.QShortcut(qt.QKeySequence(key), ui.regionTable)
            shortcut.activated.connect(button.click)
            self._shortcuts.append(shortcut)
        review.regionChanged.connect(self._onRegion)
        samples.sampleChanged.connect(self._onSample)

    def refresh(self, segmentation: slicer.vtkMRMLSegmentationNode | None) -> None:
        if segmentation is not self._segmentation:
            self._segmentation, self._message = segmentation, ""
            self._found, self._foundFor = [], None
        problem = missingResult(segmentation) or self._find()
        shown, total = self._shown(), sum(one.count for one in self._found)
        for n, button in enumerate(self._buttons):
            isOne = n < len(self._found)
            text = _("{number}: {count}/{total}") if isOne else "{number}"
            count = self._found[n].count if isOne else 0
            tip = _("Show in this region what stands for {count} of {total} samples, or hide it (key {number}).")
            values = {"number": n + 1, "count": count, "total": total}
            none = None if isOne else _("The samples have no further alternative in this region.")
            setButton(button, text.format(**values), tip.format(**values), problem or none)
            setQuietly(button, "checked", n == shown)
        tip = _(
            "Put the alternative on show into the segmentation, in this region only (key U). Undo is in Segment Editor."
        )
        hidden = None if shown is not None else _("Show an alternative first.")
        setButton(self._ui.useAlternativeButton, _("Use"), tip, problem or hidden)
        text = self._message if shown is None else _alternativeText(self._found[shown], shown)
        self._ui.alternativesLabel.text = text
        self._ui.alternativesLabel.visible = bool(text)

    def _region(self) -> Region | None:
        return Review(self._segmentation).current if self._segmentation is not None else None

    def _find(self) -> str | None:
        """Look for alternatives in the current region; returns why there are none, one sentence, or None."""
        region, browser = self._region(), Browser(self._segmentation)
        samplesID = self._segmentation.GetNodeReferenceID(SAMPLES_ROLE) if browser.count else None
        state = samplesID, region and region["basin"]
        if state != self._foundFor:
            self._foundFor, self._found = state, []
        if not browser.count:
            return missingSamples(browser)
        if region is None:
            return _("Go to a region first.")
        if not self._found:
            try:
                self._found = alternativesIn(self._segmentation, regionMask(self._segmentation, region["basin"]))
            except LookupError as error:
                return str(error)
        return None

    def _shown(self) -> int | None:
        """Number of the alternative on show, from 0, or None."""
        region = self._region()
        browser = Browser(self._segmentation) if region is not None else None
        if browser is None or browser.part != region["basin"]:
            return None
        return next((n for n, one in enumerate(self._found) if one.sample == browser.shown), None)

    def _onShow(self, n: int) -> None:
        self._message = ""
        if n == self._shown():
            self._samples.hide()
            return
        basin = self._region()["basin"]
        try:
            self._samples.showPart(self._found[n].sample, basin, regionMask(self._segmentation, basin))
        except LookupError as error:
            self._message = str(error)
            self.refresh(self._segmentation)

    def _onUse(self, *_arguments: Any) -> None:
        n = self._shown()
        try:
            mask = regionMask(self._segmentation, self._region()["basin"])
            problem = self._corrections.useSample(self._found[n].sample, mask)
        except LookupError as error:
            problem = str(error)
        used = _("Alternative {number} was put into the segmentation. Undo in Segment Editor takes it back.")
        self._message = problem or used.format(number=n + 1)
        self._samples.hide()

    def _onRegion(self) -> None:
        self._message = ""
        part, region = Browser(self._segmentation).part, self._region()
        if part is not None and (region is None or part != region["basin"]):
            self._samples.hide()
        else:
            self._onSample()

    def _onSample(self) -> None:
        if not slicer.mrmlScene.IsImporting():
            self.refresh(self._segmentation)
            self._corrections.refresh(self._segmentation)


def _alternativeText(one: Alternative, n: int) -> str:
    values = {"number": n + 1, "sample": one.sample + 1, "count": one.count, "likeness": f"{one.likeness:.2f}"}
    if one.likeness == 1:
        return _("Alternative {number}: sample {sample}; {count} are the same here.").format(**values)
    text = _(
        "Alternative {number}: sample {sample}; {count} are nearest to it, with a mean overlap (IoU) of {likeness}."
    )
    return text.format(**values)
