"""A7: how many samples are needed, and which scores improve with their number whatever the model?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...evaluation.known_answer.samplers import votes
from ...evaluation.pooling import binned, pooled_ece, score
from ...evaluation.report.tables import Cell, Table, scored
from .. import plots
from ..context import Context
from ..question import Question, Results
from ..scores import combine_seeds
from ..summary import FACT, FAILS, HOLDS, UNDECIDED, Figure, Summary, slug
from ..variants import Variant
from .comparison import points_csv

COUNTS = (1, 2, 4, 8, 16, 32, 64)
CASES = 60
ECE_ROWS = {"model": "model, masks", "softmax": "model, mean softmax", "exact": "exact sampler"}
GED_ROWS = {"ged_v": "published form", "ged_floor": "published form of exact samples", "ged_u": "unbiased"}
MAX_GED = 0.01  # unbiased GED below which the samples count as samples of the true posterior

Points = Sequence[tuple[int, Mapping[str, Any]]]


class SampleCount(Question):
    """ECE and GED over the number of samples, for the model and for the exact sampler."""

    key = "A7"
    title = "Number of samples"
    why = (
        "Many scores improve with the number of samples for any sampler. The exact sampler with as many samples shows "
        "this effect; the difference to it is due to the model."
    )

    def measure(self, context: Context, name: str, seed: int) -> dict[str, Any]:
        sampler, task = context.sampler(Variant(name, seed)), context.tasks[name]
        grid = sampler.adapted_grid()
        cases = []
        for index in range(min(CASES, len(task.cases))):
            truth = task.truth(index)
            samples = sampler.sample(truth.case.image, COUNTS[-1], grid, index)
            exact = truth.case.sample(np.random.default_rng([index, 8]), COUNTS[-1])
            cases.append(count_scores(truth, samples.masks, samples.softmax, exact))
        return {"cases": cases}

    def summarise(self, context: Context, results: Results) -> Summary:
        summary = Summary()
        for name in context.tasks:
            seeds = [results[name, seed]["cases"] for seed in context.seeds]
            tables = [[case["tables"] for case in cases] for cases in seeds]
            ece = {row: _over_counts(tables, row, COUNTS, pooled_ece) for row in ECE_ROWS}
            ged = {title: _over_counts(seeds, form, COUNTS[1:], np.mean) for form, title in GED_ROWS.items()}
            summary.numbers[name] = {"ece": ece, "ged": ged}
            columns = {f"ECE, {ECE_ROWS[row]}": dict(points) for row, points in ece.items()}
            columns |= {f"GED, {title}": dict(points) for title, points in ged.items()}
            rows = [[Cell(str(n)), *(scored(column.get(n)) for column in columns.values())] for n in COUNTS]
            summary.tables.append(Table(f"{name}: scores by number of samples", ["samples", *columns], rows))
            summary.figures += [
                _figure(name, "ece", {ECE_ROWS[row]: points for row, points in ece.items()}),
                _figure(name, "ged", ged),
            ]
            _add_sentences(summary, name, dict(ged[GED_ROWS["ged_v"]]), dict(ged[GED_ROWS["ged_u"]]))
        return summary


def count_scores(truth: Any, masks: np.ndarray, softmax: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """Calibration tables and GED of one case from the first 1, 2, 4, ... samples."""
    classes, scored_voxels = truth.case.classes, truth.anywhere
    tables: dict[str, dict[str, Any]] = {row: {} for row in ECE_ROWS}
    ged: dict[str, dict[str, float]] = {form: {} for form in GED_ROWS}
    for n in (n for n in COUNTS if n <= len(masks)):
        rows = {"model": votes(masks[:n], classes), "softmax": softmax[:n].mean(0), "exact": votes(exact[:n], classes)}
        for row, p in rows.items():
            correct = np.take_along_axis(truth.case.marginals, p.argmax(0)[None], 0)[0]
            tables[row][str(n)] = binned(p.max(0)[scored_voxels], correct[scored_voxels])
        if n > 1:
            for form, value in truth.energy(masks[:n]).as_json().items():
                ged[form][str(n)] = value
    return {"tables": tables, **ged}


def _over_counts(seeds: Sequence[Any], row: str, counts: Sequence[int], pool: Callable[[np.ndarray], float]) -> Points:
    """(number of samples, score over cases and seeds) of a row of each case, values by number of samples."""
    return [(n, combine_seeds([score([case[row][str(n)] for case in cases], pool) for cases in seeds])) for n in counts]


def _figure(name: str, kind: str, series: Mapping[str, Points]) -> Figure:
    caption = f"{name}: {kind.upper()} over the number of samples; bars span the seeds' 95 % intervals."
    png = plots.lines(series, "samples", kind.upper())
    return Figure(f"a7-{kind}-{slug(name)}", png, caption, points_csv(["row", "samples", kind], series))


def _add_sentences(summary: Summary, name: str, published: dict[int, Any], unbiased: dict[int, Any]) -> None:
    few, many = COUNTS[1], COUNTS[-1]
    for title, scores in (("published", published), ("unbiased", unbiased)):
        change = scores[many]["value"] - scores[few]["value"]
        summary.add(FACT, f"{name}: from {few} to {many} samples the {title} GED changes by {change:+.3f}.")
    value, low, high = (unbiased[many][key] for key in ("value", "low", "high"))
    if low is not None:
        verdict = HOLDS if high < MAX_GED else UNDECIDED if low < MAX_GED else FAILS
        text = f"{name}: the unbiased GED of {many} samples is {value:.4f} ({low:.4f} to {high:.4f})"
        summary.add(verdict, f"{text}; a sampler of the true posterior stays below {MAX_GED:g}.")
