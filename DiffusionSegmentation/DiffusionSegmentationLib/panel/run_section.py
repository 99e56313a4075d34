"""The panel's part for the run: the buttons that start and stop it, the bar, and what is said of it."""

from typing import Any

import qt
import slicer

from ..i18n import tr as _
from ..runs import status_texts
from ..runs.job import Job
from .widgets import enable


class RunSection:
    """Shows the run that is under way, or whether one can be started."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._keepText, self._cpuTip = ui.keepButton.text, ui.cpuButton.toolTip
        ui.statusIcon.pixmap = slicer.app.style().standardIcon(qt.QStyle.SP_MessageBoxWarning).pixmap(16, 16)

    def refresh(self, job: Job | None, problem: str | None, idle: str, failed: bool, change: float | None) -> None:
        """Show `job`, the last one, or, where it is over, the text `idle`, which tells of a failure if it `failed`.

        `problem` is why no run can be started; `change` is by which part the last preview differs from the one before.
        """
        ui, busy = self._ui, job is not None and job.active
        if busy:
            ui.segmentButton.text = _("Cancel")
            enable(ui.segmentButton, None, _("Stop, and leave the scene as it is."))
            ui.keepButton.text = self._keepText
            unready = None if job.finishedSamples else _("Possible as soon as the first sample is drawn.")
            enable(ui.keepButton, unready, _("Finish now, with the samples drawn so far."))
            ui.progressBar.maximum = 0 if job.fraction is None else 1000
            ui.progressBar.value = round(1000 * (job.fraction or 0))
        else:
            ui.segmentButton.text = _("Segment")
            enable(ui.segmentButton, problem, _("Segment the volume in the background; Slicer stays usable."))
        recoverable = 0 if busy or job is None else job.recoverable
        if recoverable:
            ui.keepButton.text = _("Show the finished samples ({count})").format(count=recoverable)
            enable(ui.keepButton, None, _("Bring what the run had finished into the scene."))
        ui.keepButton.visible = busy or recoverable > 0
        elsewhere = not busy and job is not None and job.tryDevice is not None and failed
        ui.cpuButton.visible = elsewhere
        if elsewhere:
            enable(ui.cpuButton, problem, self._cpuTip)
        ui.progressBar.visible = busy
        ui.statusLabel.text = _statusText(job, change) if busy else idle
        ui.statusLabel.visible = bool(ui.statusLabel.text)
        ui.statusIcon.visible = failed and not busy


def _statusText(job: Job, change: float | None) -> str:
    text = status_texts.statusText(job)
    if change is not None:
        text += _("; the uncertainty changed by {percent:.1f} % since the last picture").format(percent=100 * change)
    return text
