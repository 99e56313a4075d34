"""Run controls: the buttons that start and stop a run, progress and status."""

from typing import Any

import qt
import slicer

from ...i18n import tr as _
from ...runs import messages
from ...runs.job import Job
from ..widgets import enable


class RunSection:
    """Shows the active run, or whether one can be started."""

    def __init__(self, ui: Any) -> None:
        self._ui = ui
        self._keepText, self._cpuTip = ui.keepButton.text, ui.cpuButton.toolTip
        ui.statusIcon.pixmap = slicer.app.style().standardIcon(qt.QStyle.SP_MessageBoxWarning).pixmap(16, 16)

    def refresh(
        self, job: Job | None, problem: str | None, idleText: str, failed: bool, previewChange: float | None
    ) -> None:
        """Show `job`, the latest one, while it is active, otherwise `idleText`, with an icon if the job `failed`.

        `problem`: why no run can be started. `previewChange`: relative difference of the last two previews.
        """
        ui, busy = self._ui, job is not None and job.active
        if busy:
            ui.segmentButton.text = _("Cancel")
            enable(ui.segmentButton, None, _("Stop the run. The scene stays unchanged."))
            ui.keepButton.text = self._keepText
            unready = None if job.finishedSamples else _("Available after the first sample.")
            enable(ui.keepButton, unready, _("Stop now and keep the samples drawn so far."))
            ui.progressBar.maximum = 0 if job.fraction is None else 1000
            ui.progressBar.value = round(1000 * (job.fraction or 0))
        else:
            ui.segmentButton.text = _("Segment")
            enable(ui.segmentButton, problem, _("Segment the volume in the background. Slicer stays usable."))
        recoverable = 0 if busy or job is None else job.recoverable
        if recoverable:
            ui.keepButton.text = _("Show the finished samples ({count})").format(count=recoverable)
            enable(ui.keepButton, None, _("Load the samples that were finished before the run failed."))
        ui.keepButton.visible = busy or recoverable > 0
        retry = not busy and job is not None and job.tryDevice is not None and failed
        ui.cpuButton.visible = retry
        if retry:
            enable(ui.cpuButton, problem, self._cpuTip)
        ui.progressBar.visible = busy
        ui.statusLabel.text = _statusText(job, previewChange) if busy else idleText
        ui.statusLabel.visible = bool(ui.statusLabel.text)
        ui.statusIcon.visible = failed and not busy


def _statusText(job: Job, previewChange: float | None) -> str:
    text = messages.statusText(job)
    if previewChange is not None:
        percent = 100 * previewChange
        text += _("; the uncertainty changed by {percent:.1f} % since the last preview").format(percent=percent)
    return text
