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
    """Put `new` answers before the earlier ones; those to the same questions are replaced, but for their `before`."""
    report = reportOf(segmentationNode)
    replaced = {answer["question"]: answer for answer in report.get("answers", [])}
    before = {question: {"before": old["before"]} for question, old in replaced.items() if "before" in old}
    new = [{**answer, **before.get(answer["question"], {})} for answer in new]
    asked = {answer["question"] for answer in new}
    earlier = [answer for question, answer in replaced.items() if question not in asked]
    _write(segmentationNode, report, [*new, *earlier][: max(MOST, len(new))])


def carryOver(former: slicer.vtkMRMLSegmentationNode, updated: slicer.vtkMRMLSegmentationNode) -> None:
    """Give the answers of `updated`, the result of an update, what was asked of `former` in Slicer, and its answers.

    The answer of `former` to the same question is the entry `before`.
    """
    report = reportOf(updated)
    earlier = {answer["question"]: answer for answer in reportOf(former).get("answers", [])}
    new = []
    for answer in report.get("answers", []):
        old = earlier.get(answer["question"], {})
        asked = {key: old[key] for key in questions.KEYS if key in old}
        before = {"before": {key: value for key, value in old.items() if key != "before"}} if old else {}
        new.append({**answer, **asked, **before})
    if new:
        _write(updated, report, new)


def _write(segmentationNode: slicer.vtkMRMLSegmentationNode, report: dict[str, Any], stored: list[Any]) -> None:
    report["answers"] = stored
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


def beforeTexts(answer: Answer) -> list[str]:
    """The answer to the same question before an update, value and interval or probability, one text a line."""
    if "before" not in answer:
        return []
    old = answer["before"]
    value, texts = ", ".join(valueTexts(old)), sampleTexts(old)
    return [_("before: {value}").format(value=value), *(texts[-1:] if "holds" in old else texts[1:2])]


def legend() -> str:
    """What `sampleTexts` says."""
    return _(
        "For a number: mean of the samples and 90 % prediction interval of one further sample. For a statement: in how"
        " many samples it is true, its probability and the 90 % interval of that."
    )


def note(report: Mapping[str, Any]) -> str:
    """What the answers were measured in and what their intervals are, as a few sentences."""
    text = _("Measured in the segmentation as computed, {corrections}, and in its {kept} samples.")
    if report["samples"] > report.get("kept_samples", report["samples"]):
        text = _("Measured in the segmentation as computed, {corrections}, and in the {kept} samples that were kept of"
                 " {drawn}.")  # fmt: skip
    corrections = _("without corrections by hand")
    if "facts" in report:
        corrections = _("with the facts of the update and without later corrections by hand")
    kept = report.get("kept_samples", report["samples"])
    text = text.format(corrections=corrections, kept=kept, drawn=report["samples"])
    stored = report.get("answers", [])
    if any("before" in answer for answer in stored):
        text += " " + _("'Before' is the answer to the same question before the update.")
    counts = {len(answer["samples"]) for answer in stored}
    if report["samples"] > kept and report["samples"] in counts:
        text += " " + _("Answers from {count} samples are from all that were drawn.").format(count=report["samples"])
    drawn = sorted(counts - {*range(kept + 1), report["samples"]})
    if drawn:
        text += " " + _("Answers from {counts} samples: these were drawn again with the same seed, and the segmentation"
                        " is theirs.").format(counts=", ".join(map(str, drawn)))  # fmt: skip
    if any(entry.get("method") == "range" for entry in report["volumes"]):
        text += " " + _("These are not draws of a model, so they have a range in place of intervals and probabilities.")
    if any("interval90_factor" in entry for entry in report["volumes"]):
        text += " " + _("The interval for the size of one structure is scaled to hold the true size of labelled cases.")
        others = ", ".join(map(str, sorted(counts - {report["samples"]})))
        if others and report.get("own_cases", {}).get("checked"):
            text += " " + _("That was not checked for answers from {counts} samples.").format(counts=others)
    return text


def asTable(report: Mapping[str, Any], delimiter: str) -> str:
    """All answers of a report as CSV with a header row; numbers in the unit of the answer, probabilities 0 to 1.

    After an update there are also the value, verdict, interval and probability before it.
    """
    answers = report.get("answers", [])
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
    count = max((len(answer["samples"]) for answer in answers), default=0)
    numbers = ["unit", "value", "mean", "undefined", "holds", "count", "of", "probability"]
    bounds = ["interval50", "interval90", "range"]
    names = [f"{name}_{end}" for name in bounds for end in ("low", "high")]
    former = ["value_before", "holds_before", "interval90_before_low", "interval90_before_high", "probability_before"]
    if not any("before" in answer for answer in answers):
        former = []
    writer.writerow(["question", "words", *numbers, *names, *former, *(f"sample{n}" for n in range(count))])
    for answer in answers:
        ends = [end for name in bounds for end in answer.get(name) or ("", "")]
        words = questions.words(answer, report)
        old = answer.get("before", {})
        interval = old.get("interval90") or ("", "")
        was = [old.get("value"), old.get("holds"), *interval, old.get("probability")] if former else []
        # The writer leaves cells of None empty.
        writer.writerow([answer["question"], words, *map(answer.get, numbers), *ends, *was, *answer["samples"]])
    return text.getvalue()
