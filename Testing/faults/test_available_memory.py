"""Free memory of the machine, of control groups and of containers."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffusion_segmentation.runtime import memory

PROC = Path("/proc")
MEMINFO = "MemTotal: 8000 kB\nMemAvailable:    5000 kB\nSwapFree:    9000 kB\n"


def test_the_free_memory_of_this_computer_is_determined() -> None:
    assert 2**28 < memory.available_memory() < 2**50


@pytest.fixture
def proc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders that replace /proc and /sys/fs/cgroup."""

    class Rooted(type(tmp_path)):
        def __new__(cls, *parts: str) -> Path:
            whole = Path(*parts)
            return tmp_path / "proc" / whole.relative_to(PROC) if whole.is_relative_to(PROC) else whole

    (tmp_path / "proc" / "self").mkdir(parents=True)
    (tmp_path / "proc" / "meminfo").write_text(MEMINFO)
    (tmp_path / "proc" / "self" / "cgroup").write_text("")
    monkeypatch.setattr(memory, "Path", Rooted)
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path / "groups")
    return tmp_path


def test_swap_does_not_count_as_free_memory(proc: Path) -> None:
    assert memory.available_memory() == 5_000 * 1024


@pytest.mark.parametrize(
    ("line", "folder", "names"),
    [
        ("0::/job/step\n", "job/step", ("memory.max", "memory.current", "inactive_file")),
        ("0::/job/step\n", "job", ("memory.max", "memory.current", "inactive_file")),
        (
            "9:cpu,memory:/slurm/7\n1:pids:/x\n0::/\n",
            "memory/slurm/7",
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ),
        # In a container of the first version the path is that of the host, and the mount shows the group as the root.
        ("4:memory:/docker/abc\n", "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")),
    ],
)
def test_control_groups_of_both_versions_count(proc: Path, line: str, folder: str, names: tuple[str, ...]) -> None:
    (proc / "proc" / "self" / "cgroup").write_text(line)
    group = proc / "groups" / folder
    group.mkdir(parents=True)
    limit, held, cached = names
    (group / limit).write_text("4000000\n")
    (group / held).write_text("3000000\n")
    (group / "memory.stat").write_text(f"cache 5\n{cached} 500000\n")
    assert memory.available_memory() == 1_500_000
    (group / limit).write_text("9223372036854771712\n")
    assert memory.available_memory() == 5_000 * 1024


def test_free_memory_in_a_container_is_limited_by_its_control_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = Path(Path("/proc/self/cgroup").read_text().partition("0::/")[2].strip())
    folder = tmp_path / group
    folder.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(memory, "CONTROL_GROUPS", tmp_path)
    whole = memory.available_memory()
    for name, text in (("max", "50000000"), ("current", "30000000"), ("stat", "anon 5\ninactive_file 10000000\n")):
        (folder / f"memory.{name}").write_text(text)
    assert memory.available_memory() == 30_000_000
    (folder / "memory.max").write_text("max\n")
    assert memory.available_memory() == pytest.approx(whole, rel=0.2)
