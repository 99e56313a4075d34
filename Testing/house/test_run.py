"""run.py installs once, finds a CPU build of torch, and runs the layers."""

import importlib.util
import os
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

RUN = Path(__file__).resolve().parents[1] / "run.py"


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """run.py with an environment in a temporary folder; `script.calls` records the commands that it would start."""
    spec = importlib.util.spec_from_file_location("run", RUN)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    environment = module.Environment(tmp_path / ".venv", tmp_path / "constraints.txt")
    environment.folder.mkdir()
    environment.constraints.write_text("numpy==2.4.6\ntorch==2.13.0\n")
    monkeypatch.setattr(module, "MAIN", environment)
    monkeypatch.setattr(module.sys, "platform", "linux")
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    module.calls, module.no_local_torch = [], False

    def run(*command: object, quiet: bool = False) -> int:
        module.calls.append(" ".join(str(part) for part in command[1:]))
        return int(module.no_local_torch and "--no-index" in command)

    monkeypatch.setattr(module, "run", run)
    return module


def test_a_second_run_installs_nothing(script: ModuleType) -> None:
    script.prepare(script.MAIN, "demo", ["--editable", "."])
    assert script.calls[-2].endswith("--editable .") and "compileall" in script.calls[-1]
    script.calls.clear()
    script.prepare(script.MAIN, "demo", ["--editable", "."])
    assert script.calls == []


def test_a_changed_pin_installs_again(script: ModuleType) -> None:
    script.prepare(script.MAIN, "demo", ["--editable", "."])
    script.calls.clear()
    script.MAIN.constraints.write_text("numpy==2.4.7\ntorch==2.13.0\n")
    script.prepare(script.MAIN, "demo", ["--editable", "."])
    assert script.calls != []


def test_a_failed_install_leaves_no_stamp(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "run", lambda *command, quiet=False: int("--editable" in command))
    with pytest.raises(SystemExit, match="could not be installed"):
        script.prepare(script.MAIN, "demo", ["--editable", "."])
    assert list(script.MAIN.folder.glob("installed-*")) == []


def test_a_local_torch_is_taken_without_asking_the_network(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script.subprocess, "run", pytest.fail)
    script.install_torch(script.MAIN)
    assert script.calls == ["-m pip install --no-compile --no-deps --no-index torch==2.13.0"]


def test_linux_takes_the_cpu_build_from_pytorch(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    script.no_local_torch = True
    answer = subprocess.CompletedProcess([], 0, stdout="Available versions: 2.14.0+cpu, 2.13.0+cpu")
    monkeypatch.setattr(script.subprocess, "run", lambda *_, **__: answer)
    script.install_torch(script.MAIN)
    assert script.calls[-1].endswith("torch==2.13.0+cpu --index-url https://download.pytorch.org/whl/cpu")


def test_an_unreachable_index_costs_30_seconds_and_no_failure(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    script.no_local_torch = True

    def unreachable(command: list[str], *, timeout: float, **_: object) -> None:
        assert timeout <= 30
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(script.subprocess, "run", unreachable)
    script.install_torch(script.MAIN)
    assert len(script.calls) == 1
    assert "cannot be reached" in capsys.readouterr().out


def test_other_systems_leave_torch_to_pypi(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    script.no_local_torch = True
    monkeypatch.setattr(script.sys, "platform", "darwin")
    script.install_torch(script.MAIN)
    assert len(script.calls) == 1


def test_a_machine_with_an_nvidia_gpu_takes_the_cuda_build(script: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    script.no_local_torch = True
    monkeypatch.setattr(script.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(script.subprocess, "run", pytest.fail)
    script.install_torch(script.MAIN)
    assert len(script.calls) == 1


@pytest.mark.parametrize(("version", "needs_311"), [((3, 9), False), ((3, 13), False), ((3, 12), True)])
def test_another_python_is_refused_in_one_sentence(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, version: tuple[int, int], needs_311: bool
) -> None:
    monkeypatch.setattr(script.sys, "version_info", version)
    with pytest.raises(SystemExit, match=r"^This needs Python 3\.11.*; .* is Python 3\.\d+\.$"):
        script.check_python(needs_311)


def test_missing_libraries_end_with_the_packages_to_install(script: ModuleType) -> None:
    with pytest.raises(SystemExit, match=r"^This Linux lacks libNoSuch\.so\.1; .* apt install libegl1 "):
        script.check_libraries(("libNoSuch.so.1",))


def test_the_atlas_is_converted_by_a_script_that_exists(script: ModuleType) -> None:
    assert script.ATLAS.is_file()


@pytest.mark.parametrize(("layer", "per_core"), [("worker", 1), ("panel", 2)])
def test_fast_skips_slow_tests_and_uses_all_cores(script: ModuleType, layer: str, per_core: int) -> None:
    assert script.run_layers(["--fast", layer, "-k", "cancel"]) == 0
    (command,) = script.calls
    options = f"--dist worksteal --numprocesses {per_core * os.cpu_count()} -m not slow --timeout 60"
    assert command.endswith(f"{layer} {options} -k cancel")


def test_all_tests_run_without_fast(script: ModuleType) -> None:
    assert script.run_layers([]) == 0
    how = {Path(command.partition(" --dist ")[0].split()[-1]).name: command.split()[-3:] for command in script.calls}
    assert list(how) == ["engine", "faults", "house", "mrml", "panel", "worker"]
    assert how["faults"][0] == "loadfile" and how["worker"] == ["worksteal", "--numprocesses", str(os.cpu_count())]
    assert how["panel"][-1] == str(2 * os.cpu_count()) and how["engine"][-1] == str(os.cpu_count() + 1)
    assert "slow" not in "".join(script.calls)


@pytest.mark.parametrize(("arguments", "status"), [([], 2), (["unknown"], 2), (["reference"], 2), (["--help"], 0)])
def test_usage(script: ModuleType, arguments: list[str], status: int) -> None:
    assert script.main(arguments) == status
    assert script.calls == []
