"""What a run says to the person: where it is, how long it takes, how it ended."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from .i18n import tr as _

if TYPE_CHECKING:
    from .jobs import Job


def progressText(progress: Mapping) -> str:
    """One short sentence for a `progress` message of the worker."""
    stage = progress["stage"]
    if stage == "sampling" and progress["samples"]:
        return _("Drawing sample {sample} of {samples}").format(sample=progress["sample"], samples=progress["samples"])
    texts = {
        "reading": _("Reading the volume"),
        "model": _("Loading the model"),
        "encoding": _("Looking at the volume"),
        "sampling": _("Drawing samples"),
        "writing": _("Writing the result"),
    }
    return texts.get(stage, _("Working"))


def statusText(job: "Job") -> str:
    """What an active job does, how long it will take if that is known, and how it had to be changed."""
    text = job.message
    if job.secondsLeft is not None:
        text = _("{activity}, {duration} left").format(activity=text, duration=durationText(job.secondsLeft))
    return f"{text}. {job.note}" if job.note else text


def durationText(seconds: float) -> str:
    """A duration as one says it: "about 20 s" or "about 3 min"; never more exact than the estimate is."""
    if seconds < 10:
        return _("a few seconds")
    if seconds < 90:
        return _("about {count} s").format(count=5 * round(seconds / 5))
    return _("about {count} min").format(count=max(2, round(seconds / 60)))


def doneText(report: Mapping, seconds: float) -> str:
    """One sentence for a finished run; `seconds` is what the person waited."""
    values = {"samples": report["samples"], "wanted": report["requested_samples"], "seconds": round(seconds)}
    if not report["partial"]:
        return _("Done: {samples} samples in {seconds} s.").format(**values)
    direct = report["map_source"] == "direct"  # then segmentation and entropy are not of the samples
    if report["requested_samples"] == "auto":  # there was no number to reach
        if direct:
            text = _("Stopped after {samples} samples; only the volumes and their intervals are from those.")
        else:
            text = _("Stopped after {samples} samples; the result is from those.")
    elif direct:
        text = _("Stopped after {samples} of {wanted} samples; only the volumes and their intervals are from those.")
    else:
        text = _("Stopped after {samples} of {wanted} samples; the result is from those.")
    return text.format(**values)
