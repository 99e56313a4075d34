"""How much memory there is, and how much a run takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ..errors import OutOfMemoryError

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
            return int(subprocess.check_output(["sysctl", "-n", "hw.memsize"], timeout=5))
        told = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        # Not the swap: a network whose weights and features are swapped takes hours for minutes.
        return min([int(told["MemAvailable"].split()[0]) * 1024, *_left_to_group()])
    except (OSError, ValueError, KeyError, subprocess.SubprocessError):
        return None


def _left_to_group() -> list[int]:
    """What a container or a job of a cluster may still take, bytes: of this process' control group and those above."""
    left = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, own = line.split(":", 2)
        if not controllers:
            left += _left_below(CONTROL_GROUPS, own, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):  # the first version of control groups
            names = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"
            left += _left_below(CONTROL_GROUPS / "memory", own, *names)
    return left


def _left_below(root: Path, own: str, limit: str, held: str, cached: str) -> list[int]:
    """Limit less use of a group and of those above it, as far as they can be seen from here."""
    left, folder = [], root / own.lstrip("/")
    for group in [folder, *folder.parents]:
        if not group.is_relative_to(root) or not (group / limit).is_file():
            continue
        most = (group / limit).read_text().strip()
        if most != "max":
            # Of what it holds, the files that were read long ago are given back when they are in the way.
            told = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
            left.append(max(0, int(most) - int((group / held).read_text()) + int(told.get(cached, 0))))
    return left
