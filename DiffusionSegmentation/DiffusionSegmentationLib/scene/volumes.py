"""The volumes of a result's segments: expected, in the mask, and as the samples spread; in words and as text. No qt."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..i18n import tr as _

ENOUGH_SAMPLES = 8
"""With fewer the 90 % interval is wide for want of samples: 2.1 standard deviations for 8, 2.6 for 4, 7.7 for 2."""


@dataclass(frozen=True)
class Volume:
    """Volumes of one segment in ml: expected (None in reports up to version 0.3), mask, mean of the samples, predictive
    intervals (None from one sample), each sample's."""

    segmentID: str
    name: str
    expected: float | None
    mask: float
    mean: float
    interval50: tuple[float, float] | None
    interval90: tuple[float, float] | None
    samples: tuple[float, ...]

    @property
    def shown(self) -> float:
        """The expected volume, or the samples' mean where it is not known."""
        return self.mean if self.expected is None else self.expected


def volumesOf(report: Mapping[str, Any]) -> list[Volume]:
    """The volumes that `report` tells of."""
    return [
        Volume(
            segmentID=entry["id"],
            name=entry["name"],
            expected=entry.get("expected_ml"),
            mask=entry["consensus_ml"],
            mean=entry["mean_ml"],
            interval50=_pair(entry["interval50_ml"]),
            interval90=_pair(entry["interval90_ml"]),
            samples=tuple(entry["samples_ml"]),
        )
        for entry in report["volumes"]
    ]


def isExpected(volumes: Sequence[Volume]) -> bool:
    """Whether the volumes shown are expected volumes, and not means of samples."""
    return all(volume.expected is not None for volume in volumes)


def noteOn(volumes: Sequence[Volume]) -> str:
    """What a person must know of the volumes and their intervals, a sentence a line."""
    count = len(volumes[0].samples) if volumes else 0
    sentences = [
        _("Expected: sum of the class probabilities.") if isExpected(volumes) else _("Mean: average of the samples."),
        _("Mask: each voxel counted as its most probable structure; it can lie outside the intervals."),
    ]
    if count > 1:
        sentences.append(_("50 %, 90 %: spread of the model's {count} samples, not its accuracy.").format(count=count))
    return "\n".join(filter(None, [*sentences, cautionOn(volumes)]))


def cautionOn(volumes: Sequence[Volume]) -> str:
    """One sentence where there are too few samples for intervals, or none."""
    count = len(volumes[0].samples) if volumes else ENOUGH_SAMPLES
    if count >= ENOUGH_SAMPLES:
        return ""
    few = _("So few samples make the intervals wide; draw {enough} or more.")
    one = _("One sample has no spread; draw {enough} or more for intervals.")
    return (few if count > 1 else one).format(enough=ENOUGH_SAMPLES)


def measuredOn(report: Mapping[str, Any]) -> str:
    """How often the 90 % intervals of the model held the true volume, by its card; empty where nothing was measured."""
    card = report.get("model", {}).get("card", {})
    shares = [
        _("{share} % of {cases}").format(share=round(100 * of["coverage_90"]), cases=cases)
        for cases, of in card.get("spread", {}).items()
        if of.get("coverage_90") is not None
    ]
    return _("Measured: 90 % intervals hold the volume in {shares}.").format(shares=", ".join(shares)) if shares else ""


def mlText(ml: float) -> str:
    """A volume in three digits or so: 1234, 51.3, 0.42."""
    return f"{ml:.{0 if ml >= 99.95 else 1 if ml >= 9.995 else 2}f}"


def intervalText(interval: tuple[float, float] | None) -> str:
    """Both bounds, as exact as the upper one; a dash for none."""
    if interval is None:
        return "–"
    low, high = interval
    digits = len(mlText(high).partition(".")[2])
    return f"{low:.{digits}f}–{high:.{digits}f}"


def asTable(volumes: Sequence[Volume], delimiter: str) -> str:
    """All numbers as lines of text, with a header; for the clipboard (tabulator) or a CSV file (comma)."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    count = len(volumes[0].samples) if volumes else 0
    bounds = [f"interval{level}_{bound}_ml" for level in (50, 90) for bound in ("low", "high")]
    each = [f"sample{n}_ml" for n in range(count)]
    writer.writerow(["segment", "expected_ml", "consensus_ml", "mean_ml", *bounds, *each])
    for volume in volumes:
        intervals = [*(volume.interval50 or ("", "")), *(volume.interval90 or ("", ""))]
        expected = "" if volume.expected is None else volume.expected
        writer.writerow([volume.name, expected, volume.mask, volume.mean, *intervals, *volume.samples])
    return text.getvalue()


def _pair(interval: Sequence[float] | None) -> tuple[float, float] | None:
    return None if interval is None else (interval[0], interval[1])
