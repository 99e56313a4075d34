"""Scores with intervals from the records of phantom cases, and whether they pass the gates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ... import metrics
from ..pooling import Score, diagram, pooled_ece, score
from .posterior import GROUP, LEVELS, TRUTHS
from .samplers import CONTROLS, EXACT

COARSE = 0.25  # a volume with one value of this probability or more counts as discrete: it has no interval of 90 %
CONFIDENCES = ("threshold_mean", "patch_max")

RecordList = Sequence[Mapping[str, Any]]


def summarise(records: RecordList) -> dict[str, dict[str, Any]]:
    """For each row {"scores", "gates", "failures", "reliability", "risk_coverage"} and for samplers "ranks"."""
    rows = {}
    for key in records[0]["rows"]:
        row_records = [record["rows"][key] for record in records]
        scores = _scores(records, row_records)
        gates = {name: _verdict(name, scores[name]) for name in metrics.GATES if name in scores}
        values = {name: np.nan if scores[name]["value"] is None else scores[name]["value"] for name in gates}
        rows[key] = {
            "scores": scores,
            "gates": gates,
            "failures": metrics.check(values),
            "reliability": diagram([row["calibration"] for row in row_records]),
            "risk_coverage": risk_coverage(row_records),
        }
        if "ranks" in row_records[0]:
            rows[key]["ranks"] = _by_class(records, [row["ranks"] for row in row_records]).mean(0).tolist()
    return rows


def ideal(records: RecordList) -> dict[str, Score]:
    """Scores of the exact posterior where they are not 0 or 1; no model has a better expectation."""
    cases = [record["case"] for record in records]
    return {
        "brier": score([[0.0, 0.0, case["open"], case["irreducible"]] for case in cases], _brier),
        **_ranking(cases),
    }


def covers_by_rank(records: RecordList) -> bool:
    """Whether most volumes are discrete: intervals then cover more or less than their level for any sampler."""
    atoms = np.array([record["case"]["largest_atom"] for record in records])[_uncertain(records)]
    return bool(atoms.size) and float((atoms < COARSE).mean()) < 0.5


def risk_coverage(records: RecordList) -> dict[str, list[float]]:
    """The risk-coverage curve of the mean entropy, and that of the best order ("oracle")."""
    risk = np.array([record["risk"] for record in records])
    confidence = np.array([record["confidence"]["threshold_mean"] for record in records])
    share, curve = metrics.risk_coverage(risk, confidence)
    return {"share": share.tolist(), "risk": curve.tolist(), "oracle": metrics.risk_coverage(risk, -risk)[1].tolist()}


def _scores(records: RecordList, rows: RecordList) -> dict[str, Any]:
    cases = [record["case"] for record in records]
    error = [[r["squared_error"], r["noise"], c["open"], c["irreducible"]] for r, c in zip(rows, cases, strict=True)]
    scores = {
        "probability_rmse": score(error, _rmse),
        "brier": score(error, _brier),
        "ece": score([row["calibration"] for row in rows], pooled_ece),
        "entropy_correlation": score([row["entropy"] for row in rows], _correlation),
        **_ranking(rows),
    }
    return scores | (_joint(records, rows) if "ged_u" in rows[0] else {})


def _ranking(rows: RecordList) -> dict[str, Score]:
    """Mean risk, and its excess from ranking the cases by their uncertainty instead of by the risk itself."""
    scores = {"risk": score([row["risk"] for row in rows])}
    for name in CONFIDENCES:
        pairs = [[row["risk"], row["confidence"][name]] for row in rows]
        scores[f"e_aurc_{name}"] = score(pairs, lambda x: metrics.e_aurc(x[:, 0], x[:, 1]))
    return scores


def _joint(records: RecordList, rows: RecordList) -> dict[str, Any]:
    spread = np.array([[row["volume_variance"], r["case"]["variance"]] for row, r in zip(rows, records, strict=True)])
    scores: dict[str, Any] = {
        "volume_variance_ratio": score(spread, variance_ratio),
        "volume_variance_ratio_by_class": [score(spread[:, :, c], variance_ratio) for c in range(spread.shape[2])],
        **{name: score([row[name] for row in rows]) for name in ("ged_u", "ged_v", "ged_floor")},
    }
    if "chimeras" in rows[0]:
        scores["chimera_share"] = score([row["chimeras"] for row in rows])
        scores["strays"] = score([row["strays"] for row in rows])
    for level in LEVELS:
        intervals = [row["intervals"][str(level)] for row in rows]
        scores[f"interval_{level}"] = score(_by_class(records, intervals))
        scores[f"pit_{level}"] = score(_by_class(records, [row["pit"][str(level)] for row in rows]))
    by_rank = _by_class(records, [row["pit"]["group90"] for row in rows])
    scores["coverage"] = score(by_rank) if covers_by_rank(records) else scores["interval_90"]
    return scores


def _uncertain(records: RecordList) -> np.ndarray:
    """Volumes (bool [cases, C - 1]) with a variance above one voxel^2; only these count for the coverage."""
    return np.array([record["case"]["variance"] for record in records]) > 1


def _by_class(records: RecordList, values: Sequence[Any]) -> np.ndarray:
    """Mean over the uncertain volumes of each case, [cases, ...]; cases without any are left out."""
    uncertain = _uncertain(records)
    return np.array([np.array(v)[here].mean(0) for v, here in zip(values, uncertain, strict=True) if here.any()])


def _verdict(name: str, result: Score) -> dict[str, Any]:
    """Whether a score passes its gate, and whether the cases decide it: its interval lies on one side of each bound."""
    gate = metrics.GATES[name]
    value, low, high = result["value"], result["low"], result["high"]
    passed = value is not None and gate.low <= value <= gate.high
    if low is None or high is None:
        return {"passed": passed, "decided": False}
    inside = gate.low <= low and high <= gate.high
    return {"passed": passed, "decided": inside or high < gate.low or low > gate.high}


def blind_controls(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Wrong samplers that pass every gate, and the exact sampler if it fails one: then passing proves nothing."""
    failing = {key for key, row in rows.items() if row["failures"]}
    return [key for key in rows if (key in failing if key == EXACT else key in CONTROLS and key not in failing)]


def notes(samples: int, records: RecordList) -> list[str]:
    """How coverage and GED were computed, one sentence each."""
    if covers_by_rank(records):
        coverage = (
            "Most volumes are discrete and have no 90 % interval; coverage is the share of true volumes whose "
            f"randomised rank among {GROUP} samples lies in the middle 90 %."
        )
    else:
        groups = samples // GROUP
        coverage = f"Coverage is that of 90 % predictive intervals from {GROUP} samples, {groups} intervals per case."
    truth = "the exact posterior" if records[0]["case"]["enumerable"] else f"{TRUTHS} exact samples of the posterior"
    return [coverage, f"GED and its floor compare {samples} samples per case with {truth}."]


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b > 0 else float("nan")


def variance_ratio(x: np.ndarray) -> float:
    """Ratio of the sums over cases of two columns."""
    return _ratio(x[:, 0].sum(), x[:, 1].sum())


def _rmse(x: np.ndarray) -> float:
    return float(np.sqrt(max(0.0, _ratio((x[:, 0] - x[:, 1]).sum(), x[:, 2].sum()))))


def _brier(x: np.ndarray) -> float:
    return _ratio((x[:, 0] - x[:, 1] + x[:, 3]).sum(), x[:, 2].sum())


def _correlation(x: np.ndarray) -> float:
    n, a, b, aa, bb, ab = x.sum(0)
    spread = (aa - a * a / n) * (bb - b * b / n)
    return float((ab - a * b / n) / np.sqrt(spread)) if spread > 0 else float("nan")
