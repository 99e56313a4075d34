"""Scores of rows over test cases, and differences between rows with a verdict.

Two seeds are too few to estimate how training varies. A score's interval therefore spans the seeds' bootstrap intervals
over cases, and a difference is decided only if every seed decides it the same way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import metrics
from ..evaluation.known_answer.posterior import Truth, score_case
from ..evaluation.known_answer.samplers import Prediction
from ..evaluation.known_answer.scores import variance_ratio
from ..evaluation.pooling import above, pooled_ece, score
from .tasks import Task

Record = Mapping[str, Any]
BETTER, WORSE, OPEN = "better", "worse", "not decided"


@dataclass(frozen=True)
class Measure:
    """How a score is computed from the records of the cases."""

    title: str
    values: Callable[[Record, Record], Any]  # from the records of a row and its case to the values that are pooled
    pool: Callable[[np.ndarray], float]  # from the values of all cases [cases, ...] to the score
    best: float
    exact: bool = False  # whether it needs the exact posterior

    def deviation(self, values: np.ndarray) -> float:
        """Distance of the pooled score from the best one, up to a constant; lower is better."""
        value = self.pool(values)
        return -value if self.best == np.inf else value if self.best == -np.inf else abs(value - self.best)


def _coverage(row: Record, case: Record) -> float:
    """Share of the classes whose true volumes are covered; with a known posterior only of variable classes."""
    variance = np.array(case["variance"])
    variable = variance > 1 if case["exact"] else np.ones(len(variance), bool)
    return float(np.array(row["pit"]["group90"])[variable].mean()) if variable.any() else float("nan")


MEASURES: dict[str, Measure] = {
    "iou": Measure("expected IoU", lambda row, case: 1 - row["risk"], lambda x: float(np.mean(x)), best=np.inf),
    "ece": Measure("ECE", lambda row, case: row["calibration"], pooled_ece, best=0.0),
    "e_aurc": Measure(
        "E-AURC",
        lambda row, case: [row["risk"], row["confidence"]["threshold_mean"]],
        lambda x: metrics.e_aurc(x[:, 0], x[:, 1]),
        best=-np.inf,
    ),
    "ged_u": Measure("unbiased GED", lambda row, case: row["ged_u"], lambda x: float(np.mean(x)), best=-np.inf),
    "coverage": Measure("90 % coverage", _coverage, lambda x: float(np.nanmean(x)), best=0.9),
    "spread": Measure(
        "volume variance ratio",
        lambda row, case: [sum(row["volume_variance"]), sum(case["variance"])],
        variance_ratio,
        best=1.0,
        exact=True,
    ),
}
JOINT = ("ged_u", "coverage", "spread")  # measures of the joint distribution, which need samples
IDEAL = {"ece": 0.0, "ged_u": 0.0, "coverage": 0.9, "spread": 1.0}
"""Scores of a perfect sampler, where they do not depend on the task."""


def score_cases(
    task: Task, predict: Callable[[Truth, int], Mapping[str, Prediction]], limit: int | None = None
) -> list[dict[str, Any]]:
    """Records of the task's share of the first `limit` test cases: facts of the case, and numbers of each row."""
    records = []
    for index in task.scored_cases(limit):
        truth, rng = task.truth(index), np.random.default_rng(index)
        rows = {name: score_case(truth, prediction, rng) for name, prediction in predict(truth, index).items()}
        records.append({"case": {**truth.record(), "exact": task.exact}, "rows": rows})
    return records


def score_over_seeds(by_seed: Sequence[Sequence[Record]], row: str, measure: str) -> dict[str, Any] | None:
    """A row's score, from the records of each seed; None if the row or the task has no such score."""
    if not is_scored(by_seed, row, measure):
        return None
    values = (_values(records, row, measure) for records in by_seed)
    return combine_seeds([score(_finite(x), MEASURES[measure].pool) for x in values])


def compare(by_seed: Sequence[Sequence[Record]], a: str, b: str, measure: str) -> dict[str, Any]:
    """{"value", "low", "high", "seeds", "verdict"} of row `a`'s deviation minus that of row `b`; negative is better.

    Both rows must be scored.
    """
    deviation = MEASURES[measure].deviation
    pairs = (np.stack([_values(records, row, measure) for row in (a, b)], 1) for records in by_seed)
    return with_verdict(
        combine_seeds([score(_finite(x), lambda x: deviation(x[:, 0]) - deviation(x[:, 1])) for x in pairs])
    )


def with_verdict(difference: dict[str, Any]) -> dict[str, Any]:
    """The difference in deviation with its "verdict": better, worse or not decided."""
    return {**difference, "verdict": {True: WORSE, False: BETTER, None: OPEN}[above(difference)]}


def is_scored(by_seed: Sequence[Sequence[Record]], row: str, measure: str) -> bool:
    """Whether every case has the row, and the row and the task have the score."""
    definition, records = MEASURES[measure], [record for records in by_seed for record in records]
    rows = [record["rows"].get(row) for record in records]
    if None in rows or (measure in JOINT and "ged_u" not in rows[0]):
        return False
    return bool(records[0]["case"]["exact"]) or not definition.exact


def combine_seeds(scores: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of the seeds' scores, with the interval that spans all of theirs."""
    known = [one["value"] for one in scores if one["value"] is not None]
    lows, highs = ([one[end] for one in scores] for end in ("low", "high"))
    return {
        "value": float(np.mean(known)) if known else None,
        "low": None if None in lows else min(lows),
        "high": None if None in highs else max(highs),
        "seeds": [one["value"] for one in scores],
    }


def magnitude(difference: Mapping[str, Any], digits: int = 3) -> str:
    """Size of a decided difference without its sign, "0.021 (0.010 to 0.034)"; up to 6 digits if it is small."""
    while abs(difference["value"]) < 0.5 * 10**-digits and digits < 6:
        digits += 1
    low, high = sorted(abs(difference[end]) for end in ("low", "high"))
    return f"{abs(difference['value']):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _values(records: Sequence[Record], row: str, measure: str) -> np.ndarray:
    """A measure's values by case [cases, ...]."""
    return np.array([MEASURES[measure].values(record["rows"][row], record["case"]) for record in records], np.float64)


def _finite(x: np.ndarray) -> np.ndarray:
    """Cases with finite values; a case without ambiguity has no coverage."""
    return x[np.isfinite(x.reshape(len(x), -1)).all(1)]
