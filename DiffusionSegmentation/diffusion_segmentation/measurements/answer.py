"""Answers to questions from joint samples: predictive intervals of numbers, probabilities of statements."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import special

from ..metrics.conformal import Scaling
from ..metrics.intervals import interval_method, predictive_interval
from .question import Question

LEVELS = (50, 90)
SYMBOLS = {"mm2": "mm²"}


def answer(
    question: Question,
    consensus: float,
    samples: Sequence[float],
    are_draws: bool = True,
    image_size: float = math.inf,
    table: Sequence[Mapping[str, Any]] = (),
    drawn: int | None = None,
) -> dict[str, Any]:
    """The answer as JSON, from the measurement of the consensus and of each sample; NaN becomes None.

    A number has the mean and the predictive intervals of the samples in which it is defined. A statement has the count
    of samples in which it is true, the posterior mean (k + 1/2) / (n + 1) of its probability and Jeffreys' interval
    (Brown, Cai and DasGupta, "Interval Estimation for a Binomial Proportion", 2001): eight of eight are not 100 %.
    Where the samples are not draws (`are_draws`), they have a range and no probability. No size exceeds `image_size`,
    that of the whole image. The size of one structure has the calibrated interval, if its row in `table`, the entry
    `volumes` of the report, has factors; if these are of a result of `drawn` samples and there are fewer here, the
    answer says so.
    """
    values = np.asarray(samples, float)
    defined = values[np.isfinite(values)]
    facts: dict[str, Any] = {
        "question": question.text,
        "unit": question.unit,
        "value": _number(consensus),
        "samples": [_number(value) for value in values],
    }
    if question.is_statement:
        k, n = int(question.holds(values).sum()), len(values)
        facts |= {"holds": bool(question.holds(np.array(consensus))), "count": k, "of": n}
        if n and are_draws:
            bounds = special.betaincinv(k + 0.5, n - k + 0.5, (0.05, 0.95))
            low, high = (0.0 if k == 0 else bounds[0]), (1.0 if k == n else bounds[1])
            facts |= {"probability": _number((k + 0.5) / (n + 1)), "interval90": [_number(low), _number(high)]}
        return facts
    facts |= {"mean": _number(defined.mean()) if len(defined) else None, "undefined": len(values) - len(defined)}
    if not are_draws:
        facts["range"] = [_number(defined.min()), _number(defined.max())] if len(defined) else None
        return facts
    facts["method"] = interval_method(len(defined)) if len(defined) > 1 else None
    high = image_size if question.measurement.quantity == "size" else question.measurement.high
    row = _row(question, table)
    for level in LEVELS:
        factor, floor = (row.get(f"interval{level}_{key}") for key in ("factor", "floor"))
        if isinstance(factor, float) and isinstance(floor, float):
            interval = Scaling(level / 100, factor, floor).interval(defined, question.measurement.low)
        else:
            interval = predictive_interval(defined, level / 100, question.measurement.low)
        facts[f"interval{level}"] = None if interval is None else [_number(min(bound, high)) for bound in interval]
    if "interval90_factor" in row and drawn is not None and drawn != len(values):
        facts["factors_of"] = drawn
    return facts


def _row(question: Question, table: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The row of the structure whose size is asked for; empty for other questions."""
    if question.measurement.quantity != "size":
        return {}
    return next((row for row in table if (row["label"],) == question.labels[0]), {})


def _number(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None


def text(answers: Sequence[Mapping[str, Any]]) -> str:
    """The answers for a terminal, one line each."""
    return "\n".join(_line(one) for one in answers)


def _line(one: Mapping[str, Any]) -> str:
    unit = one["unit"]
    unit = f" {SYMBOLS.get(unit, unit)}" if unit else ""
    n = len(one["samples"])
    if "count" in one:
        line = f"{one['question']}: {'true' if one['holds'] else 'false'} in the segmentation"
        line += f", true in {one['count']} of {n} samples" if n else ""
        if "probability" in one:
            low, high = one["interval90"]
            line += (
                f": probability {100 * one['probability']:.0f} % (90 % interval {100 * low:.0f} to {100 * high:.0f} %)"
            )
        return line
    line = f"{one['question']}: {_shown(one['value'], unit)}"
    if one["mean"] is not None:
        line += f", mean of {n - one['undefined']} samples {_shown(one['mean'], unit)}"
    for key, name in (("interval90", "90 % interval"), ("range", "range")):
        if one.get(key):
            line += f", {name} {_figure(one[key][0])} to {_figure(one[key][1])}{unit}"
    if "factors_of" in one:
        line += f"; its factor is that of all {one['factors_of']} samples"
    if one["undefined"]:
        line += f"; not defined in {one['undefined']} of {n} samples, where a structure is absent"
    return line


def _shown(value: float | None, unit: str) -> str:
    return "not defined" if value is None else f"{_figure(value)}{unit}"


def _figure(value: float) -> str:
    """Four digits; whole from 10000 on, where `g` would write an exponent."""
    return f"{value:.0f}" if abs(value) >= 9999.5 else f"{value:.4g}"
