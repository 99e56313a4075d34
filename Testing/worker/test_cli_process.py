"""The command as a process of its own, with the real engine and a tiny model."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ENGINE = Path(__file__).resolve().parents[2] / "DiffusionSegmentation"
COMMAND = [sys.executable, "-X", "utf8", "-m", "diffusion_segmentation"]


def run(*arguments: str | Path, packages: Path = ENGINE) -> subprocess.CompletedProcess[str]:
    """Run the command to its end; Python packages in `packages` come first."""
    command = [*COMMAND, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (packages, ENGINE)))}
    return subprocess.run(command, env=environment, capture_output=True, encoding="utf-8", timeout=60, check=False)


def test_segment_prints_nothing_but_json_on_stdout(tiny_model: Path, ball: Path, tmp_path: Path) -> None:
    output = tmp_path / "Ergebnis ü"
    # Python imports this by itself at its start: a library that prints when the program ends.
    noise = "import atexit, os\natexit.register(lambda: (print('noise'), os.write(1, b'noise\\n')))\n"
    (tmp_path / "sitecustomize.py").write_text(noise)
    arguments = ("segment", ball, "--model", tiny_model, "--samples", "2", "--output", output, "--json")
    answer = run(*arguments, packages=tmp_path)
    assert answer.returncode == 0, answer.stderr
    assert answer.stderr.count("noise") == 2
    assert json.loads(answer.stdout) == json.loads((output / "report.json").read_text(encoding="utf-8"))
    assert {path.name for path in output.iterdir()} == {"segmentation.seg.nrrd", "entropy.nrrd", "report.json"}
    assert "reading" in answer.stderr


def test_segment_for_a_person_names_volumes_and_folder(tiny_model: Path, ball: Path, tmp_path: Path) -> None:
    answer = run(
        "segment", ball, "--model", tiny_model, "--samples", "1", "--output", tmp_path / "out", "--keep-samples"
    )
    assert answer.returncode == 0, answer.stderr
    assert "Inner" in answer.stdout and "Outer" in answer.stdout and str(tmp_path / "out") in answer.stdout
    assert (tmp_path / "out" / "samples.seq.nrrd").is_file()
    assert (tmp_path / "out" / "probabilities.seq.nrrd").is_file()


def test_a_failure_is_one_sentence_on_stderr(tiny_model: Path, tmp_path: Path) -> None:
    answer = run("segment", tmp_path / "absent.nrrd", "--model", tiny_model, "--output", tmp_path / "out", "--json")
    assert (answer.returncode, answer.stdout) == (1, "")
    assert answer.stderr.splitlines()[-1].startswith("The volume 'absent.nrrd' does not exist")
    assert "Traceback" not in answer.stderr


@pytest.mark.skipif(os.name == "nt", reason="sends SIGINT as a POSIX terminal does")
def test_an_interrupt_cancels_and_leaves_no_half_file(tiny_model: Path, ball: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    arguments = ["segment", ball, "--model", tiny_model, "--samples", "100000", "--output", output]
    environment = {**os.environ, "PYTHONPATH": str(ENGINE)}
    with subprocess.Popen([*COMMAND, *map(str, arguments)], env=environment, stderr=subprocess.PIPE) as process:
        for line in process.stderr:
            if line.startswith(b"sampling"):
                break
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        assert process.stderr.read().strip().endswith(b"Cancelled.")
    assert process.returncode == 130
    assert not output.exists()


def test_help_and_wrong_usage_need_no_torch(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise SystemExit('torch was imported')")
    for arguments, status in (
        (["--help"], 0),
        (["segment", "--help"], 0),
        (["segment"], 2),
        (["segment", "a.nrrd", "--output", "o", "--samples", "0"], 2),
    ):
        answer = run(*arguments, packages=tmp_path)
        assert answer.returncode == status, answer.stderr


@pytest.mark.parametrize("command", ["train d", "evaluate m d", "study d", "calibrate m d"])
def test_in_slicer_the_commands_of_the_extra_name_the_packages(command: str, tmp_path: Path) -> None:
    """The extension installs the files that CMakeLists.txt lists: no training, evaluation, study and calibration."""
    listed = re.findall(r"^  (diffusion_segmentation/\S+\.py)$", (ENGINE / "CMakeLists.txt").read_text(), re.MULTILINE)
    for name in (*listed, "lightning.py", "matplotlib.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ENGINE / name, tmp_path / name) if name in listed else (tmp_path / name).touch()
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    words = [*COMMAND, *command.split(), "--output", str(tmp_path / "out")]
    answer = subprocess.run(words, env=environment, capture_output=True, encoding="utf-8", timeout=60, check=False)
    assert answer.returncode == 1 and answer.stderr.endswith("pip install 'diffusion-segmentation[train]'\n")
    assert answer.stderr.count("\n") == 1
