"""A command of the engine in a process of its own: it needs packages that Slicer's process must not import."""

import subprocess
import threading
from collections.abc import Mapping, Sequence

from ..i18n import tr as _


class EngineCommand:
    """One run of `diffusion-segmentation` with `arguments`, from its construction on."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], arguments: Sequence[str]) -> None:
        """`command` starts the worker (see `workerCommand`); its last word is replaced by those of this command."""
        self.message = ""
        """One plain sentence on the outcome, once it has ended."""
        self.succeeded = False
        self._command = [*command[:-1], *arguments]
        self._environment = dict(environment)
        self._thread = threading.Thread(target=self._run, name="command", daemon=True)
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def _run(self) -> None:
        try:
            finished = subprocess.run(
                self._command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                check=False,
            )
        except OSError as error:
            self.message = _("The background process could not be started ({reason}).").format(reason=error.strerror)
            return
        self.succeeded = finished.returncode == 0
        lines = (finished.stdout if self.succeeded else finished.stderr).strip().splitlines()
        self.message = lines[-1] if lines else _("The command failed without a message.")
