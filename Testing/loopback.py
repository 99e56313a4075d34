"""A real `sshd` on 127.0.0.1 with keys of its own, and a stand-in for the Python of another computer.

`ssh loopback` reaches it while `bin` is first in PATH: there `ssh` is the system's, with a configuration of the tests.
Processes of the "other computer" have a mark in their environment, and its files lie in a folder of their own.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

TESTING = Path(__file__).resolve().parent
ENGINE = TESTING.parent / "DiffusionSegmentation"
FAKE_ENGINE = TESTING / "worker" / "fake_worker.py"
GREETING = "Welcome to the other computer"
MARK = "LOOPBACK_MARK"


def missing() -> str:
    """Why there is no loopback here; "" if there can be one."""
    if os.name != "posix":
        return "the sshd of the tests needs POSIX"
    if _sshd() is None or shutil.which("ssh") is None:
        return "sshd is not installed (openssh-server)"
    return ""


def _sshd() -> str | None:
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


class Loopback:
    """The other computer; `host` and `python` are what a user would give."""

    host = "loopback"

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.there, self.bin = folder / "there", folder / "bin"
        self.temporary, self.models = self.there / "tmp", self.there / "models"
        for path in (self.temporary, self.bin):
            path.mkdir(parents=True)
        self.python = str(self.bin / "Python of the host")
        self.configuration = folder / "config"
        self._log = folder / "sshd.log"
        self._start()
        self.configure()

    def configure(self, worker: tuple[Path | str, ...] = (), **variables: str) -> None:
        """Choose the script, with its arguments, that takes the place of the worker there."""
        environment = {
            "PYTHONPATH": f"{TESTING / 'remote_site'}:{ENGINE}",
            "DIFFUSION_SEGMENTATION_MODELS": str(self.models),
            "TMPDIR": str(self.temporary),
            "OMP_NUM_THREADS": "1",
            MARK: str(self.folder),
            "LOOPBACK_WORKER": "|".join(map(str, worker)),
            **variables,
        }
        lines = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
        lines = ["#!/bin/sh", *lines, f'exec {shlex.quote(sys.executable)} "$@"']
        self._script(Path(self.python), "\n".join(lines))

    def processes(self) -> list[int]:
        """Processes of the other computer."""
        mark, found = f"{MARK}={self.folder}".encode(), []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                running = (entry / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
                if running and mark in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def files(self) -> list[Path]:
        """Files of the other computer, without the models that were sent."""
        return [*self.temporary.rglob("*"), *self.there.glob("received/.part-*")]

    def leaves_nothing(self, seconds: float = 10.0) -> float:
        """How long it took until neither processes nor files were left; raises AssertionError after `seconds`."""
        start = time.monotonic()
        while self.processes() or self.files():
            waited = time.monotonic() - start
            assert waited < seconds, (self.processes(), self.files())
            time.sleep(0.05)
        return time.monotonic() - start

    def clients(self) -> list[int]:
        """Processes of `ssh` that this loopback's relays have started."""
        return self._with_argument(str(self.configuration), "ssh")

    def sessions(self) -> list[int]:
        """Processes of `sshd` that serve a connection."""
        children = Path(f"/proc/{self._server.pid}/task/{self._server.pid}/children")
        return [int(text) for text in children.read_text().split()]

    def close(self) -> None:
        for process in self.sessions():
            with contextlib.suppress(OSError):
                os.kill(process, 9)
        self._server.terminate()
        self._server.wait(5)

    def _with_argument(self, argument: str, program: str) -> list[int]:
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if Path(os.fsdecode(words[0])).name == program and argument.encode() in words:
                    found.append(int(entry.name))
        return found

    def _script(self, path: Path, text: str) -> None:
        path.write_text(f"{text}\n")
        path.chmod(0o755)

    def _start(self) -> None:
        for key in ("host-key", "user-key", "other-key"):
            make = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.folder / key)]
            subprocess.run(make, check=True)
        shutil.copy(self.folder / "user-key.pub", self.folder / "authorized")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        # A login shell that prints a greeting before the command.
        self._script(self.folder / "shell", f'#!/bin/sh\necho "{GREETING}"\nexec sh -c "$SSH_ORIGINAL_COMMAND"')
        server = {
            "Port": self.port,
            "ListenAddress": "127.0.0.1",
            "HostKey": self.folder / "host-key",
            "AuthorizedKeysFile": self.folder / "authorized",
            "PidFile": "none",
            "StrictModes": "no",
            "UsePAM": "no",
            "PasswordAuthentication": "no",
            "KbdInteractiveAuthentication": "no",
            "PermitRootLogin": "prohibit-password",
            "ForceCommand": self.folder / "shell",
        }
        (self.folder / "sshd_config").write_text("".join(f"{key} {value}\n" for key, value in server.items()))
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # for the separation of privileges
        host_key = (self.folder / "host-key.pub").read_text().split()
        known = f"[127.0.0.1]:{self.port} {host_key[0]} {host_key[1]}\n"
        (self.folder / "known").write_text(known)
        self.write_configuration()
        self._script(self.bin / "ssh", f'#!/bin/sh\nexec {shutil.which("ssh")} -F {self.configuration} "$@"')
        with self._log.open("wb") as log:
            arguments = [str(_sshd()), "-D", "-e", "-f", str(self.folder / "sshd_config")]
            self._server = subprocess.Popen(arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while not self._answers():
            assert self._server.poll() is None and time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.05)

    def write_configuration(self, **changed: object) -> None:
        """Write the client's configuration; `changed` are other values than the right ones."""
        client = {
            "HostName": "127.0.0.1",
            "Port": self.port,
            "User": getpass.getuser(),
            "IdentityFile": self.folder / "user-key",
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": self.folder / "known",
            "StrictHostKeyChecking": "yes",
            **changed,
        }
        lines = [f"Host {self.host}", *(f"  {key} {value}" for key, value in client.items())]
        self.configuration.write_text("\n".join(lines) + "\n")

    def _answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False
