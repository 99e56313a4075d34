"""ruff and mypy report no findings with the settings in pyproject.toml, and texts can be translated."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def check(*command: str | Path) -> None:
    finished = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr


@pytest.mark.parametrize("command", ["check", "format --check"])
def test_ruff(command: str) -> None:
    check("ruff", *command.split(), "--quiet", "--no-cache", ROOT)


@pytest.mark.slow
def test_mypy(tmp_path: Path) -> None:
    check("mypy", "--cache-dir", tmp_path)


def test_lupdate_finds_all_texts() -> None:
    """It finds only constants, `_("...")`, and does not look into f-strings."""
    module = ROOT / "DiffusionSegmentation"
    lost = []
    for path in [module / "DiffusionSegmentation.py", *(module / "DiffusionSegmentationLib").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "_"]
        strings = [node for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)]
        nested = {id(part) for string in strings for part in ast.walk(string)}
        wrong = [call for call in calls if id(call) in nested or not isinstance(call.args[0], ast.Constant)]
        lost += [f"{path.name}:{call.lineno}" for call in wrong]
    assert lost == []
