"""What a run says to the person: where it is, how long it takes, how it ended."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from ..i18n import tr as _

if TYPE_CHECKING:
    from .job import Job


def progressText(progress: Mapping) -> str:
    """One short sentence for a `progress` message of the worker."""
    stage = progress["stage"]
    if stage == "sampling" and progress["samples"]:
        return _("Drawing sample {sample} of {samples}").format(sample=progress["sample"], samples=progress["samples"])
    texts = {
        "reading": _("Reading the volume"),
        "model": _("Loading the model"),
        "encoding": _("Encoding the image"),
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
    if report["requested_samples"] == "auto":  # there was no number to reach
        stopped = _("Stopped after {samples} samples").format(**values)
    else:
        stopped = _("Stopped after {samples} of {wanted} samples").format(**values)
    parts = {
        "samples": _("the result is from those."),
        "both": _("the result is from those and the model's direct class probabilities."),
    }
    return f"{stopped}; {parts.get(report['map_source'], _('only the intervals of the volumes are from those.'))}"


def mapSource(report: Mapping) -> str:
    """What the class probabilities of segmentation and entropy are taken from; stands after "from" or "of"."""
    average = _("the average of the {samples} samples") if report["samples"] > 1 else _("the one sample")
    average = average.format(samples=report["samples"])
    if report["map_source"] == "samples":
        return average
    if report["map_source"] == "both":
        text = _("{average}, mixed with the model's direct class probabilities, which count as {prior:g} samples")
        return text.format(average=average, prior=report["map_prior"])
    if report["map_source"] == "exact":
        return _("the model's direct class probabilities, which are the exact average of its samples")
    return _("the model's direct class probabilities, in which the samples play no part")


def entropyText(report: Mapping) -> str:
    """One sentence on what the overlay of the entropy shows."""
    return _("Entropy of {source}.").format(source=mapSource(report))


def disagreementText(report: Mapping) -> str:
    """One sentence on what the overlay of the samples' disagreement shows."""
    if report["samples"] == 1:
        return _("One sample differs from no other: there is nothing to see.")
    text = _("Entropy of the {samples} samples' own votes: where the samples alone differ.")
    return text.format(samples=report["samples"])


def unlikeText(distance: float, limit: float) -> str:
    """That a region is unlike those of the scans that the model was made for, and by how much."""
    text = _("Unlike the regions that the model was made for (distance {distance:.1f}, limit {limit:.1f}).")
    return text.format(distance=distance, limit=limit)


def warningsText(report: dict) -> str:
    """What a run warns of, a line each; that the scan is unlike those that the model was made for has a mark."""
    warnings = report.get("warnings", [])
    if warnings and report.get("input", {}).get("unlike_training"):
        warnings = [f"⚠ {warnings[0]}", *warnings[1:]]
    return "\n".join(warnings)
