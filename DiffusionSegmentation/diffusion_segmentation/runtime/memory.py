"""Available main memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from ..errors import OutOfMemoryError

CONTROL_GROUPS = Path("/sys/fs/cgroup")


def require(needed: int, name: str, advice: str = "crop it or resample it first") -> None:
    """Raise OutOfMemoryError if fewer than `needed` bytes are available for `name`."""
    free = available_memory()
    if free is not None and needed > free:
        raise OutOfMemoryError(
            f"{name} needs about {needed / 1e9:.1f} GB of memory and {free / 1e9:.1f} GB are free; {advice}."
        )


def available_memory() -> int | None:
    """Bytes that this process can still allocate, on macOS the total memory; None if the system does not report it."""
    try:
        if sys.platform == "win32":
            import ctypes

            # MEMORYSTATUSEX: two 32-bit numbers, then seven of 64 bits; the fourth of these is the available commit.
            status = (ctypes.c_uint64 * 8)(64)
            if not ctypes.windll.kernel32.GlobalMemoryStatusEx(status):
                return None
            return int(status[4])
        if sys.platform == "darwin":
            return int(subprocess.check_output(["sysctl", "-n", "hw.memsize"], timeout=5))
        meminfo = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        # Without swap: a network whose weights and features are swapped out takes hours instead of minutes.
        return min([int(meminfo["MemAvailable"].split()[0]) * 1024, *_available_in_cgroups()])
    except (OSError, ValueError, KeyError, subprocess.SubprocessError):
        return None


def _available_in_cgroups() -> list[int]:
    """Bytes below the memory limits of this process's control groups (container, cluster job) and their parents."""
    available, version1 = [], ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if not controllers:
            available += _available_in(CONTROL_GROUPS, group, "memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            available += _available_in(CONTROL_GROUPS / "memory", group, *version1)
    return available


def _available_in(root: Path, group: str, limit: str, usage: str, cached: str) -> list[int]:
    """Limit minus usage of a group and its parents, as far as they are visible in this namespace."""
    available, folder = [], root / group.lstrip("/")
    for path in [folder, *folder.parents]:
        if not path.is_relative_to(root) or not (path / limit).is_file():
            continue
        maximum = (path / limit).read_text().strip()
        if maximum != "max":
            # The usage includes cached files; the kernel evicts inactive ones.
            stat = dict(line.split() for line in (path / "memory.stat").read_text().splitlines())
            used = int((path / usage).read_text()) - int(stat.get(cached, 0))
            available.append(max(0, int(maximum) - used))
    return available
