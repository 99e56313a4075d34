"""A4: how to adapt the diffusion process to a task, and whether the task's fingerprint alone suffices."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ...diffusion.process import LOG_SNR_MAX, LOG_SNR_MIN, adapted_grid, sample_log_snr
from ...evaluation.known_answer.posterior import Truth
from ...evaluation.known_answer.samplers import Prediction
from ...evaluation.pooling import above
from ...evaluation.report.formatting import shown
from ...evaluation.report.tables import Cell, Table, scored
from .. import plots
from ..context import Context
from ..curves import half_point, loss_over_levels
from ..question import Question, Results
from ..sampling import VariantSampler
from ..scores import compare, score_cases
from ..summary import FACT, FAILS, HOLDS, UNDECIDED, Figure, Summary, slug
from ..variants import Variant
from .comparison import VERDICTS, measure_titles, outcome, points_csv, score_csv, score_rows, score_table

GRIDS = ("cosine", "uniform", "adapted", "fingerprint")
STEPS = (3, 5, 10)
FULL_STEPS = 5
SCALES = (1.0, 0.5, 0.2, 0.1, 0.05)
SCHEDULES = ("cosine", "linear")
CASES = 60
TITLES = {
    "cosine": "uniform in the cosine schedule's time",
    "uniform": "uniform in log-SNR",
    "adapted": "adapted to the model's loss curve",
    "fingerprint": "from the fingerprint alone",
}
GED_MARGIN = 0.003  # a GED this close to the best counts as equal: repeated sampling changes it by about as much


class StepGrids(Question):
    """The same weights on four step grids of 3, 5 and 10 steps."""

    key = "A4"
    title = "Adapting the steps to the task"
    why = (
        "Öttl et al. propose to adapt the process to the task. The same weights are sampled on step grids that ignore "
        "the task (uniform in the time of the cosine schedule, uniform in log-SNR) and on grids that follow it (from "
        "the model's own loss curve, and from the fingerprint alone, which needs masks but no images)."
    )

    def variants(self, name: str, seed: int) -> tuple[Variant, ...]:
        return Variant(name, seed), Variant(name, seed, form="mask")

    def measure(self, context: Context, name: str, seed: int) -> dict[str, Any]:
        diffusion, mask = self.variants(name, seed)
        sampler, fingerprint = context.sampler(diffusion), context.sampler(mask).loss_curve
        grids = {
            f"{kind}-{k}": step_grid(kind, k, fingerprint if kind == "fingerprint" else sampler.loss_curve)
            for kind in GRIDS
            for k in STEPS
        }
        records = _score_grids(context, name, {row: (sampler, grid) for row, grid in grids.items()})
        return {"records": records, "grids": {row: grid.tolist() for row, grid in grids.items()}}

    def summarise(self, context: Context, results: Results) -> Summary:
        summary, measures = Summary(), measure_titles("ged_u", "spread", "coverage", "iou", "ece", "e_aurc")
        for name in context.tasks:
            by_seed = [results[name, seed]["records"] for seed in context.seeds]
            scores = score_rows(by_seed, [f"{kind}-{k}" for kind in GRIDS for k in STEPS], measures)
            differences = {
                f"{kind}-{other}-{k}": compare(by_seed, f"{kind}-{k}", f"{other}-{k}", "ged_u")
                for k in STEPS
                for kind in ("adapted", "fingerprint")
                for other in GRIDS
                if other != kind
            }
            summary.numbers[name] = {"scores": scores, "ged_differences": differences}
            titled = {f"{k} steps, {TITLES[kind]}": scores[f"{kind}-{k}"] for k in STEPS for kind in GRIDS}
            summary.tables.append(score_table(f"{name}: the same weights on different step grids", titled, measures))
            summary.figures.append(_steps_figure(name, scores))
            for k in STEPS:
                for other in ("cosine", "uniform"):
                    d = differences[f"adapted-{other}-{k}"]
                    text = outcome(TITLES["adapted"], TITLES[other], "GED", d, digits=4)
                    summary.add(VERDICTS[d["verdict"]], f"{name}, {k} steps: {text}.")
                d = differences[f"fingerprint-adapted-{k}"]
                verdict, words = _within_margin(d)
                text = f'"{TITLES["fingerprint"]}" is {words} "{TITLES["adapted"]}" in GED, difference {shown(d, 4)}'
                summary.add(verdict, f"{name}, {k} steps: {text}; margin {GED_MARGIN}.")
        return summary


class Adaptation(Question):
    """Networks trained on two schedules with five input scales, sampled on four step grids of 5 steps."""

    key = "A4"
    title = "Adapting schedule, input scale and steps to the task"
    why = (
        "Öttl et al. propose to adapt the process to the task. Networks are trained on the cosine and the linear "
        "schedule with input scales from 1 to 0.05 and sampled in 5 steps on each step grid. The best combination is "
        "compared with the one recommended from the fingerprint alone: the cosine schedule whose middle lies at the "
        "fingerprint's half-point, and the grid of its curve."
    )

    def variants(self, name: str, seed: int) -> tuple[Variant, ...]:
        scheduled = (Variant(name, seed, schedule=schedule, input_scale=b) for schedule in SCHEDULES for b in SCALES)
        return (Variant(name, seed), Variant(name, seed, form="mask"), *scheduled)

    def measure(self, context: Context, name: str, seed: int) -> dict[str, Any]:
        adapted, mask, *scheduled = self.variants(name, seed)
        curves = loss_over_levels(context.network(mask), mask, context.tasks[name])
        fingerprint = curves["log_snr"], curves["loss"].mean(0)
        rows = {}
        for variant in (adapted, *scheduled):
            sampler = context.sampler(variant)
            scale = variant.input_scale if variant.schedule != "adapted" else 1.0
            for kind in GRIDS:
                curve = fingerprint if kind == "fingerprint" else sampler.loss_curve
                rows[row_of(variant, kind)] = sampler, step_grid(kind, FULL_STEPS, curve, scale)
        half = half_point(curves["log_snr"], curves["error"].mean(0))
        return {"records": _score_grids(context, name, rows), "half_point": half}

    def summarise(self, context: Context, results: Results) -> Summary:
        summary = Summary()
        for name in context.tasks:
            by_seed = [results[name, seed]["records"] for seed in context.seeds]
            rows = [row_of(v, kind) for v in self.variants(name, 0) if v.form == "diffusion" for kind in GRIDS]
            scores = score_rows(by_seed, rows, ("ged_u", "spread", "coverage"))
            half = float(np.mean([results[name, seed]["half_point"] for seed in context.seeds]))
            advised = row_of(Variant(name, schedule="cosine", input_scale=recommended_scale(half)), "fingerprint")
            best = min(scores, key=lambda row: scores[row]["ged_u"]["value"])
            gap = compare(by_seed, advised, best, "ged_u") if advised != best else None
            summary.numbers[name] = {
                "scores": scores, "half_point": half, "advised": advised, "best": best, "gap": gap
            }  # fmt: skip
            summary.tables.append(_training_table(name, scores))
            summary.figures.append(_training_figure(name, scores, advised, best))
            text = f'{name}: the fingerprint recommends "{advised}"'
            if gap is None:
                summary.add(HOLDS, f"{text}, which is the best combination.")
                continue
            verdict, words = _within_margin(gap)
            summary.add(verdict, f'{text}, {words} the best, "{best}", in GED, difference {shown(gap, 4)}.')
            summary.add(FACT, f"{name}: the best combination was selected on the same cases, which favours it.")
        return summary


def recommended_scale(half: float) -> float:
    """The trained input scale b whose cosine schedule has its middle, 2 ln b, closest to a half-point."""
    return min(SCALES, key=lambda scale: abs(2 * math.log(scale) - half))


def row_of(variant: Variant, grid: str) -> str:
    training = "adapted" if variant.schedule == "adapted" else f"{variant.schedule} {variant.input_scale:g}"
    return f"{training}, {grid}"


def _score_grids(context: Context, name: str, rows: Mapping[str, tuple[VariantSampler, np.ndarray]]) -> list[Any]:
    """Records of test cases with a row for each pair of sampler and step grid."""

    def predict(truth: Truth, index: int) -> dict[str, Prediction]:
        return {
            row: sampler.sample(truth.case.image, context.samples, grid, index).prediction()
            for row, (sampler, grid) in rows.items()
        }

    return score_cases(context.tasks[name], predict, CASES)


def _within_margin(difference: Mapping[str, Any]) -> tuple[str, str]:
    """Verdict and words on whether the first of two rows is worse in GED by less than GED_MARGIN."""
    return {
        False: (HOLDS, "as good as"), True: (FAILS, "worse than"), None: (UNDECIDED, "not decided against")
    }[above(difference, GED_MARGIN)]  # fmt: skip


def _steps_figure(name: str, scores: Mapping[str, Any]) -> Figure:
    series = {TITLES[kind]: [(k, scores[f"{kind}-{k}"]["ged_u"]) for k in STEPS] for kind in GRIDS}
    png = plots.lines(series, "steps", "unbiased GED (0 is a perfect sampler)")
    caption = f"{name}: the same weights on four step grids; bars span the seeds' 95 % intervals."
    return Figure(f"step-grids-{slug(name)}", png, caption, points_csv(["grid", "steps", "ged_u"], series))


def _training_table(name: str, scores: Mapping[str, Any]) -> Table:
    trainings = dict.fromkeys(row.partition(",")[0] for row in scores)
    rows = [
        [Cell(training), *(scored(scores[f"{training}, {kind}"]["ged_u"], 4) for kind in GRIDS)]
        for training in trainings
    ]
    caption = f"{name}: GED in {FULL_STEPS} steps, by training schedule with input scale, and step grid"
    return Table(caption, ["", *TITLES.values()], rows)


def _training_figure(name: str, scores: Mapping[str, Any], advised: str, best: str) -> Figure:
    ged = {row: {"ged_u": score["ged_u"]} for row, score in scores.items()}
    values = {row: score["ged_u"]["value"] for row, score in ged.items()}
    png = plots.heat(values, GRIDS, {"recommended": advised, "best": best})
    caption = f"{name}: GED in {FULL_STEPS} steps by training and step grid; darker is worse."
    return Figure(f"adaptation-{slug(name)}", png, caption, score_csv(ged, measure_titles("ged_u")))


def step_grid(kind: str, steps: int, curve: tuple[np.ndarray, np.ndarray], input_scale: float = 1.0) -> np.ndarray:
    """Log-SNR nodes [steps], rising from LOG_SNR_MIN, of a kind in GRIDS.

    "cosine" is uniform in the time of the cosine schedule, as in most samplers; "uniform" is uniform in log-SNR;
    "adapted" and "fingerprint" follow a loss curve (log-SNR [B], loss [B]). No grid has a node at LOG_SNR_MAX.
    """
    if kind in ("adapted", "fingerprint"):
        return adapted_grid(*curve, steps)
    if kind == "uniform":
        return np.linspace(LOG_SNR_MIN, LOG_SNR_MAX, steps + 1)[:-1]
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]
    nodes = sample_log_snr(times, input_scale).double().numpy()
    nodes[0] = LOG_SNR_MIN
    return nodes
