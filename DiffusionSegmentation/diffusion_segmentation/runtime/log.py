"""Log records of the package on stderr, configured once by the command and by the worker."""

from __future__ import annotations

import contextlib
import logging
import sys

from .. import __name__ as PACKAGE


class _StderrHandler(logging.Handler):
    """Writes to the current sys.stderr: warnings as "warning: ...", other records as their message."""

    def format(self, record: logging.LogRecord) -> str:
        return ("warning: " if record.levelno == logging.WARNING else "") + super().format(record)

    def emit(self, record: logging.LogRecord) -> None:
        with contextlib.suppress(OSError, ValueError):  # stderr is closed, or a file on a full disk
            print(self.format(record), file=sys.stderr, flush=True)


def configure_logging() -> None:
    """Show the package's log records from level INFO on. Repeated calls have no effect."""
    logger = logging.getLogger(PACKAGE)
    if not any(isinstance(handler, _StderrHandler) for handler in logger.handlers):
        logger.addHandler(_StderrHandler())
        logger.setLevel(logging.INFO)
        logger.propagate = False
