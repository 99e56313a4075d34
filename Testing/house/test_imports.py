"""Imports run downwards only, and the Slicer side imports nothing of the engine but SHARED_MODULES.

Read from the source: an import inside a function counts too, one under TYPE_CHECKING does not.
Documentation/architecture.md describes the packages in the same order.
"""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "DiffusionSegmentation"
ENGINE = "diffusion_segmentation"
LIB = "DiffusionSegmentationLib"

# Import order, top first; a name is a module or a package. Names in one row do not import each other.
ENGINE_LAYERS = (
    "__main__",
    "cli",
    "cohort",
    "study",
    "evaluation",
    "calibration",
    "training",
    "remote",
    "worker",
    "any_model",
    "nnunet monai_bundle",
    "masks",
    "segmentation",
    "model",
    "networks",
    "diffusion images",
    "measurements dicom",
    "arguments metrics phantoms runtime",
    "option_groups remote_options",
    "errors option_values",
)
LIB_LAYERS = (
    "panel headless",
    "report",
    "runs",
    "review",
    "scene",
    "signals i18n coalescing_thread",
)
# Packages that need the extra [train]; segmenting needs none of them.
TRAINING_PACKAGES = {"training", "calibration", "evaluation", "study"}
# Modules of the engine that Slicer's own process, or the demo, imports, and what they load beyond the standard library.
SHARED_MODULES = {
    f"{ENGINE}.worker.protocol": set(),
    f"{ENGINE}.errors": set(),
    f"{ENGINE}.remote.hosts": set(),
    f"{ENGINE}.images.input_names": set(),
    f"{ENGINE}.measurements.table": set(),
    f"{ENGINE}.arguments": set(),
    f"{ENGINE}.runtime.entropy_colors": set(),
    f"{ENGINE}.runtime.html_page": set(),
    f"{ENGINE}.runtime.locations": set(),
    f"{ENGINE}.segmentation.alternatives": {"numpy"},
    f"{ENGINE}.segmentation.uncertain_regions": {"numpy"},
}


def sources(package: str) -> list[Path]:
    return sorted((MODULE / package).rglob("*.py"))


def top_level(path: Path) -> str:
    """Module or package below the top package that a file belongs to: `networks` for networks/encoder.py."""
    return path.relative_to(MODULE).with_suffix("").parts[1]


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Yields (full dotted name, line) of everything that a file imports."""
    package = path.relative_to(MODULE).parent.parts
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if node in for_types:
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def forbidden_imports(files: list[Path], forbidden: set[str]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in files
        for name, line in imports(path)
        if name.split(".")[0] in forbidden
    ]


def test_every_module_is_in_a_row() -> None:
    for package, layers in ((ENGINE, ENGINE_LAYERS), (LIB, LIB_LAYERS)):
        names = {top_level(path) for path in sources(package)} - {"__init__"}
        assert names - set(" ".join(layers).split()) == set(), "add it to a row of this file"


@pytest.mark.parametrize(("title", "layers"), [("engine package", ENGINE_LAYERS), ("Slicer-side package", LIB_LAYERS)])
def test_architecture_page_lists_the_packages_in_import_order(title: str, layers: tuple[str, ...]) -> None:
    page = (ROOT / "Documentation" / "architecture.md").read_text(encoding="utf-8")
    table = page.partition(f"| {title} | content |\n| --- | --- |\n")[2].partition("\n\n")[0]
    rows = [re.findall(r"`(\w+)`", line.split("|")[1]) for line in table.splitlines()]
    assert [set(row) for row in rows] == [set(layer.split()) for layer in layers]


@pytest.mark.parametrize(("package", "layers"), [(ENGINE, ENGINE_LAYERS), (LIB, LIB_LAYERS)])
def test_imports_run_downwards(package: str, layers: tuple[str, ...]) -> None:
    height = {name: -index for index, layer in enumerate(layers) for name in layer.split()}
    upward = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sources(package)
        for name, line in imports(path)
        if name.startswith(f"{package}.")
        and (target := name.split(".")[1]) in height
        and target != top_level(path)
        and height[target] >= height.get(top_level(path), 1)
    ]
    assert upward == []


def test_slicer_side_never_imports_torch() -> None:
    files = [MODULE / "DiffusionSegmentation.py", *sources(LIB)]
    assert forbidden_imports(files, {"torch", "monai", "safetensors", "skimage"}) == []


def test_engine_never_imports_slicer() -> None:
    assert forbidden_imports(sources(ENGINE), {"slicer", "qt", "ctk", "vtk", "vtkmodules", LIB}) == []


def test_only_the_panel_needs_qt() -> None:
    files = [path for path in sources(LIB) if top_level(path) != "panel"]
    assert forbidden_imports(files, {"qt", "ctk", "PythonQt", "PySide6"}) == []


def test_slicer_side_imports_only_shared_modules_of_the_engine() -> None:
    other = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in [MODULE / "DiffusionSegmentation.py", *sources(LIB)]
        for name, line in imports(path)
        if name.split(".")[0] == ENGINE and not any(f"{name}.".startswith(f"{module}.") for module in SHARED_MODULES)
    ]
    assert other == []


@pytest.mark.parametrize("module", sorted(SHARED_MODULES))
def test_shared_modules_load_little(module: str) -> None:
    check = (
        f"import sys; before = set(sys.modules); import {module};"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before} - sys.stdlib_module_names))"
    )
    answer = subprocess.run([sys.executable, "-c", check], cwd=MODULE, capture_output=True, text=True, check=True)
    assert set(answer.stdout.split()) == {ENGINE} | SHARED_MODULES[module]


def test_only_the_command_imports_cohorts() -> None:
    others = [path for path in sources(ENGINE) if top_level(path) not in ("cli", "cohort")]
    assert [f"{path}:{line}" for path in others for name, line in imports(path) if f"{ENGINE}.cohort" in name] == []


def test_dependencies_are_what_the_engine_imports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    always, training, nnunet, dicom, cohort = (
        {name.split(">")[0].strip() for name in names}
        for names in (project["dependencies"], *(extras[extra] for extra in ("train", "nnunet", "dicom", "cohort")))
    )
    distribution = {"skimage": "scikit-image", "dynamic_network_architectures": "nnunetv2"}  # a dependency of nnunetv2
    foreign: dict[str, set[str]] = {"": set(), "train": set(), "nnunet": set(), "dicom": set(), "cohort": set()}
    for path in sources(ENGINE):
        # atlas.py runs in an environment of its own, the only one that holds samseg.
        if path.name != "atlas.py":
            names = {name.split(".")[0] for name, _ in imports(path)} - sys.stdlib_module_names - {ENGINE}
            package = top_level(path)
            extra = "train" if package in TRAINING_PACKAGES else package if package in foreign else ""
            foreign[extra] |= {distribution.get(name, name) for name in names}
    assert foreign[""] == always
    assert foreign["train"] - always == training
    assert foreign["nnunet"] - always == nnunet
    assert foreign["dicom"] - always == dicom
    assert foreign["cohort"] - always == cohort


def test_slicer_installs_what_the_wheel_depends_on() -> None:
    """All but torch, which only the PyTorch extension may install into Slicer."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = (MODULE / "Resources" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    requirements = {line for line in lines if line and not line.startswith("#")}
    assert requirements == {name for name in project["dependencies"] if not name.startswith("torch")}
