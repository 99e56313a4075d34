"""The run that draws the samples of a result again, given facts: which model can, with what settings, and how long."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..i18n import tr as _
from ..scene.facts import rounds
from . import status_texts
from .job import Choices
from .models import Entry

FIRST_RATIO = 0.4
"""Seconds of a first update of copula masks by those of the first run, if the worker still keeps that run.
Measured with `bench corrections` on whole heads, see Documentation/correlated-start.md."""


def modelOf(report: Mapping[str, Any], entries: Sequence[Entry]) -> Entry | None:
    """The installed model that made a result, or None."""
    digest = report["model"].get("sha256")
    return next((entry for entry in entries if digest and entry.digest == digest), None)


def refusalOf(report: Mapping[str, Any], entries: Sequence[Entry]) -> str | None:
    """Why the samples of a result cannot follow corrections, one sentence, or None."""
    title = report["model"]["title"]
    if "imported" in report:
        return _("Imported masks were not drawn by a model, so they cannot follow corrections.")
    if not status_texts.isSampled(report):
        text = _("The model '{title}' draws no samples that could follow corrections.")
        return text.format(title=title)
    model = modelOf(report, entries)
    if model is None or "seed" not in report:
        text = _("The model of this result, '{title}', is not installed in this version; segment the volume again.")
        return text.format(title=title)
    if not model.followsFacts:
        text = _("The model '{title}' was not trained to follow corrections; choose another model.")
        return text.format(title=title)
    base = next((entry for entry in entries if model.frozen and entry.digest == model.frozen), None)
    if base is not None and base.folds > 1:
        text = _("The samples of '{title}' come from {count} folds in turn and cannot follow corrections.")
        return text.format(title=title, count=base.folds)
    return None


def choicesOf(report: Mapping[str, Any], model: Entry) -> Choices:
    """The settings of the run of `report`, so that samples change because of the facts and not by chance."""
    region = report.get("region_mm") or Choices.regionMm
    settings = max(1, report["samples"]), report["steps"] or None, report["seed"], report.get("device") or "auto"
    return Choices(model.key, *settings, region)


def questionsOf(report: Mapping[str, Any]) -> tuple[str, ...]:
    """The questions that were asked of a result, in the order of its answers, to be asked of its update."""
    return tuple(answer["question"] for answer in report.get("answers", ()))


def secondsOf(report: Mapping[str, Any]) -> float | None:
    """Expected seconds of the next update, from those of the first run or of the last update; None if not known."""
    seconds = sum(report.get("timings_s", {}).values())
    first = not rounds(report) and not report["steps"]  # a denoiser takes its steps again, which is most of its run
    return (FIRST_RATIO * seconds if first else seconds) or None
