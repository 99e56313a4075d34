"""ruff reports no findings with the settings in pyproject.toml."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("command", ["check", "format --check"])
def test_ruff(command: str) -> None:
    ruff = [sys.executable, "-m", "ruff", *command.split(), "--quiet", "--no-cache", ROOT]
    finished = subprocess.run(ruff, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stdout + finished.stderr
