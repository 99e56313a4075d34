"""Run controls: the buttons that start and stop a run, its progress and status."""

from typing import Any

from ...i18n import tr as _
from ...runs import status_texts
from ...runs.job import Job
from ..widgets import enable, setButton


def showRun(
    ui: Any, job: Job | None, problem: str | None, idleText: str, failed: bool, previewChange: float | None
) -> None:
    """Show `job`, the latest one, while it is active, otherwise `idleText`, with an icon if the job `failed`.

    `problem`: why no run can be started. `previewChange`: relative difference of the last two previews.
    """
    busy = job is not None and job.active
    recoverable = 0 if busy or job is None else job.recoverable
    if busy:
        setButton(ui.segmentButton, _("Cancel"), _("Stop the run. The scene stays unchanged."))
        unready = None if job.finishedSamples else _("Available after the first sample.")
        setButton(ui.keepButton, _("Stop and keep"), _("Stop now and keep the samples drawn so far."), unready)
        ui.progressBar.maximum = 0 if job.fraction is None else 1000
        ui.progressBar.value = round(1000 * (job.fraction or 0))
    else:
        tip = _("Segment the volume in the background. Slicer stays usable.")
        setButton(ui.segmentButton, _("Segment"), tip, problem)
        text = _("Show the finished samples ({count})").format(count=recoverable)
        setButton(ui.keepButton, text, _("Load the samples that were finished before the run failed."))
    ui.keepButton.visible = busy or recoverable > 0
    enable(problem, ui.cpuButton)
    ui.cpuButton.visible = not busy and failed and job is not None and job.tryDevice is not None and not job.update
    ui.progressBar.visible = busy
    ui.statusLabel.text = _statusText(job, previewChange) if busy else idleText
    ui.statusLabel.visible = bool(ui.statusLabel.text)
    ui.statusIcon.visible = failed and not busy


def _statusText(job: Job, previewChange: float | None) -> str:
    text = status_texts.statusText(job)
    if previewChange is not None:
        percent = 100 * previewChange
        text += _("; the uncertainty changed by {percent:.1f} % since the last preview").format(percent=percent)
    return text
