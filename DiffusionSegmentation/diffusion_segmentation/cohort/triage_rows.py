"""What the triage page knows of each finished case, and the order of the cases."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

Row = dict[str, Any]
"""Entries of one case in `triage.json`. "written_ns" is when its report was written; "structures" has a row for each
structure, see `_structure`; "expected_dice" is null without two samples, "distance", "limit" and "unlike" are null
without an input check, "peak_ras_mm" is the most uncertain place, null if there is no uncertain region."""


def read_row(case: Mapping[str, Any], path: Path) -> Row:
    """The row of a finished `case` of the index from its report. Raises OSError, ValueError, LookupError, TypeError."""
    report = json.loads(path.read_text(encoding="utf-8"))
    found, unit = report["input"], report.get("unit", "ml")
    regions = report["regions"]
    return {
        "key": case["key"],
        "case": case["case"],
        "model": report["model"]["name"],
        "written_ns": path.stat().st_mtime_ns,
        "expected_dice": report.get("expected_dice"),
        "distance": found.get("distance"),
        "limit": found.get("limit"),
        "unlike": found.get("unlike_training"),
        "series_uid": found.get("series_uid"),
        "max_entropy_bits": report["max_entropy_bits"],
        "unit": unit,
        "peak_ras_mm": regions[0]["peak_ras_mm"] if regions else None,
        "region": [part["name"] for part in regions[0]["classes"]] if regions else [],
        "structures": [_structure(volume, unit) for volume in report["volumes"]],
    }


def _structure(volume: Mapping[str, Any], unit: str) -> Row:
    """Size, intervals and precision weight of a structure; sizes in `unit`, the weight in its inverse square."""
    samples = volume.get(f"samples_{unit}") or []
    are_draws = f"range_{unit}" not in volume and len(samples) > 1
    variance = float(np.var(samples, ddof=1)) if are_draws else 0.0
    weight = 1 / variance if variance else math.inf
    return {
        "name": volume["name"],
        "size": volume[f"expected_{unit}"],
        "mask": volume[f"consensus_{unit}"],
        "interval50": volume.get(f"interval50_{unit}"),
        "interval90": volume.get(f"interval90_{unit}"),
        "precision_weight": float(f"{weight:.6g}") if math.isfinite(weight) else None,
        "expected_dice": volume.get("expected_dice"),
    }


def by_expected_dice(rows: Sequence[Row]) -> list[Row]:
    """The cases by expected Dice, lowest first; those without one come last, in their order."""
    return sorted(rows, key=_dice)


def by_input_check(rows: Sequence[Row]) -> list[Row]:
    """Cases with a warned scan first, then by expected Dice."""
    return sorted(rows, key=lambda row: (not row["unlike"], _dice(row)))


def _dice(row: Row) -> float:
    return math.inf if row["expected_dice"] is None else row["expected_dice"]
