"""The answers to questions about a result: stored in its report, which is saved with the scene, as text and as CSV."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

import slicer

from ..i18n import tr as _
from . import questions
from .result_nodes import RUN_ATTRIBUTE, reportOf

MOST = 20
"""Number of answers that are kept, or all those to one click."""

Answer = Mapping[str, Any]
"""What the worker answers (see measurements/answer.py of the engine), with the facts of the question."""


def store(segmentationNode: slicer.vtkMRMLSegmentationNode, new: Sequence[Answer]) -> None:
    """Put `new` answers before the earlier ones; those to the same questions are replaced."""
    report = reportOf(segmentationNode)
    asked = {answer["question"] for answer in new}
    earlier = [answer for answer in report.get("answers", []) if answer["question"] not in asked]
    report["answers"] = [*new, *earlier][: max(MOST, len(new))]
    segmentationNode.SetAttribute(RUN_ATTRIBUTE, json.dumps(report, ensure_ascii=False))


def isTruth(answer: Answer) -> bool:
    """Whether the values of the answer are 0 (false) and 1 (true)."""
    return "holds" in answer and "comparison" not in answer


def numberText(value: float | None, digits: int = 3) -> str:
    """A value with three digits, or another number of them, whole from 1000 on; a dash for None."""
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 999.5 else f"{value:.{digits}g}"


def _rangeText(bounds: Sequence[float | None]) -> str:
    text = _("{low} to {high}") if min(filter(None, bounds), default=0.0) < 0 else "{low}–{high}"
    return text.format(low=numberText(bounds[0]), high=numberText(bounds[1]))


def valueTexts(answer: Answer) -> list[str]:
    """What was measured in the segmentation, one text a line: whether a statement is true, and the value."""
    if "holds" not in answer:
        return [_valueText(answer)]
    holds = _("true") if answer["holds"] else _("false")
    return [holds, _valueText(answer)] if "comparison" in answer else [holds]


def _valueText(answer: Answer) -> str:
    if answer["value"] is None:
        return _("not defined")
    digits = 4 if "comparison" in answer else 3
    return f"{numberText(answer['value'], digits)} {questions.unitText(answer['unit'])}".rstrip()


def sampleTexts(answer: Answer) -> list[str]:
    """What was measured in the samples, one text a line."""
    count = len(answer["samples"])
    if "holds" in answer:
        texts = [_("true in {k} of {n} samples").format(k=answer["count"], n=count)]
        if "probability" in answer:
            p, low, high = (f"{100 * share:.0f}" for share in (answer["probability"], *answer["interval90"]))
            texts.append(_("{p} % ({low}–{high} %)").format(p=p, low=low, high=high))
        return texts
    texts = [_("mean {mean}").format(mean=numberText(answer["mean"]))] if answer["mean"] is not None else []
    if answer.get("interval90"):
        texts.append(_("90 %: {range}").format(range=_rangeText(answer["interval90"])))
    if answer.get("range"):
        texts.append(_("range: {range}").format(range=_rangeText(answer["range"])))
    if answer["undefined"]:
        texts.append(_("not defined in {k} of {n} samples").format(k=answer["undefined"], n=count))
    return texts


def legend() -> str:
    """What `sampleTexts` says."""
    return _(
        "For a number: mean of the samples and 90 % prediction interval of one further sample. For a statement: in how"
        " many samples it is true, its probability and the 90 % interval of that."
    )


def note(report: Mapping[str, Any]) -> str:
    """What the answers were measured in, as one or two sentences."""
    text = _("Measured in the segmentation as computed, without corrections by hand, and in its {kept} samples.")
    if report["samples"] > report.get("kept_samples", report["samples"]):
        text = _("Measured in the segmentation as computed, without corrections by hand, and in the {kept} samples that"
                 " were kept of {drawn}.")  # fmt: skip
    text = text.format(kept=report.get("kept_samples", report["samples"]), drawn=report["samples"])
    kept = report.get("kept_samples", report["samples"])
    drawn = sorted({len(answer["samples"]) for answer in report.get("answers", [])} - {*range(kept + 1)})
    if drawn:
        text += " " + _("Answers from {counts} samples: these were drawn again with the same seed, and the segmentation"
                        " is theirs.").format(counts=", ".join(map(str, drawn)))  # fmt: skip
    if any(entry.get("method") == "range" for entry in report["volumes"]):
        text += " " + _("These are not draws of a model, so they have a range in place of intervals and probabilities.")
    return text


def asTable(report: Mapping[str, Any], delimiter: str) -> str:
    """All answers of a report as CSV with a header row; numbers in the unit of the answer, probabilities 0 to 1."""
    answers = report.get("answers", [])
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    count = max((len(answer["samples"]) for answer in answers), default=0)
    numbers = ["unit", "value", "mean", "undefined", "holds", "count", "of", "probability"]
    bounds = ["interval50", "interval90", "range"]
    names = [f"{name}_{end}" for name in bounds for end in ("low", "high")]
    writer.writerow(["question", "words", *numbers, *names, *(f"sample{n}" for n in range(count))])
    for answer in answers:
        ends = [end for name in bounds for end in answer.get(name) or ("", "")]
        words = questions.words(answer, report)
        # The writer leaves cells of None empty.
        writer.writerow([answer["question"], words, *map(answer.get, numbers), *ends, *answer["samples"]])
    return text.getvalue()
