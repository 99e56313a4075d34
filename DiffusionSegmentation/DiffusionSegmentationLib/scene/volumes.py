"""Volumes of a result's segments with their predictive intervals, as text and as CSV. Independent of Slicer and Qt."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from ..i18n import tr as _

ENOUGH_SAMPLES = 8
"""With fewer samples the 90 % interval is wide: +-2.1 standard deviations for 8, 2.6 for 4, 7.7 for 2."""


Volume = Mapping[str, Any]
"""Entry of one segment in the report: `id`, `name`, `consensus_ml` (of the mask), `mean_ml`, `samples_ml`,
`expected_ml` (absent up to version 0.3), `interval50_ml` and `interval90_ml` (both bounds, or None for one sample), and
for folds in their place `range_ml` (smallest and largest)."""


def shownMl(volume: Volume) -> float:
    """The expected volume, or the mean of the samples if that is unknown."""
    return volume["mean_ml"] if volume.get("expected_ml") is None else volume["expected_ml"]


def isExpected(volumes: Sequence[Volume]) -> bool:
    """Whether the volumes shown are expected volumes rather than means of samples."""
    return all(volume.get("expected_ml") is not None for volume in volumes)


def isRange(volumes: Sequence[Volume]) -> bool:
    """Whether the volumes have the range of several folds in place of intervals."""
    return bool(volumes) and all("range_ml" in volume for volume in volumes)


def volumesNote(volumes: Sequence[Volume]) -> str:
    """Explanation of the columns, one sentence per line."""
    count = len(volumes[0]["samples_ml"]) if volumes else 0
    sentences = [
        _("Expected: sum of the class probabilities.") if isExpected(volumes) else _("Mean: average of the samples."),
        _("Mask: volume of the segment in the segmentation; it can be outside the intervals."),
    ]
    if isRange(volumes):
        text = _("Folds: smallest and largest mask of {count} folds, not an interval for the true volume.")
        sentences.append(text.format(count=count))
    elif count > 1:
        sentences.append(_("50 %, 90 %: spread of the {count} samples, not an accuracy.").format(count=count))
    return "\n".join(filter(None, [*sentences, fewSamplesWarning(volumes)]))


def fewSamplesWarning(volumes: Sequence[Volume]) -> str:
    """One sentence if there are too few samples for useful intervals, otherwise empty."""
    count = len(volumes[0]["samples_ml"]) if volumes else ENOUGH_SAMPLES
    if count >= ENOUGH_SAMPLES or isRange(volumes):
        return ""
    few = _("Few samples make the intervals wide; {enough} or more are better.")
    one = _("One sample gives no intervals; {enough} or more are better.")
    none = _("There are no samples, so there are no intervals.")
    return (none, one, few)[min(count, 2)].format(enough=ENOUGH_SAMPLES)


def coverageText(report: Mapping[str, Any]) -> str:
    """Measured coverage of the model's 90 % intervals, from its model card; empty if there is none."""
    card = report.get("model", {}).get("card", {})
    shares = [
        _("{share} % of {cases}").format(share=round(100 * scores["coverage_90"]), cases=cases)
        for cases, scores in card.get("spread", {}).items()
        if scores.get("coverage_90") is not None
    ]
    text = _("Measured: 90 % intervals contain the true volume in {shares}.")
    return text.format(shares=", ".join(shares)) if shares else ""


def mlText(ml: float) -> str:
    """A volume with about three digits: 1234, 51.3, 0.42."""
    return f"{ml:.{0 if ml >= 99.95 else 1 if ml >= 9.995 else 2}f}"


def intervalText(interval: tuple[float, float] | None) -> str:
    """Both bounds with the decimals of the upper one; a dash for None."""
    if interval is None:
        return "–"
    low, high = interval
    digits = len(mlText(high).partition(".")[2])
    return f"{low:.{digits}f}–{high:.{digits}f}"


def asTable(volumes: Sequence[Volume], delimiter: str) -> str:
    """All numbers as CSV with a header row; further numbers of the report get columns named by their keys."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    count = len(volumes[0]["samples_ml"]) if volumes else 0
    bounds = [f"interval{level}_{bound}_ml" for level in (50, 90) for bound in ("low", "high")]
    samples = [f"sample{n}_ml" for n in range(count)]
    columns = ["expected_ml", "consensus_ml", "mean_ml"]
    first = volumes[0] if volumes else {}
    columns += [key for key, value in first.items() if isinstance(value, float) and key not in columns]
    writer.writerow(["segment", *columns, *bounds, *samples])
    for volume in volumes:
        intervals = [*(volume["interval50_ml"] or ("", "")), *(volume["interval90_ml"] or ("", ""))]
        # The writer leaves cells of None empty.
        writer.writerow([volume["name"], *map(volume.get, columns), *intervals, *volume["samples_ml"]])
    return text.getvalue()
