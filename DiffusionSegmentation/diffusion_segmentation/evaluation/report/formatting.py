"""How scores look in words and tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ... import metrics

VERDICTS = {"holds": "holds", "fails": "does not hold", "open": "not decided", "fact": "measured"}
"""What a sentence says of what was asked for; a fact asks for nothing."""

GATED_SCORES = {
    "volume_variance_ratio": "volume variance ratio",
    "probability_rmse": "probability RMSE",
    "ged_u": "GED, unbiased",
    "chimera_share": "chimeras, share",
    "coverage": "90 % coverage",
}
KNOWN_SCORES = {
    "interval_50": "50 % intervals hold",
    "interval_80": "80 % intervals hold",
    "interval_90": "90 % intervals hold",
    "pit_50": "middle 50 % of the PIT",
    "pit_80": "middle 80 % of the PIT",
    "pit_90": "middle 90 % of the PIT",
    "ged_v": "GED, published form",
    "ged_floor": "floor of that form",
    "strays": "stray voxels a mask",
    "ece": "ECE of the map",
    "brier": "Brier score, debiased",
    "entropy_correlation": "entropy correlation",
    "risk": "risk, 1 - IoU",
    "e_aurc_threshold_mean": "E-AURC, mean entropy",
    "e_aurc_patch_max": "E-AURC, worst patch",
}
"""Scores on a task with a known answer that have no gate, in the order in which they are told."""

CLASS_SCORES = {
    "dice": ("Dice", 3),
    "nsd": ("NSD", 3),
    "hd95_mm": ("HD95, mm", 1),
    "volume_error_ml": ("volume error, ml", 2),
    "volume_error_percent": ("volume error, %, median size", 1),
    "lesion_f1": ("F1 of the parts", 3),
    "missed": ("missed, share", 2),
    "false": ("not there, share", 2),
    "ece": ("ECE near the structures", 3),
}
"""Scores of each class with a reference: heading and digits."""

MAP_SCORES = {
    "dice": "Dice, mean over the classes",
    "nsd": "NSD, mean over the classes",
    "ece": "ECE near the structures",
    "ece_everywhere": "ECE everywhere",
    "wrong": "wrong voxels near the structures, share",
    "error_auroc": "AUROC of entropy for wrong voxels",
    "error_aupr": "AUPR of entropy for wrong voxels",
    "aurc_threshold_mean": "AURC, mean entropy above 0.1 bits",
    "e_aurc_threshold_mean": "E-AURC, mean entropy above 0.1 bits",
    "aurc_patch_max": "AURC, most uncertain 10 mm",
    "e_aurc_patch_max": "E-AURC, most uncertain 10 mm",
}
RATER_SCORES = {
    "ged_u": "GED, unbiased",
    "ged_v": "GED as published, self-pairs included",
    "ged_floor": "floor of the published form",
    "hungarian_iou": "HM-IoU",
    "d_max": "D_max, Dice of the best sample",
}


def number(value: float | None, digits: int = 3) -> str:
    """A number with so many digits after the point; a dash where there is none. Never "-0.000"."""
    return "-" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def span(score: Mapping[str, Any], digits: int = 3) -> str:
    """The interval of a score, "0.94 to 1.00"; empty where there is none."""
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
    text = f"{100 * score['value']:.0f} %"
    if score.get("low") is None or score.get("high") is None:
        return text
    return f"{text} ({100 * score['low']:.0f} to {100 * score['high']:.0f} %)"


def one_in(share: float) -> str:
    """A share as people say it: "about 1 in 5"."""
    if share <= 0:
        return "none"
    if share > 0.4:
        return f"{100 * share:.0f} in 100"
    count = 1 / share
    rounded = round(count) if count < 20 else round(count, -1 if count < 200 else -2)
    return f"about 1 in {rounded:,.0f}"


def bounds(name: str) -> str:
    """Between which values a gate wants its score, in words."""
    low, high, _ = metrics.GATES[name]
    return f"at most {high:g}" if low <= 0 else f"{low:g} to {high:g}"
