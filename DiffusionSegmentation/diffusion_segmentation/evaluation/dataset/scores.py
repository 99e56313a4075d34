"""From the records of a folder's cases to scores with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ... import metrics
from ..known_answer.posterior import LEVELS
from ..known_answer.scores import CONFIDENCES
from ..pooling import BINS, diagram, difference, finite, of_known, pooled_ece, score
from .cases import SOURCES
from .comparison import ENTROPY_EDGES

FLOOR_DRAWS = 400_000
"""Voxels from which the floor of the calibration error is simulated: noise of counting below 0.003."""
BY_CLASS = ("dice", "nsd", "hd95_mm", "lesion_f1", "volume_error_ml", "missed", "false")


def summarise(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """All scores: {"maps": {source: ...}, "samples": ..., "difference": ...}; `names` are the foreground classes'."""
    return {
        "maps": {source: _map([record["maps"][source] for record in records], names) for source in SOURCES},
        "samples": _samples([record["samples"] for record in records]),
        "difference": {
            "dice": difference(*([np.mean(r["maps"][source]["dice"]) for r in records] for source in SOURCES)),
            "ece": _ece_difference(records),
            "maps": score([record["run"]["direct_difference"] for record in records]),
        },
        "ece_floor": _floor(records),
    }


def _map(maps: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    by_class = []
    for c, name in enumerate(names):
        row = {key: score([one[key][c] for one in maps]) for key in BY_CLASS}
        # Only where the reference has the structure can an error be a share of it.
        shares = [
            100 * abs(one["volume_error_ml"][c]) / one["reference_ml"][c] if one["reference_ml"][c] > 0 else None
            for one in maps
        ]
        row |= {"name": name, "volume_error_percent": of_known(shares, np.median)}
        row["ece"] = score([one["by_class"][c] for one in maps], pooled_ece)
        by_class.append(row)
    risk = np.array([one["risk"] for one in maps])
    scores = {
        "by_class": by_class,
        "dice": score(1 - risk),
        "nsd": score([np.mean(one["nsd"]) for one in maps]),
        "ece": score([one["near"] for one in maps], pooled_ece),
        "ece_everywhere": score([one["everywhere"] for one in maps], pooled_ece),
        "wrong": score([one["wrong"] for one in maps]),
        "error_auroc": of_known([one["error_auroc"] for one in maps]),
        "error_aupr": of_known([one["error_aupr"] for one in maps]),
        "reliability": diagram([one["near"] for one in maps]),
        "levels": _levels(np.sum([one["levels"] for one in maps], 0)),
    }
    for name in CONFIDENCES:
        pairs = [[one["risk"], one["confidence"][name]] for one in maps]
        scores[f"aurc_{name}"] = score(pairs, lambda x: metrics.aurc(x[:, 0], x[:, 1]))
        scores[f"e_aurc_{name}"] = score(pairs, lambda x: metrics.e_aurc(x[:, 0], x[:, 1]))
    share, curve = metrics.risk_coverage(risk, np.array([one["confidence"]["threshold_mean"] for one in maps]))
    scores["risk_coverage"] = {
        "share": share.tolist(),
        "risk": curve.tolist(),
        "oracle": metrics.risk_coverage(risk, -risk)[1].tolist(),
    }
    return scores


def _levels(counts: np.ndarray) -> list[dict[str, Any]]:
    """Voxels near the structures at each level of entropy, and the share of them that is wrong."""
    return [
        {"bits": [low, high], "voxels": int(voxels), "wrong": finite(wrong / voxels) if voxels else None}
        for (low, high), (voxels, wrong) in zip(pairwise(ENTROPY_EDGES), counts, strict=True)
    ]


def _samples(samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    n = len(samples[0]["samples_ml"])
    found: dict[str, Any] = {"n": n, "volumes": int(sum(np.size(one["references_ml"]) for one in samples))}
    found["ranks"] = metrics.rank_histogram(np.concatenate([np.ravel(one["ranks"]) for one in samples]), n).tolist()
    if n > 1:
        for level in LEVELS:
            inside = [np.mean(one["inside"][str(level)]) for one in samples]
            found[f"interval_{level}"] = score(inside)
        found["method"] = metrics.interval_method(n)
    raters = [one["raters"] for one in samples if "raters" in one]
    if raters:
        found["raters"] = {
            "cases": len(raters),
            "n": n,
            "m": sorted({one["m"] for one in raters}),
            **{key: score([one[key] for one in raters]) for key in raters[0] if key not in ("n", "m")},
        }
    return found


def _ece_difference(records: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """ECE of the samples' maps less that of the direct head, on the same cases."""
    both = np.array([[record["maps"][source]["near"] for source in SOURCES] for record in records])
    return score(both, lambda x: pooled_ece(x[:, 0]) - pooled_ece(x[:, 1]))


def _floor(records: Sequence[Mapping[str, Any]]) -> float | None:
    """ECE of a perfect sampler whose true probabilities were the model's own, from as many hard masks."""
    kept = [np.array(record["maps"]["samples"]["some_probabilities"], np.float64) for record in records]
    p = np.concatenate(kept, 1) / 255
    p = p[:, p.sum(0) > 0]
    if not p.size:
        return None
    n = len(records[0]["samples"]["samples_ml"])
    p = np.tile(p, max(1, FLOOR_DRAWS // p.shape[1]))
    return metrics.ece_floor(p, n, np.random.default_rng(0), bins=BINS)
