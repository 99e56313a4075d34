"""A built wheel segments without the checkout, in an environment of its own."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "DiffusionSegmentation"
PACKAGES = ("diffusion_segmentation", "DiffusionSegmentationLib")
LEFT_BY_TOOLS = ("__pycache__", ".ruff_cache", "*.egg-info")
# Without this interpreter's search path and the thread limit of the tests.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "OMP_"))}


def run(*command: str | Path, cwd: Path) -> str:
    finished = subprocess.run(command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from a copy, because a build writes files beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    shutil.copytree(MODULE, source / MODULE.name, ignore=shutil.ignore_patterns(*LEFT_BY_TOOLS))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    build = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    run(sys.executable, *build, "--wheel-dir", folder, source, cwd=folder)
    return next(folder.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the executables of a new environment with the wheel.

    torch and the other dependencies come from this environment through a .pth file; .pth files in that path are not
    processed, so that its link to the checkout has no effect.
    """
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False)
    variables = {"base": str(folder), "platbase": str(folder)}
    (Path(sysconfig.get_path("purelib", "venv", variables)) / "dependencies.pth").write_text(
        sysconfig.get_path("purelib")
    )
    executables = Path(sysconfig.get_path("scripts", "venv", variables))
    python = executables / ("python.exe" if os.name == "nt" else "python")
    install = ("install", "--quiet", "--no-deps", "--no-index", "--ignore-installed")
    run(sys.executable, "-m", "pip", "--python", python, *install, wheel, cwd=folder)
    location = run(python, "-c", "import diffusion_segmentation; print(diffusion_segmentation.__file__)", cwd=folder)
    assert Path(location.strip()).is_relative_to(folder)
    return executables


def test_wheel_contains_both_packages(wheel: Path) -> None:
    contained = {name for name in zipfile.ZipFile(wheel).namelist() if name.split("/")[0] in PACKAGES}
    files = {
        path.relative_to(MODULE).as_posix()
        for package in PACKAGES
        for path in (MODULE / package).rglob("*")
        if path.is_file() and not set(LEFT_BY_TOOLS) & set(path.parts)
    }
    assert contained == files


@pytest.mark.slow
def test_segments_without_the_checkout(installed: Path, tmp_path: Path) -> None:
    head = np.zeros((40, 48, 40), np.float32)
    z, y, x = np.ogrid[-1:1:40j, -1:1:48j, -1:1:40j]
    for radius, intensity in ((0.9, 300), (0.8, 40), (0.7, 200), (0.5, 260)):
        head[z**2 + y**2 + x**2 < radius**2] = intensity
    volume = sitk.GetImageFromArray(head + np.random.default_rng(0).normal(0, 5, head.shape).astype(np.float32))
    volume.SetSpacing((4.0, 4.0, 4.0))
    sitk.WriteImage(volume, tmp_path / "head.nrrd")

    command = installed / "diffusion-segmentation"
    models = json.loads(run(command, "models", "--json", cwd=tmp_path))
    assert "brain-structures" in str(models)
    run(command, "segment", "head.nrrd", "--samples", "1", "--steps", "2", "--output", "result", cwd=tmp_path)

    written = {path.name for path in (tmp_path / "result").iterdir()}
    assert {"segmentation.seg.nrrd", "entropy.nrrd", "report.json"} <= written
    entropy = sitk.ReadImage(tmp_path / "result" / "entropy.nrrd")
    assert entropy.GetSize() == volume.GetSize() and entropy.GetSpacing() == volume.GetSpacing()


def test_has_the_command_demo(installed: Path, tmp_path: Path) -> None:
    assert "--volume" in run(installed / "diffusion-segmentation", "demo", "--help", cwd=tmp_path)
