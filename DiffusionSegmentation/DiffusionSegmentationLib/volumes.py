"""The volumes of a result's segments as its samples spread them, in words, for the clipboard and for a file. No qt."""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .i18n import tr as _

ENOUGH_SAMPLES = 8
"""With fewer the 90 % interval is wide for want of samples: 2.1 standard deviations for 8, 2.6 for 4, 7.7 for 2."""


@dataclass(frozen=True)
class Volume:
    """Volumes of one segment in ml: mean of the samples, predictive intervals (None from one sample), each sample's."""

    segmentID: str
    name: str
    consensus: float
    mean: float
    interval50: tuple[float, float] | None
    interval90: tuple[float, float] | None
    samples: tuple[float, ...]


def volumesOf(report: Mapping[str, Any]) -> list[Volume]:
    """The volumes that `report` tells of."""
    return [
        Volume(
            segmentID=entry["id"],
            name=entry["name"],
            consensus=entry["consensus_ml"],
            mean=entry["mean_ml"],
            interval50=_pair(entry["interval50_ml"]),
            interval90=_pair(entry["interval90_ml"]),
            samples=tuple(entry["samples_ml"]),
        )
        for entry in report["volumes"]
    ]


def noteOn(volumes: Sequence[Volume]) -> str:
    """What a person must know of the intervals."""
    count = len(volumes[0].samples) if volumes else 0
    if count < 2:
        return _("One sample has no spread; draw {enough} or more for intervals.").format(enough=ENOUGH_SAMPLES)
    spread = _("ml, as the model's {count} samples spread; this is not its accuracy.").format(count=count)
    if count < ENOUGH_SAMPLES:
        few = _("So few samples make the intervals wide; draw {enough} or more.").format(enough=ENOUGH_SAMPLES)
        return f"{spread} {few}"
    return spread


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
    writer.writerow(["segment", "consensus_ml", "mean_ml", *bounds, *(f"sample{n}_ml" for n in range(count))])
    for volume in volumes:
        intervals = [*(volume.interval50 or ("", "")), *(volume.interval90 or ("", ""))]
        writer.writerow([volume.name, volume.consensus, volume.mean, *intervals, *volume.samples])
    return text.getvalue()


def _pair(interval: Sequence[float] | None) -> tuple[float, float] | None:
    return None if interval is None else (interval[0], interval[1])
