"""ruff and mypy report no findings with the settings in pyproject.toml."""

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
