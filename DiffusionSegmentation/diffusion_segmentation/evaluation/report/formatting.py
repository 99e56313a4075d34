"""Titles of scores, and numbers with intervals as text."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ...runtime.units import VOLUMES, Units

VERDICTS = {"holds": "holds", "fails": "does not hold", "open": "not decided", "fact": "measured"}
"""Words of the verdict of a sentence; a fact has no requirement."""

GATED_SCORES = {
    "volume_variance_ratio": "volume variance ratio",
    "probability_rmse": "probability RMSE",
    "ged_u": "GED, unbiased",
    "chimera_share": "share of chimeras",
    "coverage": "90 % coverage",
}
KNOWN_SCORES = {
    **{f"interval_{level}": f"coverage of {level} % intervals" for level in (50, 80, 90)},
    **{f"pit_{level}": f"PIT in the middle {level} %" for level in (50, 80, 90)},
    "ged_v": "GED with self-pairs",
    "ged_floor": "floor of GED with self-pairs",
    "strays": "impossible voxels per mask",
    "ece": "ECE of the map",
    "brier": "Brier score, debiased",
    "entropy_correlation": "entropy correlation",
    "risk": "risk, 1 - IoU",
    "e_aurc_threshold_mean": "E-AURC, mean entropy",
    "e_aurc_patch_max": "E-AURC, most uncertain patch",
}
"""Scores without a gate on a task with a known answer, in the order of the table."""


def class_scores(units: Units = VOLUMES, finer: int = 0) -> dict[str, tuple[str, int]]:
    """Scores of each class: heading and digits, of lengths `finer` more than usual."""
    return {
        "dice": ("Dice", 3),
        "nsd": ("NSD", 3),
        f"hd95_{units.length}": (f"HD95 ({units.length})", 1 + finer),
        units.key("volume_error"): (f"{units.what} error ({units.symbol})", 2 + 2 * finer),
        "volume_error_percent": (f"median absolute {units.what} error (%)", 1),
        "lesion_f1": ("lesion-wise F1", 3),
        "missed": ("missed, share of cases", 2),
        "false": ("false, share of cases", 2),
        "ece": ("ECE near the structures", 3),
    }


def map_scores(units: Units = VOLUMES) -> dict[str, str]:
    """Scores of a whole map."""
    patch = "square of 10 working pixels" if units.is_area else "10 mm cube"
    return {
        "dice": "Dice, mean over classes",
        "nsd": "NSD, mean over classes",
        "ece": "ECE near the structures",
        "ece_everywhere": "ECE in the whole image",
        "wrong": f"share of wrong {units.cell}s near the structures",
        "error_auroc": f"AUROC of entropy for wrong {units.cell}s",
        "error_aupr": f"AUPR of entropy for wrong {units.cell}s",
        "aurc_threshold_mean": "AURC, mean entropy above 0.1 bits",
        "e_aurc_threshold_mean": "E-AURC, mean entropy above 0.1 bits",
        "aurc_patch_max": f"AURC, most uncertain {patch}",
        "e_aurc_patch_max": f"E-AURC, most uncertain {patch}",
    }


RATER_SCORES = {
    "ged_u": "GED, unbiased",
    "ged_v": "GED with self-pairs",
    "ged_floor": "floor of GED with self-pairs",
    "hungarian_iou": "HM-IoU",
    "d_max": "D_max, Dice of the best sample",
}


def finer_digits(evaluation: Mapping[str, Any]) -> int:
    """Digits by which lengths in mm of a picture need more than usual: its pixels can be of micrometres."""
    tolerance = evaluation.get("tolerance_mm", 1.0)
    return max(0, math.ceil(-math.log10(tolerance))) if evaluation.get("unit") == "mm2" else 0


def number(value: float | None, digits: int = 3) -> str:
    """A number with this many decimals; a dash for None. Never "-0.000"."""
    return "-" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def span(score: Mapping[str, Any], digits: int = 3) -> str:
    """The interval of a score, "0.94 to 1.00"; empty if there is none."""
    low, high = score.get("low"), score.get("high")
    return "" if low is None or high is None else f"{number(low, digits)} to {number(high, digits)}"


def shown(score: Mapping[str, Any], digits: int = 3) -> str:
    """A score with its interval, "0.97 (0.94 to 1.00)"."""
    interval = span(score, digits)
    return number(score["value"], digits) + (f" ({interval})" if interval else "")


def percent(score: Mapping[str, Any]) -> str:
    """A share with its interval, "82 % (70 to 92 %)"."""
    if score["value"] is None:
        return "-"
    interval = span({key: None if score.get(key) is None else 100 * score[key] for key in ("low", "high")}, 0)
    return f"{100 * score['value']:.0f} %" + (f" ({interval} %)" if interval else "")


def one_in(share: float) -> str:
    """A share as a frequency, "about 1 in 5"."""
    if share <= 0:
        return "none"
    if share > 0.4:
        return f"{100 * share:.0f} in 100"
    count = 1 / share
    rounded = round(count) if count < 20 else round(count, -1 if count < 200 else -2)
    return f"about 1 in {rounded:,.0f}"
