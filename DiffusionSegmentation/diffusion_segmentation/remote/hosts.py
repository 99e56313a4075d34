"""The computer that `ssh` reaches: its name, the command that starts the agent there, and why that failed.

Keys, jump hosts and host checks are those of the user's configuration of ssh; nothing asks for a password, and no
host check is disabled.
"""

from __future__ import annotations

import json
import os
import re
import shlex
from collections.abc import Sequence

from ..errors import InputError, shown

DEFAULT_PYTHON = "python3"
ENVIRONMENT_VARIABLE = "DIFFUSION_SEGMENTATION_SSH_ENVIRONMENT"
"""The environment of ssh as JSON, where it differs from that of this process.

Slicer's launcher sets the paths of its own libraries, with which the ssh of the system would not start.
"""
_HOST = re.compile(r"[\w.@:/%+\[\]-]{1,255}", re.ASCII)
_OPTIONS = (
    *("BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=3", "ServerAliveCountMax=2"),
    # A forwarding of the user's configuration would open a port; a master connection would outlive the run.
    *("ClearAllForwardings=yes", "ControlMaster=no", "RemoteCommand=none"),
)


def check_host(host: str) -> str:
    """`host` as ssh takes it: a name, user@name, or ssh://user@name:port. Raises InputError for anything else.

    No name can be taken for an option, or be expanded by a shell in a ProxyCommand.
    """
    first = re.split("[@/]", host)
    if not _HOST.fullmatch(host) or host.startswith("-") or any(part.startswith("-") for part in first):
        raise InputError(
            f"'{shown(host)}' is not the name of a computer; give one such as gpu.example.org, user@gpu, or a Host of "
            "your ssh configuration."
        )
    return host


def check_python(python: str) -> str:
    """The interpreter on the other computer. Raises InputError for a text that cannot be a command."""
    if not python or not python.isprintable() or python.startswith("-"):
        raise InputError(f"'{shown(python)}' is not a Python interpreter; give one such as ~/venv/bin/python.")
    return python


def ssh_command(host: str, python: str = DEFAULT_PYTHON) -> list[str]:
    """The command that starts the agent on `host`. Raises InputError."""
    options = [word for option in _OPTIONS for word in ("-o", option)]
    return ["ssh", "-T", "-x", "-a", *options, "--", check_host(host), remote_command(check_python(python))]


def remote_command(python: str) -> str:
    """The agent's command for a POSIX shell; the interpreter is quoted, but ~/ stays the home folder."""
    quoted = '"$HOME"/' + shlex.quote(python[2:]) if python.startswith("~/") else shlex.quote(python)
    return f"exec {quoted} -X utf8 -m diffusion_segmentation remote-worker"


def ssh_environment() -> dict[str, str]:
    """The environment in which ssh is started."""
    stated = os.environ.get(ENVIRONMENT_VARIABLE)
    environment: dict[str, str] = json.loads(stated) if stated else dict(os.environ)
    environment.pop(ENVIRONMENT_VARIABLE, None)
    return environment


NO_SSH = "This computer has no ssh; install the OpenSSH client and try again."

# Words in the output of ssh or of the remote shell, and the sentence that says what to do.
_REASONS = (
    (
        "host key verification failed|remote host identification has changed|no .*host key is known",
        "'{host}' is not a known computer, or its key has changed; connect once with `ssh {host}` in a terminal and "
        "compare its key.",
    ),
    (
        "permission denied|too many authentication failures",
        "'{host}' did not accept a key; set one up so that `ssh {host}` in a terminal asks for no password.",
    ),
    (
        "could not resolve|name or service not known|no such host",
        "The computer '{host}' was not found; check its name, or your ssh configuration.",
    ),
    (
        "connection refused|timed out|no route to host|network is unreachable|host is down",
        "The computer '{host}' cannot be reached; check that it is on and that `ssh {host}` works in a terminal.",
    ),
    (
        "no module named '?diffusion_segmentation",
        "DiffusionSegmentation is not installed in '{python}' on '{host}'; install it there with pip, or name another "
        "Python.",
    ),
    (
        "invalid choice: '?remote-worker",
        "'{host}' has an older version of DiffusionSegmentation; install the same version on both sides.",
    ),
    (
        "not found|no such file or directory|is not recognized|unknown command",
        "There is no Python '{python}' on '{host}'; name an interpreter in which DiffusionSegmentation is installed.",
    ),
)


def explain(host: str, python: str, lines: Sequence[str], status: int | None) -> str:
    """Why the agent on `host` did not start, one sentence, from the lines that ssh wrote and its exit status."""
    text = "\n".join(lines).lower()
    for words, sentence in _REASONS:
        if re.search(words, text):
            return sentence.format(host=host, python=shown(python))
    last = next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {status}")
    return f"The background process on '{host}' could not start ({shown(last).rstrip('.')}); check `ssh {host}`."


def version_mismatch(host: str, theirs: str, ours: str) -> str:
    return (
        f"'{host}' has version {shown(theirs)} of DiffusionSegmentation and this computer has {ours}; install the same "
        "version on both sides."
    )


def lost(host: str) -> str:
    return (
        f"The connection to '{host}' was lost; what had finished is kept here, and nothing is left there. Start the "
        "run again."
    )


def ended(host: str, code: int) -> str:
    """Why the worker on `host` has ended with the exit status `code`."""
    if code == -9:  # SIGKILL
        return f"The background process on '{host}' was ended by its system, most likely because the memory ran out."
    return f"The background process on '{host}' ended unexpectedly (exit code {code}); its log says why."
