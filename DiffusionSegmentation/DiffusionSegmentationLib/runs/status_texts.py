"""Texts for the user about a run: progress, duration, outcome, and what the result shows."""

from collections.abc import Mapping

from ..i18n import tr as _
from ..scene.result_nodes import ENTROPY_ROLE, INFORMATION_ROLE
from .job import FinishedSamples, Job


def progressText(progress: Mapping) -> str:
    stage = progress["stage"]
    if stage == "sampling" and progress["samples"]:
        return _("Drawing sample {sample} of {samples}").format(sample=progress["sample"], samples=progress["samples"])
    texts = {
        "sending": _("Sending the files"),
        "reading": _("Reading the volume"),
        "model": _("Loading the model"),
        "encoding": _("Encoding the image"),
        "sampling": _("Drawing samples"),
        "writing": _("Writing the result"),
    }
    return texts.get(stage, _("Working"))


def isSampled(report: Mapping) -> bool:
    """Whether a result has samples of a model of ours, drawn with a seed."""
    return not {"imported", "folds", "network"} & set(report)


def statusText(job: Job) -> str:
    """What an active job is doing, the remaining time if known, and a note if its settings had to be changed."""
    text = job.message
    if job.secondsLeft is not None:
        text = _("{activity}, {duration} left").format(activity=text, duration=durationText(job.secondsLeft))
    return f"{text}. {job.note}" if job.note else text


def durationText(seconds: float) -> str:
    """A rounded duration: "a few seconds", "about 20 s", "about 3 min"."""
    if seconds < 10:
        return _("a few seconds")
    if seconds < 90:
        return _("about {count} s").format(count=5 * round(seconds / 5))
    return _("about {count} min").format(count=max(2, round(seconds / 60)))


def doneText(report: Mapping, seconds: float) -> str:
    """One sentence for a finished run that took `seconds`."""
    values = {"samples": report["samples"], "requested": report["requested_samples"], "seconds": round(seconds)}
    if "imported" in report:
        return _("Done: {title} in {seconds} s.").format(title=report["model"]["title"], seconds=round(seconds))
    if "folds" in report:
        return _foldsText(report, round(seconds))
    if "network" in report:
        return _("Done in {seconds} s.").format(seconds=round(seconds))
    if not report["partial"]:
        return _("Done: {samples} samples in {seconds} s.").format(**values)
    if report["requested_samples"] == "auto":
        stopped = _("Stopped after {samples} samples").format(**values)
    else:
        stopped = _("Stopped after {samples} of {requested} samples").format(**values)
    uses = {
        "samples": _("the result uses these."),
        "both": _("the result uses these and the model's direct class probabilities."),
    }
    use = uses.get(report["map_source"], _("only the volume intervals use these."))
    return f"{stopped}; {use}"


def _foldsText(report: Mapping, seconds: int) -> str:
    count, requested = len(report["folds"]["names"]), report["requested_samples"]
    if not report["partial"]:
        return _("Done: {count} folds in {seconds} s.").format(count=count, seconds=seconds)
    text = _("Stopped after {count} of {requested} folds; the result uses these.")
    return text.format(count=count, requested=requested)


def recoverableText(finished: FinishedSamples) -> str:
    """One sentence on the finished samples of a failed run."""
    text = _("{count} samples were finished; they can be shown, and are kept in {folder} for a week.")
    count = finished.report["samples"]
    text = text if count > 1 else _("One sample was finished; it can be shown, and is kept in {folder}.")
    return text.format(count=count, folder=finished.folder)


def mapSource(report: Mapping) -> str:
    """Source of the class probabilities behind segmentation and entropy; used after "from" or "of"."""
    average = _("the average of the {samples} samples") if report["samples"] > 1 else _("the one sample")
    texts = {
        "samples": average,
        "both": _(
            "{average}, mixed with the model's direct class probabilities, which are weighted as {prior:g} samples"
        ),
        "exact": _("the model's direct class probabilities, which are the exact average of its samples"),
        "masks": _("the average of the {samples} imported masks"),
        "probabilities": _("the imported class probabilities"),
        "folds": _("the average class probabilities of the model's folds"),
        "network": _("the class probabilities of the model's network"),
    }
    text = texts.get(report["map_source"], _("the model's direct class probabilities; the samples are not used"))
    average = average.format(samples=report["samples"])
    return text.format(average=average, samples=report["samples"], prior=report.get("map_prior", 0.0))


def overlayText(report: Mapping, role: str) -> str:
    """One sentence on the overlay with this role."""
    if role == ENTROPY_ROLE:
        return _("Entropy of {source}.").format(source=mapSource(report))
    if role == INFORMATION_ROLE:
        text = _("Part of the entropy in which the {samples} sets of class probabilities disagree.")
        return text.format(samples=report["samples"])
    if report["samples"] == 1:
        return _("One sample has no disagreement.")
    text = _("Entropy of the labels of the {samples} samples: where the samples differ from each other.")
    return text.format(samples=report["samples"])


def unlikeText(distance: float, limit: float) -> str:
    """One sentence on a region whose features are unlike those of the training data."""
    text = _("Unlike the regions that the model was made for (distance {distance:.1f}, limit {limit:.1f}).")
    return text.format(distance=distance, limit=limit)


def warningsText(report: dict) -> str:
    """Warnings of a run, one per line; a warning that the scan is unlike the training scans is marked."""
    warnings = "\n".join(report.get("warnings", []))
    isUnlike = report.get("input", {}).get("unlike_training")
    return f"⚠ {warnings}" if warnings and isUnlike else warnings
