"""How much memory there is, and how much a run takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from .errors import OutOfMemoryError

CONTROL_GROUPS = Path("/sys/fs/cgroup")


def require(needed: int, name: str, advice: str = "crop it or resample it first") -> None:
    """Raise OutOfMemoryError, one sentence with both figures, where `needed` bytes for `name` are not there."""
    free = available_memory()
    if free is not None and needed > free:
        raise OutOfMemoryError(
            f"{name} needs about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free; {advice}."
        )


def available_memory() -> int | None:
    """Bytes that a process can still get, on macOS all there are; None where the system does not tell."""
    try:
        if sys.platform == "win32":
            import ctypes

            # MEMORYSTATUSEX: two numbers of 32 bits, then seven of 64; the fourth of these can still be committed.
            status = (ctypes.c_uint64 * 8)(64)
            if not ctypes.windll.kernel32.GlobalMemoryStatusEx(status):
                return None
            return int(status[4])
        if sys.platform == "darwin":
            return int(subprocess.run(["sysctl", "-n", "hw.memsize"], capture_output=True, timeout=5).stdout)
        told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = sum(int(told[key].split()[0]) * 1024 for key in ("MemAvailable", "SwapFree"))
        return min([free, *_left_to_group()])
    except (OSError, ValueError, KeyError, subprocess.SubprocessError):
        return None


def _left_to_group() -> list[int]:
    """What a container or a job of a cluster may still take, bytes: of this process' control group and those above."""
    own = Path("/proc/self/cgroup").read_text().partition("0::/")[2].strip()
    left = []
    for folder in [CONTROL_GROUPS / own, *(CONTROL_GROUPS / own).parents]:
        if not folder.is_relative_to(CONTROL_GROUPS) or not (folder / "memory.max").is_file():
            continue
        most = (folder / "memory.max").read_text().strip()
        if most != "max":
            # Of what it holds, the files that were read long ago are given back when they are in the way.
            cached = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            held = int((folder / "memory.current").read_text()) - int(cached.get("inactive_file", 0))
            left.append(max(0, int(most) - held))
    return left
