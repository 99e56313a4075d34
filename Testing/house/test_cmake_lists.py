"""CMake lists every installed file: an unlisted one works from a checkout but is missing from the package."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "DiffusionSegmentation"
# Files that tools create, and CMakeLists.txt itself.
NOT_INSTALLED = re.compile(r"(^|/)(__pycache__|\.[^/]+|[^/]+\.egg-info|CMakeLists\.txt)(/|$)")
# Packages that neither Slicer nor its worker imports; `test_imports.py` checks that.
PIP_ONLY = re.compile(
    r"diffusion_segmentation/(calibration|cohort|evaluation|phantoms|study|training)/|\w+Lib/headless/"
)


def cmake_list(path: Path, variable: str) -> list[str]:
    """Entries of `set(<variable> ...)` in a CMakeLists.txt, with ${MODULE_NAME} replaced."""
    text = re.sub(r"#.*", "", path.read_text(encoding="utf-8"))
    entries = re.search(rf"^\s*set\({variable}\s+([^)]*)\)", text, re.MULTILINE)
    return entries.group(1).replace("${MODULE_NAME}", "DiffusionSegmentation").split() if entries else []


def tree() -> list[str]:
    files = (path.relative_to(MODULE).as_posix() for path in MODULE.rglob("*") if path.is_file())
    return [name for name in files if not NOT_INSTALLED.search(name) and not PIP_ONLY.match(name)]


@pytest.mark.parametrize(
    ("variable", "is_script"), [("MODULE_PYTHON_SCRIPTS", True), ("MODULE_PYTHON_RESOURCES", False)]
)
def test_module_lists_match_the_tree(variable: str, is_script: bool) -> None:
    listed = cmake_list(MODULE / "CMakeLists.txt", variable)
    present = [name for name in tree() if name.endswith(".py") == is_script]
    assert sorted(set(present) - set(listed)) == [], f"in the tree, not in {variable}"
    assert sorted(set(listed) - set(present)) == [], f"in {variable}, not in the tree"
    assert len(listed) == len(set(listed)), "listed twice"


def test_ctest_lists_every_layer() -> None:
    layers = {path.parent.name for path in (ROOT / "Testing").glob("*/test_*.py")}
    assert set(cmake_list(ROOT / "Testing" / "CMakeLists.txt", "layers")) == layers


def test_root_has_the_fields_of_the_extensions_index() -> None:
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert re.search(r"^project\(DiffusionSegmentation\)$", text, re.MULTILINE)
    for name in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        # The index parses these with a pattern that matches one line only.
        assert re.search(rf'^set\(EXTENSION_{name} "[^"\n]+"\)$', text, re.MULTILINE), f"EXTENSION_{name}"
    for url in re.findall(r"https://raw\S+?/main/([^\s\"]+)", text):
        assert (ROOT / url).is_file(), url


def test_catalog_entry_agrees_with_the_root() -> None:
    """Resources/DiffusionSegmentation.json is the entry for the Extensions Index; its schema allows no other keys."""
    entry = json.loads((ROOT / "Resources" / "DiffusionSegmentation.json").read_text(encoding="utf-8"))
    optional = {"build_dependencies", "build_subdirectory", "enabled", "scm_revision", "scm_type", "tier"}
    assert {"$schema", "category", "scm_url"} <= set(entry) <= {"$schema", "category", "scm_url"} | optional
    text = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    assert f'EXTENSION_HOMEPAGE "{entry["scm_url"].removesuffix(".git")}"' in text
    assert f'EXTENSION_DEPENDS "{" ".join(entry["build_dependencies"])}"' in text


@pytest.mark.parametrize(
    "path", ["DiffusionSegmentation.png", "DiffusionSegmentation/Resources/Icons/DiffusionSegmentation.png"]
)
def test_icon_is_128_pixels_square(path: str) -> None:
    header = (ROOT / path).read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    assert int.from_bytes(header[16:20], "big") == int.from_bytes(header[20:24], "big") == 128
