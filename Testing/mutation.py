"""Changes the numeric core line by line and reports changes that no test detects: mutation testing with mutmut.

    pip install mutmut
    python Testing/mutation.py FOLDER [MODULE ...]   # such as diffusion/process; all of CORE take hours on one core
    cd FOLDER && mutmut results                      # what survived; `mutmut show NAME` is the change

The folder gets a copy of engine and tests, laid out as mutmut wants it: it names what it changes by the path below the
folder. A second call goes on where the first was stopped. Not part of the tests: a surviving change needs a person who
says whether it matters.
"""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENGINE = ROOT / "DiffusionSegmentation" / "diffusion_segmentation"

# Modules to change, and the tests that should detect it.
CORE = {
    "diffusion/process": ("process", "sampler"),
    "images/fill_value": ("fill",),
    "images/intensity": ("synthesis", "fill"),
    "segmentation/ensemble": ("ensemble",),
    "segmentation/sampler": ("sampler",),
    "diffusion/copula": ("copula",),
    "segmentation/input_volume": ("volume", "scene_source_file"),
    "images/label_file": ("label_file",),
    "metrics/joint": ("metrics_joint",),
    "metrics/intervals": ("metrics_intervals",),
    "metrics/conformal": ("metrics_conformal",),
    "metrics/calibration": ("metrics_calibration",),
    "metrics/distribution": ("metrics_distribution",),
    "metrics/accuracy": ("metrics_accuracy",),
    "metrics/uncertainty": ("metrics_uncertainty",),
    "training/loss": ("training_windows", "process"),
}

SETTINGS = """
[tool.pytest.ini_options]
pythonpath = [".", "Testing/engine"]
addopts = "--import-mode=importlib -p no:cacheprovider"

[tool.mutmut]
source_paths = ["diffusion_segmentation"]
only_mutate = {only}
also_copy = ["Testing"]
pytest_add_cli_args_test_selection = {tests}
"""


def main() -> int:
    folder, modules = Path(sys.argv[1]), sys.argv[2:] or list(CORE)
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for source, name in ((ENGINE, "diffusion_segmentation"), (ROOT / "Testing", "Testing")):
        shutil.copytree(source, folder / name, ignore=ignored, dirs_exist_ok=True)
    only = [f"diffusion_segmentation/{name}.py" for name in modules]
    tests = sorted({f"Testing/engine/test_{test}.py" for name in modules for test in CORE[name]})
    (folder / "pyproject.toml").write_text(SETTINGS.format(only=only, tests=tests), encoding="utf-8")
    return subprocess.call(["mutmut", "run", "--max-children", "1"], cwd=folder)


if __name__ == "__main__":
    sys.exit(main())
