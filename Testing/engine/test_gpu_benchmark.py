"""The benchmark `gpu` on the CPU, on a stand-in for a graphics card, and on a machine without one."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gpu_standin import CARD

sys.path.append(str(Path(__file__).resolve().parents[1] / "benchmarks"))
import gpu


@pytest.fixture
def measured(a_head_file: Path, a_model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """The benchmark's exit status on a device, its tables, and all their rows."""
    monkeypatch.setattr(gpu, "REPEATS", 2)
    options = ["--model", str(a_model_folder), "--json", str(tmp_path / "found.json")]

    def go(device: str) -> tuple[int, dict[str, dict], dict[str, Any]]:
        status = gpu.main([str(a_head_file), *options, "--device", device])
        tables = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
        return status, tables, {name: value for rows in tables.values() for name, value in rows.items()}

    return go


@pytest.mark.slow
def test_the_benchmark_measures_all_quantities(measured: Callable, capsys: pytest.CaptureFixture) -> None:
    status, tables, rows = measured("cpu")
    printed = capsys.readouterr().out
    assert status == 0 and len(tables) == len(gpu.MEASUREMENTS) and all(name in printed for name in (*tables, *rows))
    assert all(math.isfinite(value) for value in rows.values() if not isinstance(value, str))
    agreement = tables[gpu.agreement.__doc__]
    assert {v for k, v in agreement.items() if "Dice" in k} == {1} and sum("sample" in k for k in agreement) == 8
    assert {v for k, v in agreement.items() if "difference" in k} == {0}
    assert rows["encoding, estimate [MB]"] > 0 and rows["8 samples against the direct head [times]"] > 1
    assert rows["direct head, bfloat16, mean difference"] > 0 == rows["sample, float32 without TF32, max difference"]


@pytest.mark.slow
def test_the_benchmark_runs_on_a_graphics_card(card: list, measured: Callable) -> None:
    status, tables, rows = measured("cuda")
    worker = tables.pop(gpu.worker.__doc__)  # a process of its own, which has no stand-in
    assert status == ("not measured" in worker) and not any("not measured" in table for table in tables.values())
    assert rows["samples drawn together"] == 8 and rows["Dice of sample 8"] > 0.999 and ("synchronize", CARD) in card
    assert rows["weights [MB]"] == 0.123456 and rows["device"].startswith("Stand-in")


def test_the_benchmark_without_a_graphics_card_ends_with_one_sentence(measured: Callable) -> None:
    with pytest.raises(SystemExit, match=r"^PyTorch \S+ .*: there is nothing to measure here\.$"):
        measured("cuda")
