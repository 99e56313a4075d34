"""A7: how many samples, and which of the scores only seem to improve with them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...evaluation.known_answer.samplers import votes
from ...evaluation.pooling import binned, pooled_ece, score
from ...evaluation.report.tables import Cell, Table, scored
from .. import plots
from ..context import Context
from ..curves import loss_over_levels
from ..drawing import STEPS, Drawer
from ..findings import FACT, HOLDS, UNDECIDED, Figure, Findings, slug
from ..question import Found, Question
from ..scores import hull
from ..solvers import step_grid
from ..variants import Arm

COUNTS = (1, 2, 4, 8, 16, 32, 64)
CASES = 60
ROWS = {"model": "the model's samples", "softmax": "the mean of their softmax", "exact": "exact samples (the floor)"}


class SampleCount(Question):
    """ECE and GED over the number of samples, beside what exact samples of that number score."""

    key = "A7"
    title = "How many samples"
    why = (
        "Many scores improve with the number of samples whatever draws them. Beside the model stands the exact sampler "
        "with as many samples: what is left between the two is the model's, the rest is counting."
    )

    def arms(self, task: str, seed: int) -> tuple[Arm, ...]:
        return (Arm(task, seed),)

    def probe(self, context: Context, task: str, seed: int) -> dict[str, Any]:
        (arm,), of = self.arms(task, seed), context.tasks[task]
        drawer = Drawer(context.network(arm), arm, of)
        curve = loss_over_levels(drawer.network, arm, of)
        grid = step_grid("adapted", STEPS, (curve["log_snr"], curve["loss"].mean(0)))
        cases = []
        for index in range(min(CASES, len(of.cases))):
            truth = of.truth(index)
            drawn = drawer.draw(truth.case.image, COUNTS[-1], grid, index)
            exact = truth.case.sample(np.random.default_rng([index, 8]), COUNTS[-1])
            cases.append(count_scores(truth, drawn.masks, drawn.softmax, exact))
        return {"cases": cases}

    def findings(self, context: Context, found: Found) -> Findings:
        said = Findings()
        for task in context.tasks:
            several = [found[task, seed]["cases"] for seed in context.seeds]
            ece = {row: [(n, _ece(several, row, n)) for n in COUNTS] for row in ROWS}
            ged = {
                "published form": [(n, _mean(several, "ged_v", n)) for n in COUNTS if n > 1],
                "floor of that form": [(n, _mean(several, "ged_floor", n)) for n in COUNTS if n > 1],
                "unbiased": [(n, _mean(several, "ged_u", n)) for n in COUNTS if n > 1],
            }
            said.numbers[task] = {"ece": ece, "ged": ged}
            rows = [
                [
                    Cell(str(n)),
                    *(scored(dict(ece[row])[n]) for row in ROWS),
                    *(scored(dict(ged[g]).get(n)) for g in ged),
                ]
                for n in COUNTS
            ]
            head = ["samples", *(f"ECE, {title}" for title in ROWS.values()), *(f"GED, {g}" for g in ged)]
            said.tables.append(Table(f"{task}: scores over the number of samples", head, rows))
            said.figures += [
                _figure(task, "ece", {ROWS[row]: points for row, points in ece.items()}, "ECE"),
                _figure(task, "ged", ged, "GED"),
            ]
            _say(said, task, dict(ged["published form"]), dict(ged["unbiased"]))
        return said


def count_scores(truth: Any, masks: np.ndarray, softmax: np.ndarray, exact: np.ndarray) -> dict[str, Any]:
    """Of one case: calibration tables and GED from the first 1, 2, 4, ... of the samples."""
    classes, here = truth.case.classes, truth.anywhere
    tables: dict[str, dict[str, Any]] = {row: {} for row in ROWS}
    ged: dict[str, dict[str, float]] = {"ged_v": {}, "ged_u": {}, "ged_floor": {}}
    for n in (n for n in COUNTS if n <= len(masks)):
        for row, p in (("model", votes(masks[:n], classes)), ("softmax", softmax[:n].mean(0)),
                       ("exact", votes(exact[:n], classes))):  # fmt: skip
            right = np.take_along_axis(truth.case.marginals, p.argmax(0)[None], 0)[0]
            tables[row][str(n)] = binned(p.max(0)[here], right[here])
        if n > 1:
            found = truth.energy(masks[:n])
            ged["ged_v"][str(n)], ged["ged_u"][str(n)], ged["ged_floor"][str(n)] = found.v, found.u, found.floor
    return {"tables": tables, **ged}


def _ece(several: list[Any], row: str, n: int) -> dict[str, Any]:
    return hull([score([case["tables"][row][str(n)] for case in cases], pooled_ece) for cases in several])


def _mean(several: list[Any], kind: str, n: int) -> dict[str, Any]:
    return hull([score([case[kind][str(n)] for case in cases]) for cases in several])


def _figure(task: str, kind: str, series: dict[str, Any], title: str) -> Figure:
    rows = [["row", "samples", kind, "low", "high"]]
    rows += [[name, n, s["value"], s["low"], s["high"]] for name, points in series.items() for n, s in points]
    caption = f"{task}: {title} over the number of samples; bars reach over the seeds' 95 % intervals."
    return Figure(f"a7-{kind}-{slug(task)}", plots.lines(series, "samples", title), caption, rows)


def _say(said: Findings, task: str, published: dict[int, Any], unbiased: dict[int, Any]) -> None:
    few, many = COUNTS[1], COUNTS[-1]
    fall = published[few]["value"] - published[many]["value"]
    said.say(
        FACT,
        f"{task}: from {few} to {many} samples the published GED falls by {fall:.3f} and its unbiased form changes by "
        f"{unbiased[many]['value'] - unbiased[few]['value']:+.3f}: the difference is counting, not the model.",
    )
    low, high = unbiased[many]["low"], unbiased[many]["high"]
    if low is not None:
        mark = HOLDS if high < 0.01 else UNDECIDED if low < 0.01 else "fails"
        said.say(mark, f"{task}: with {many} samples the unbiased GED is {unbiased[many]['value']:.4f} "
                       f"({low:.4f} to {high:.4f}); a sampler that may be called one stays below 0.01.")  # fmt: skip
