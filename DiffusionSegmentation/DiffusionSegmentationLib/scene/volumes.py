"""Sizes of a result's segments with their predictive intervals, as text and as CSV. Independent of Slicer and Qt."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from ..i18n import tr as _
from .units import Unit, sizeText

ENOUGH_SAMPLES = 8
"""With fewer samples the 90 % interval is wide: +-2.1 standard deviations for 8, 2.6 for 4, 7.7 for 2."""


Segment = Mapping[str, Any]
"""Entry of one segment in the report: `id`, `name`, and with the ending of the unit `consensus` (of the mask), `mean`,
`samples`, `expected` (absent up to version 0.3), `interval50` and `interval90` (bounds, or None for one sample); for
folds of a model in their place `range` (smallest and largest)."""


class Sizes:
    """Volumes, or areas in a picture, of the `segments` of a report, in `unit`."""

    def __init__(self, report: Mapping[str, Any]) -> None:
        self.unit = Unit.of(report)
        self.segments: Sequence[Segment] = report.get("volumes", [])
        self._report = report

    def shown(self, segment: Segment) -> float:
        """The expected size, or the mean of the samples if that is unknown."""
        expected = segment.get(self.unit.key("expected"))
        return self.mean(segment) if expected is None else expected

    def mean(self, segment: Segment) -> float:
        """Mean of the samples."""
        return segment[self.unit.key("mean")]

    def mask(self, segment: Segment) -> float:
        """Size in the segmentation."""
        return segment[self.unit.key("consensus")]

    def samples(self, segment: Segment) -> list[float]:
        return segment[self.unit.key("samples")]

    def interval(self, segment: Segment, level: int) -> Sequence[float] | None:
        """Bounds of the predictive interval of `level` (50 or 90) %; None with fewer than two samples."""
        return segment[self.unit.key(f"interval{level}")]

    def bounds(self, segment: Segment, levels: Sequence[int]) -> list[Sequence[float] | None]:
        """The intervals of these levels; for folds of a model the range of their masks in place of them."""
        if self.areRanges:
            return [segment[self.unit.key("range")]]
        return [self.interval(segment, level) for level in levels]

    @property
    def haveContours(self) -> bool:
        """Whether the distances between contours are known; not in reports up to version 0.4."""
        return "contours" in self._report

    def contourTexts(self, segment: Segment) -> list[str]:
        """The mean distance between inner and outer contour in `lengthUnit`, as one text; none if it is not known.

        A dash if a contour does not exist.
        """
        if not self.haveContours:
            return []
        distance = segment[f"contour_distance_{self.lengthUnit}"]
        return ["–" if distance is None else sizeText(distance)]

    @property
    def lengthUnit(self) -> str:
        return "px" if self.unit.suffix == "px" else "mm"

    def contoursNote(self) -> str:
        """What the distances are, one sentence; empty if they are not known."""
        if not self.haveContours:
            return ""
        text = _("Gap: mean distance between the contours of {inner:.0f} % and {outer:.0f} % probability.")
        return text.format(**{name: 100 * level for name, level in self._report["contours"].items()})

    @property
    def areRanges(self) -> bool:
        """Whether the sizes have the range of several folds in place of intervals."""
        return bool(self.segments) and all(self.unit.key("range") in segment for segment in self.segments)

    @property
    def areCalibrated(self) -> bool:
        """Whether intervals were scaled by factors that were fitted to labelled cases."""
        return any("interval90_factor" in segment for segment in self.segments)

    @property
    def areExpected(self) -> bool:
        """Whether the sizes shown are expected sizes rather than means of samples."""
        return all(segment.get(self.unit.key("expected")) is not None for segment in self.segments)

    @property
    def _count(self) -> int:
        """Number of samples."""
        return len(self.samples(self.segments[0])) if self.segments else 0

    def note(self) -> str:
        """Explanation of the columns, one sentence per line."""
        sentences = [
            _("Expected: sum of the class probabilities.") if self.areExpected else _("Mean: average of the samples."),
            self.unit.either(
                _("Mask: volume of the segment in the segmentation; it can be outside the intervals."),
                _("Mask: area of the segment in the segmentation; it can be outside the intervals."),
            ),
        ]
        if self.areRanges:
            text = _("Folds: smallest and largest mask of {count} folds, not an interval for the true size.")
            sentences.append(text.format(count=self._count))
        elif self._count > 1:
            spread = _("50 %, 90 %: spread of the {count} samples, not an accuracy.")
            calibrated = _("50 %, 90 %: spread of the {count} samples, scaled to hold the true size of labelled cases.")
            sentences.append((calibrated if self.areCalibrated else spread).format(count=self._count))
        return "\n".join(filter(None, [*sentences, self.contoursNote(), self.fewSamplesWarning()]))

    def fewSamplesWarning(self) -> str:
        """One sentence if there are too few samples for useful intervals, otherwise empty."""
        if not self.segments or self._count >= ENOUGH_SAMPLES or self.areRanges:
            return ""
        few = _("Few samples make the intervals wide; {enough} or more are better.")
        one = _("One sample gives no intervals; {enough} or more are better.")
        none = _("There are no samples, so there are no intervals.")
        return (none, one, few)[min(self._count, 2)].format(enough=ENOUGH_SAMPLES)

    def checkText(self) -> str:
        """The engine's sentence on labelled cases to which the model was calibrated; empty if there were none."""
        return self._report.get("own_cases", {}).get("sentence", "")

    def coverageText(self) -> str:
        """Measured coverage of the model's 90 % intervals, from its model card; empty if there is none.

        Calibrated intervals are others than those of the card.
        """
        if self.areCalibrated:
            return ""
        card = self._report.get("model", {}).get("card", {})
        shares = [
            _("{share} % of {cases}").format(share=round(100 * scores["coverage_90"]), cases=cases)
            for cases, scores in card.get("spread", {}).items()
            if scores.get("coverage_90") is not None
        ]
        text = self.unit.either(
            _("Measured: 90 % intervals contain the true volume in {shares}."),
            _("Measured: 90 % intervals contain the true area in {shares}."),
        )
        return text.format(shares=", ".join(shares)) if shares else ""

    def asTable(self, delimiter: str) -> str:
        """All numbers as CSV with a header row; further numbers of the report get columns named by their keys."""
        text, key = io.StringIO(), self.unit.key
        writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
        bounds = [key(f"interval{level}_{bound}") for level in (50, 90) for bound in ("low", "high")]
        samples = [key(f"sample{n}") for n in range(self._count)]
        columns = [key("expected"), key("consensus"), key("mean")]
        further = [
            name
            for segment in self.segments
            for name, value in segment.items()
            if isinstance(value, float) or name.startswith("held")  # whole numbers of cases
        ]
        columns = list(dict.fromkeys([*columns, *further]))
        writer.writerow(["segment", *columns, *bounds, *samples])
        for segment in self.segments:
            intervals = [bound for level in (50, 90) for bound in self.interval(segment, level) or ("", "")]
            # The writer leaves cells of None empty.
            writer.writerow([segment["name"], *map(segment.get, columns), *intervals, *self.samples(segment)])
        return text.getvalue()


def intervalText(interval: Sequence[float] | None) -> str:
    """Both bounds with the decimals of the upper one; a dash for None."""
    if interval is None:
        return "–"
    low, high = interval
    digits = len(sizeText(high).partition(".")[2])
    return f"{low:.{digits}f}–{high:.{digits}f}"
