"""Options of runs on another computer, and the commands that other programs start."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def add_host(command: argparse.ArgumentParser, required: bool = False) -> None:
    """Add --host and --host-python."""
    text = "segment on this computer, which `ssh` reaches without a password; the volume is sent there"
    command.add_argument("--host", metavar="HOST", required=required, help=text)
    python = "Python there, with DiffusionSegmentation, default: %(default)s"
    command.add_argument("--host-python", metavar="PYTHON", default="python3", help=python)


def add_processes(add_command: Callable[[str, str], argparse.ArgumentParser]) -> None:
    """Add the commands for the background processes."""
    add_command("worker", "serve 3D Slicer as its background process")
    add_host(add_command("relay", "the same by a worker on another computer"), required=True)
    add_command("remote-worker", "serve a relay; `ssh` starts it")
