"""From the records of a phantom's cases to scores with intervals, and whether they pass their gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ... import metrics
from ..pooling import Score, diagram, pooled_ece, score
from .posterior import GROUP, LEVELS, TRUTHS
from .samplers import CONTROLS, EXACT

COARSE = 0.25
"""A volume with a single value of such a probability or more has no interval of 90 %."""
CONFIDENCES = ("threshold_mean", "patch_max")


def summarise(records: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """For each row {"scores", "gates", "failures", "reliability", "ranks", "risk_coverage"}; see `_scores`."""
    rows = {}
    for key in records[0]["rows"]:
        mine = [record["rows"][key] for record in records]
        scores = _scores(records, mine)
        gates = {name: _verdict(name, scores[name]) for name in metrics.GATES if name in scores}
        values = {name: np.nan if scores[name]["value"] is None else scores[name]["value"] for name in gates}
        rows[key] = {
            "scores": scores,
            "gates": gates,
            "failures": metrics.check(values),
            "reliability": diagram([row["calibration"] for row in mine]),
            "risk_coverage": _risk_coverage(mine),
        }
        if "ranks" in mine[0]:
            rows[key]["ranks"] = _by_class(records, [row["ranks"] for row in mine]).mean(0).tolist()
    return rows


def ideal(records: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
    """What the exact posterior itself scores where that is not 0 or 1: no model can do better in the mean."""
    cases = [record["case"] for record in records]
    return {
        "brier": score([[0.0, 0.0, case["open"], case["irreducible"]] for case in cases], _brier),
        **_ranking(cases),
    }


def covers_by_rank(records: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the gate of the coverage is taken on ranks, because most volumes have only a few values.

    A normal interval then holds more or less than it promises, whoever draws the samples. Randomised ranks do not.
    """
    atoms = np.array([record["case"]["largest_atom"] for record in records])[_uncertain(records)]
    return bool(atoms.size) and float((atoms < COARSE).mean()) < 0.5


def _scores(records: Sequence[Mapping[str, Any]], mine: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    cases = [record["case"] for record in records]
    error = [[r["squared_error"], r["noise"], c["open"], c["irreducible"]] for r, c in zip(mine, cases, strict=True)]
    scores = {
        "probability_rmse": score(error, _rmse),
        "brier": score(error, _brier),
        "ece": score([row["calibration"] for row in mine], pooled_ece),
        "entropy_correlation": score([row["entropy"] for row in mine], _correlation),
        **_ranking(mine),
    }
    return scores | (_joint(records, mine) if "ged_u" in mine[0] else {})


def _ranking(mine: Sequence[Mapping[str, Any]]) -> dict[str, Score]:
    """Mean risk, and how much of it comes from ranking the cases by their uncertainty instead of by the risk itself."""
    scores = {"risk": score([row["risk"] for row in mine])}
    for name in CONFIDENCES:
        pairs = [[row["risk"], row["confidence"][name]] for row in mine]
        scores[f"e_aurc_{name}"] = score(pairs, lambda x: metrics.e_aurc(x[:, 0], x[:, 1]))
    return scores


def _joint(records: Sequence[Mapping[str, Any]], mine: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    spread = np.array([[row["volume_variance"], r["case"]["variance"]] for row, r in zip(mine, records, strict=True)])
    scores: dict[str, Any] = {
        "volume_variance_ratio": score(spread, lambda x: _ratio(x[:, 0].sum(), x[:, 1].sum())),
        "volume_variance_ratio_by_class": [
            score(spread[:, :, c], lambda x: _ratio(x[:, 0].sum(), x[:, 1].sum())) for c in range(spread.shape[2])
        ],
        **{name: score([row[name] for row in mine]) for name in ("ged_u", "ged_v", "ged_floor")},
    }
    if "chimeras" in mine[0]:
        scores |= {
            "chimera_share": score([row["chimeras"] for row in mine]),
            "strays": score([r["strays"] for r in mine]),
        }
    for level in LEVELS:
        intervals = [row["intervals"][str(level)] for row in mine]
        scores[f"interval_{level}"] = score(_by_class(records, intervals))
        scores[f"pit_{level}"] = score(_by_class(records, [row["pit"][str(level)] for row in mine]))
    by_rank = _by_class(records, [row["pit"]["group90"] for row in mine])
    scores["coverage"] = score(by_rank) if covers_by_rank(records) else scores["interval_90"]
    return scores


def _uncertain(records: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """Volumes (bool [cases, C - 1]) that vary by about a voxel or more: only these can be covered too rarely."""
    return np.array([record["case"]["variance"] for record in records]) > 1


def _by_class(records: Sequence[Mapping[str, Any]], values: Sequence[Any]) -> np.ndarray:
    """Mean over the uncertain volumes of each case, [cases, ...]; cases without any are left out."""
    keep = _uncertain(records)
    return np.array([np.array(v)[here].mean(0) for v, here in zip(values, keep, strict=True) if here.any()])


def _risk_coverage(mine: Sequence[Mapping[str, Any]]) -> dict[str, list[float]]:
    risk = np.array([row["risk"] for row in mine])
    share, curve = metrics.risk_coverage(risk, np.array([row["confidence"]["threshold_mean"] for row in mine]))
    best = metrics.risk_coverage(risk, -risk)[1]
    return {"share": share.tolist(), "risk": curve.tolist(), "oracle": best.tolist()}


def _verdict(name: str, found: Score) -> dict[str, Any]:
    """Whether a score passes its gate, and whether the cases suffice to say so: its interval is wholly on one side."""
    low, high, _ = metrics.GATES[name]
    passed = found["value"] is not None and low <= found["value"] <= high
    if found["low"] is None or found["high"] is None:
        return {"passed": passed, "decided": False}
    inside = low <= found["low"] and found["high"] <= high
    return {"passed": passed, "decided": inside or found["high"] < low or found["low"] > high}


def blind_controls(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Rows that should fail a gate and do not, and the exact sampler if it fails one: then the scores prove nothing."""
    return [
        key
        for key, row in rows.items()
        if (key in CONTROLS and not row["failures"]) or (key == EXACT and row["failures"])
    ]


def notes(samples: int, records: Sequence[Mapping[str, Any]]) -> list[str]:
    """How coverage and GED were taken, a sentence each."""
    if covers_by_rank(records):
        coverage = (
            "Most volumes here have only a few possible values, for which no interval of 90 % exists; the gate takes "
            f"the share of true volumes whose randomised rank among {GROUP} samples lies in the middle 90 %."
        )
    else:
        groups = samples // GROUP
        coverage = f"Coverage is that of the 90 % predictive intervals from {GROUP} samples, {groups} times a case."
    truth = (
        "the exact law" if records[0]["case"]["enumerable"] else f"{TRUTHS} exact draws, because it has too many masks"
    )
    return [coverage, f"GED and its floor are those of {samples} samples a case against {truth}."]


def _rmse(x: np.ndarray) -> float:
    return float(np.sqrt(max(0.0, _ratio((x[:, 0] - x[:, 1]).sum(), x[:, 2].sum()))))


def _brier(x: np.ndarray) -> float:
    return _ratio((x[:, 0] - x[:, 1] + x[:, 3]).sum(), x[:, 2].sum())


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b > 0 else float("nan")


def _correlation(x: np.ndarray) -> float:
    n, a, b, aa, bb, ab = x.sum(0)
    spread = (aa - a * a / n) * (bb - b * b / n)
    return float((ab - a * b / n) / np.sqrt(spread)) if spread > 0 else float("nan")
