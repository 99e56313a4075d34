"""Scores with intervals from the records of a folder's cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ... import metrics
from ...runtime.units import VOLUMES, Units
from ..known_answer.posterior import LEVELS
from ..known_answer.scores import CONFIDENCES, risk_coverage
from ..pooling import BINS, diagram, difference, pooled_ece, score, score_defined
from .cases import SOURCES
from .comparison import ENTROPY_EDGES

FLOOR_DRAWS = 400_000  # voxels of the simulation of the calibration error's floor: counting noise below 0.003


def summarise(records: Sequence[Mapping[str, Any]], names: Sequence[str], units: Units = VOLUMES) -> dict[str, Any]:
    """All scores: {"maps": {source: ...}, "samples", "difference", "ece_floor"}; `names` of the foreground classes."""
    near = np.array([[record["maps"][source]["near"] for source in SOURCES] for record in records])
    dice = ([float(np.mean(record["maps"][source]["dice"])) for record in records] for source in SOURCES)
    return {
        "maps": {source: _map([record["maps"][source] for record in records], names, units) for source in SOURCES},
        "samples": _samples([record["samples"] for record in records], units),
        "difference": {
            "dice": difference(*dice),
            "ece": score(near, lambda x: pooled_ece(x[:, 0]) - pooled_ece(x[:, 1])),
            "maps": score([record["run"]["direct_difference"] for record in records]),
        },
        "ece_floor": _floor(records, len(records[0]["samples"][units.key("samples")])),
    }


def _map(maps: Sequence[Mapping[str, Any]], names: Sequence[str], units: Units) -> dict[str, Any]:
    by_class, size_error, true_size = [], units.key("volume_error"), units.key("reference")
    keys = ("dice", "nsd", f"hd95_{units.length}", "lesion_f1", size_error, "missed", "false")
    for c, name in enumerate(names):
        # Only cases whose reference has the structure.
        sizes = [(one[size_error][c], one[true_size][c]) for one in maps if one[true_size][c] > 0]
        percent = [100 * abs(error) / reference for error, reference in sizes]
        by_class.append(
            {
                **{key: score([one[key][c] for one in maps]) for key in keys},
                "name": name,
                "volume_error_percent": score_defined(percent, np.median),
                "ece": score([one["by_class"][c] for one in maps], pooled_ece),
            }
        )
    risk, levels = np.array([one["risk"] for one in maps]), np.sum([one["levels"] for one in maps], 0)
    scores = {
        "by_class": by_class,
        "dice": score(1 - risk),
        "nsd": score([np.mean(one["nsd"]) for one in maps]),
        "ece": score([one["near"] for one in maps], pooled_ece),
        "ece_everywhere": score([one["everywhere"] for one in maps], pooled_ece),
        "wrong": score([one["wrong"] for one in maps]),
        "error_auroc": score_defined([one["error_auroc"] for one in maps]),
        "error_aupr": score_defined([one["error_aupr"] for one in maps]),
        "reliability": diagram([one["near"] for one in maps]),
        "levels": [
            {"bits": list(bits), "voxels": int(voxels), "wrong": float(wrong / voxels) if voxels else None}
            for bits, (voxels, wrong) in zip(pairwise(ENTROPY_EDGES), levels, strict=True)
        ],
        "risk_coverage": risk_coverage(maps),
    }
    for name in CONFIDENCES:
        pairs = [[one["risk"], one["confidence"][name]] for one in maps]
        scores[f"aurc_{name}"] = score(pairs, lambda x: metrics.aurc(x[:, 0], x[:, 1]))
        scores[f"e_aurc_{name}"] = score(pairs, lambda x: metrics.e_aurc(x[:, 0], x[:, 1]))
    return scores


def _samples(samples: Sequence[Mapping[str, Any]], units: Units) -> dict[str, Any]:
    n, true = len(samples[0][units.key("samples")]), units.key("references")
    scores: dict[str, Any] = {"n": n, "volumes": int(sum(np.size(one[true]) for one in samples))}
    scores["ranks"] = metrics.rank_histogram(np.concatenate([np.ravel(one["ranks"]) for one in samples]), n).tolist()
    if n > 1:
        for level in LEVELS:
            scores[f"interval_{level}"] = score([np.mean(one["inside"][str(level)]) for one in samples])
        scores["method"] = metrics.interval_method(n)
    raters = [one["raters"] for one in samples if "raters" in one]
    if raters:
        scores["raters"] = {
            "cases": len(raters),
            "n": n,
            "m": sorted({one["m"] for one in raters}),
            **{key: score([one[key] for one in raters]) for key in raters[0] if key not in ("n", "m")},
        }
    return scores


def _floor(records: Sequence[Mapping[str, Any]], count: int) -> float | None:
    """ECE of a perfect sampler with `count` hard masks, if the model's probabilities were the true ones."""
    stored = [np.array(record["maps"]["samples"]["some_probabilities"], np.float64) for record in records]
    p = np.concatenate(stored, 1) / 255
    p = p[:, p.sum(0) > 0]
    if not p.size:
        return None
    p = np.tile(p, max(1, FLOOR_DRAWS // p.shape[1]))
    return metrics.ece_floor(p, count, np.random.default_rng(0), bins=BINS)
