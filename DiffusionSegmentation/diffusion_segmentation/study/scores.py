"""The scores by which arms are compared, from records of test cases, and differences that allow a verdict.

Seeds are not cases: with two of them nobody knows how training varies. A score's interval therefore reaches from the
lowest to the highest bound of its seeds' bootstrap intervals over cases, and a difference is decided only where every
seed decides it the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import metrics
from ..evaluation.known_answer.posterior import Truth, score_case
from ..evaluation.known_answer.samplers import Prediction
from ..evaluation.pooling import pooled_ece, score

Record = Mapping[str, Any]
BETTER, WORSE, OPEN = "better", "worse", "not decided"


@dataclass(frozen=True)
class Measure:
    """A score of a row: how it is taken from records, and where its best value lies."""

    title: str
    take: Callable[[Record, Record], Any]
    """From a row's record and the case's own to the values that are resampled with the case."""
    pool: Callable[[np.ndarray], float]
    """From the values of all cases to the score."""
    best: float
    exact: bool = False
    """Whether it needs the law of the truth."""

    def badness(self, values: np.ndarray) -> float:
        """How far the pooled score is from its best value; lower is better."""
        value = self.pool(values)
        return -value if self.best == np.inf else value if self.best == -np.inf else abs(value - self.best)


def _uncertain(case: Record) -> np.ndarray:
    """Classes whose volume varies by about a voxel or more; all of a case whose law is not known."""
    return np.array(case["variance"]) > 1 if case["exact"] else np.ones(len(case["variance"]), bool)


def _coverage(row: Record, case: Record) -> float:
    here = _uncertain(case)
    return float(np.array(row["pit"]["group90"])[here].mean()) if here.any() else float("nan")


def _ratio(x: np.ndarray) -> float:
    return float(x[:, 0].sum() / x[:, 1].sum()) if x[:, 1].sum() > 0 else float("nan")


MEASURES: dict[str, Measure] = {
    "iou": Measure("expected IoU", lambda row, case: 1 - row["risk"], lambda x: float(np.mean(x)), best=np.inf),
    "ece": Measure("ECE", lambda row, case: row["calibration"], pooled_ece, best=0.0),
    "e_aurc": Measure(
        "E-AURC",
        lambda row, case: [row["risk"], row["confidence"]["threshold_mean"]],
        lambda x: metrics.e_aurc(x[:, 0], x[:, 1]),
        best=-np.inf,
    ),
    "ged_u": Measure("GED, unbiased", lambda row, case: row["ged_u"], lambda x: float(np.mean(x)), best=-np.inf),
    "coverage": Measure("90 % coverage", _coverage, lambda x: float(np.nanmean(x)), best=0.9),
    "spread": Measure(
        "volume variance ratio",
        lambda row, case: [sum(row["volume_variance"]), sum(case["variance"])],
        _ratio,
        best=1.0,
        exact=True,
    ),
}
JOINT = ("ged_u", "coverage", "spread")
"""Measures of the joint law, which a row without samples has not."""


WANTED = {"ece": 0.0, "ged_u": 0.0, "coverage": 0.9, "spread": 1.0}
"""What a perfect row scores, where that is one number."""


def record_case(truth: Truth, answers: Mapping[str, Prediction], exact: bool, seed: int) -> dict[str, Any]:
    """What is kept of a test case: facts of its truth, and the numbers of each row."""
    rng = np.random.default_rng(seed)
    return {
        "case": {**truth.record(), "exact": exact},
        "rows": {name: score_case(truth, answer, rng) for name, answer in answers.items()},
    }


def values(records: Sequence[Record], row: str, measure: str) -> np.ndarray | None:
    """A measure's values by case [cases, ...], or None where the row or the task has no such score."""
    of, mine = MEASURES[measure], [record["rows"].get(row) for record in records]
    if any(one is None for one in mine) or (measure in JOINT and "ged_u" not in mine[0]):
        return None
    if of.exact and not records[0]["case"]["exact"]:
        return None
    return np.array([of.take(one, record["case"]) for one, record in zip(mine, records, strict=True)], np.float64)


def scored(by_seed: Sequence[Sequence[Record]], row: str, measure: str) -> dict[str, Any] | None:
    """A row's score: mean over the seeds, and the hull of their 95 % bootstrap intervals over cases."""
    found = []
    for records in by_seed:
        x = values(records, row, measure)
        if x is None:
            return None
        found.append(score(_known(x), MEASURES[measure].pool))
    return hull(found)


def compared(by_seed: Sequence[Sequence[Record]], a: str, b: str, measure: str) -> dict[str, Any] | None:
    """Whether row `a` is better than `b`: {"value", "low", "high", "verdict"} of the difference in badness."""
    found = []
    for records in by_seed:
        x, y = values(records, a, measure), values(records, b, measure)
        if x is None or y is None:
            return None
        found.append(difference(x, y, MEASURES[measure].badness))
    return verdict(hull(found))


def difference(x: np.ndarray, y: np.ndarray, badness: Callable[[np.ndarray], float] = np.mean) -> dict[str, Any]:
    """badness(x) - badness(y) over the same cases [cases, ...], with its 95 % bootstrap interval."""
    both = _known(np.stack([x, y], axis=1))
    return score(both, lambda pair: badness(pair[:, 0]) - badness(pair[:, 1]))


def verdict(found: dict[str, Any]) -> dict[str, Any]:
    """With what a difference in badness says of the first: better, worse, or not decided."""
    low, high = found["low"], found["high"]
    said = OPEN if low is None or high is None or low <= 0 <= high else BETTER if high < 0 else WORSE
    return {**found, "verdict": said}


def hull(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Several seeds' scores as one: the mean, and an interval that holds all of theirs."""
    known = [one["value"] for one in found if one["value"] is not None]
    lows, highs = ([one[end] for one in found] for end in ("low", "high"))
    return {
        "value": float(np.mean(known)) if known else None,
        "low": None if None in lows else min(lows),
        "high": None if None in highs else max(highs),
        "seeds": [one["value"] for one in found],
    }


def _known(x: np.ndarray) -> np.ndarray:
    """Cases that have a value; a case without any ambiguity has no coverage."""
    return x[np.isfinite(x.reshape(len(x), -1)).all(1)]


def amount(found: Mapping[str, Any], digits: int = 3) -> str:
    """How much a difference is, whichever way it goes: "by 0.021, 0.010 to 0.034"; the smallest get more digits."""
    while abs(found["value"]) < 0.5 * 10**-digits and digits < 6:
        digits += 1
    ends = sorted(abs(found[end]) for end in ("low", "high"))
    return f"by {abs(found['value']):.{digits}f}, {ends[0]:.{digits}f} to {ends[1]:.{digits}f}"
