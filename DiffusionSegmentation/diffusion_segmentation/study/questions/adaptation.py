"""A4: how the process should be adapted to a task, and whether the task's fingerprint alone can say so."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...evaluation.report.tables import Cell, Table, scored
from .. import plots
from ..context import Context
from ..curves import half_point, loss_over_levels
from ..drawing import Drawer
from ..findings import FACT, FAILS, HOLDS, UNDECIDED, Figure, Findings, interval, listed, slug
from ..question import Found, Question
from ..scores import BETTER, MEASURES, OPEN, WORSE, amount, compared, record_case
from ..scores import scored as score_of
from ..solvers import GRIDS, step_grid
from ..variants import Arm

STEPS = (3, 5, 10)
SCALES = (1.0, 0.5, 0.2, 0.1, 0.05)
SCHEDULES = ("cosine", "linear")
FULL_STEPS = 5
CASES = 60
TITLES = {
    "cosine": "even in the cosine schedule's time",
    "uniform": "even in log-SNR",
    "adapted": "adapted to the model's own loss",
    "fingerprint": "from the fingerprint alone",
}
CLOSE = 0.003
"""A GED this near to the best is as good: repeated drawing moves it by about as much."""


class StepGrids(Question):
    """The same weights on four step grids of 3, 5 and 10 steps."""

    key = "A4"
    title = "Adapting the steps to the task"
    why = (
        "Öttl et al. propose to adapt the process to the task. Here the same weights are sampled on step grids that do "
        "and do not know the task: even in the time of the cosine schedule, even in log-SNR, by the model's own loss "
        "curve, and by the fingerprint alone, which needs masks and no images."
    )

    def arms(self, task: str, seed: int) -> tuple[Arm, ...]:
        return Arm(task, seed), Arm(task, seed, form="mask")

    def probe(self, context: Context, task: str, seed: int) -> dict[str, Any]:
        diffusion, mask = self.arms(task, seed)
        of = context.tasks[task]
        drawer = Drawer(context.network(diffusion), diffusion, of)
        own = loss_over_levels(drawer.network, diffusion, of)
        alone = loss_over_levels(context.network(mask), mask, of)
        curves = {"fingerprint": (alone["log_snr"], alone["loss"].mean(0))}
        grids = {
            f"{kind}-{steps}": step_grid(kind, steps, curves.get(kind, (own["log_snr"], own["loss"].mean(0))))
            for kind in GRIDS
            for steps in STEPS
        }
        records = []
        for index in range(min(CASES, len(of.cases))):
            truth = of.truth(index)
            answers = {
                row: drawer.draw(truth.case.image, context.samples, grid, seed=index).answer()
                for row, grid in grids.items()
            }
            records.append(record_case(truth, answers, of.exact, index))
        return {"records": records, "grids": {row: grid.tolist() for row, grid in grids.items()}}

    def findings(self, context: Context, found: Found) -> Findings:
        said = Findings()
        for task in context.tasks:
            by_seed = [found[task, seed]["records"] for seed in context.seeds]
            shown = {
                f"{kind}-{k}": {m: score_of(by_seed, f"{kind}-{k}", m) for m in MEASURES}
                for kind in GRIDS
                for k in STEPS
            }
            against = {
                f"{kind}-{other}-{k}": compared(by_seed, f"{kind}-{k}", f"{other}-{k}", "ged_u")
                for k in STEPS
                for kind in ("adapted", "fingerprint")
                for other in GRIDS
                if other != kind
            }
            said.numbers[task] = {"scores": shown, "ged_differences": against}
            said.tables.append(_table(task, shown))
            said.figures.append(_figure(task, shown))
            for k in STEPS:
                _say(said, task, k, against)
        return said


def _say(said: Findings, task: str, k: int, against: dict[str, Any]) -> None:
    outcome: dict[str, list[str]] = {BETTER: [], WORSE: [], OPEN: []}
    for other in ("cosine", "uniform"):
        d = against[f"adapted-{other}-{k}"]
        outcome[d["verdict"]].append(
            f"the grid {TITLES[other]} ({amount(d, 4)})" if d["verdict"] != OPEN else f"the grid {TITLES[other]}"
        )
    parts = [
        f"{words} {listed(outcome[kind])}"
        for kind, words in ((BETTER, "is better than"), (WORSE, "is worse than"), (OPEN, "is not decided against"))
        if outcome[kind]
    ]
    mark = FAILS if outcome[WORSE] else HOLDS if outcome[BETTER] else UNDECIDED
    said.say(mark, f"{task}, {k} steps: the adapted grid {listed(parts)} in GED.")
    d = against[f"fingerprint-adapted-{k}"]
    near = d["high"] is not None and d["high"] < CLOSE
    far = d["low"] is not None and d["low"] > CLOSE
    words = "as good as" if near else "worse than" if far else "not decided against"
    mark = HOLDS if near else FAILS if far else UNDECIDED
    text = f"{task}, {k} steps: the grid from the fingerprint alone is {words} that of the model's own loss"
    said.say(mark, f"{text} ({interval(d, 4)}; up to {CLOSE} counts as good).")


def _table(task: str, shown: dict[str, Any]) -> Table:
    measures = [m for m in ("ged_u", "spread", "coverage", "iou", "ece") if any(s[m] for s in shown.values())]
    rows = [
        [
            Cell(f"{row.rpartition('-')[2]} steps, {TITLES[row.rpartition('-')[0]]}"),
            *(scored(s[m], 4 if m == "ged_u" else 3) for m in measures),
        ]
        for row, s in sorted(shown.items(), key=lambda item: int(item[0].rpartition("-")[2]))
    ]
    return Table(
        f"{task}: the same weights on different step grids", ["", *(MEASURES[m].title for m in measures)], rows
    )


def _figure(task: str, shown: dict[str, Any]) -> Figure:
    series = {
        TITLES[kind]: [(k, shown[f"{kind}-{k}"]["ged_u"]) for k in STEPS]
        for kind in GRIDS
        if shown[f"{kind}-3"]["ged_u"]
    }
    rows = [["grid", "steps", "ged_u", "low", "high"]]
    rows += [[name, k, s["value"], s["low"], s["high"]] for name, points in series.items() for k, s in points]
    png = plots.lines(series, "steps", "GED, unbiased (0 is a perfect sampler)")
    caption = f"{task}: the same weights on four step grids; bars reach over the seeds' 95 % intervals."
    return Figure(f"step-grids-{slug(task)}", png, caption, rows)


class Adaptation(Question):
    """Networks trained on two schedules with five input scales, sampled on four step grids of 5 steps."""

    key = "A4"
    title = "Adapting schedule, input scale and steps to the task"
    why = (
        "Öttl et al. propose to adapt the process to the task. Here networks are trained on the cosine and the linear "
        "schedule with input scales from 1 to 0.05 and sampled in 5 steps on each step grid. What the fingerprint "
        "alone recommends, the cosine schedule whose middle lies at the fingerprint's half-point and the grid of its "
        "curve, stands against the best of all."
    )

    def arms(self, task: str, seed: int) -> tuple[Arm, ...]:
        named = (Arm(task, seed, schedule=schedule, input_scale=scale) for schedule in SCHEDULES for scale in SCALES)
        return (Arm(task, seed), Arm(task, seed, form="mask"), *named)

    def probe(self, context: Context, task: str, seed: int) -> dict[str, Any]:
        own, mask, *named = self.arms(task, seed)
        of = context.tasks[task]
        alone = loss_over_levels(context.network(mask), mask, of)
        fingerprint = alone["log_snr"], alone["loss"].mean(0)
        rows = {}
        for arm in (own, *named):
            drawer = Drawer(context.network(arm), arm, of)
            found = loss_over_levels(drawer.network, arm, of)
            for kind in GRIDS:
                curve = fingerprint if kind == "fingerprint" else (found["log_snr"], found["loss"].mean(0))
                scale = arm.input_scale if arm.schedule != "adapted" else 1.0
                rows[_row(arm, kind)] = drawer, step_grid(kind, FULL_STEPS, curve, scale)
        records = []
        for index in range(min(CASES, len(of.cases))):
            truth = of.truth(index)
            answers = {
                row: drawer.draw(truth.case.image, context.samples, grid, seed=index).answer()
                for row, (drawer, grid) in rows.items()
            }
            records.append(record_case(truth, answers, of.exact, index))
        return {"records": records, "half_point": half_point(alone["log_snr"], alone["error"].mean(0))}

    def findings(self, context: Context, found: Found) -> Findings:
        said = Findings()
        for task in context.tasks:
            by_seed = [found[task, seed]["records"] for seed in context.seeds]
            arms = [arm for arm in self.arms(task, 0) if arm.form == "diffusion"]
            rows = {_row(arm, kind): (arm, kind) for arm in arms for kind in GRIDS}
            shown = {row: {m: score_of(by_seed, row, m) for m in ("ged_u", "spread", "coverage")} for row in rows}
            half = float(np.mean([found[task, seed]["half_point"] for seed in context.seeds]))
            advised = _row(Arm(task, schedule="cosine", input_scale=recommended_scale(half)), "fingerprint")
            best = min(shown, key=lambda row: shown[row]["ged_u"]["value"])
            gap = compared(by_seed, advised, best, "ged_u") if advised != best else None
            said.numbers[task] = {"scores": shown, "half_point": half, "advised": advised, "best": best, "gap": gap}
            said.tables.append(_full_table(task, shown))
            said.figures.append(_full_figure(task, shown, advised, best))
            _say_advice(said, task, half, advised, best, gap)
        return said


def recommended_scale(half: float) -> float:
    """The input scale whose cosine schedule has its middle, 2 ln b, at a half-point; the nearest that is trained."""
    return min(SCALES, key=lambda scale: abs(2 * math.log(scale) - half))


def _row(arm: Arm, kind: str) -> str:
    of = "adapted" if arm.schedule == "adapted" else f"{arm.schedule} {arm.input_scale:g}"
    return f"{of}, {kind}"


def _say_advice(said: Findings, task: str, half: float, advised: str, best: str, gap: dict[str, Any] | None) -> None:
    text = f"{task}: by its half-point of {half:+.2f} the fingerprint advises {advised}; best of all was {best}"
    if gap is None:
        said.say(HOLDS, f"{text}: the same.")
        return
    near = gap["high"] is not None and gap["high"] < CLOSE
    far = gap["low"] is not None and gap["low"] > CLOSE
    words = "as good" if near else "worse" if far else "not decided"
    said.say(HOLDS if near else FAILS if far else UNDECIDED, f"{text}: {words} in GED ({interval(gap, 4)}).")
    said.say(FACT, f"{task}: the best of many was chosen on the same cases, so it looks a little better than it is.")


def _full_table(task: str, shown: dict[str, Any]) -> Table:
    trainings = list(dict.fromkeys(row.partition(",")[0] for row in shown))
    rows = [[Cell(of), *(scored(shown[f"{of}, {kind}"]["ged_u"], 4) for kind in GRIDS)] for of in trainings]
    caption = f"{task}: GED in {FULL_STEPS} steps; rows are schedules and input scales of the training"
    return Table(caption, ["", *(TITLES[kind] for kind in GRIDS)], rows)


def _full_figure(task: str, shown: dict[str, Any], advised: str, best: str) -> Figure:
    rows = [["row", "ged_u", "low", "high"]]
    rows += [[row, s["ged_u"]["value"], s["ged_u"]["low"], s["ged_u"]["high"]] for row, s in shown.items()]
    png = plots.heat({row: s["ged_u"]["value"] for row, s in shown.items()}, GRIDS, {"advised": advised, "best": best})
    caption = f"{task}: GED in {FULL_STEPS} steps by training and step grid; darker is worse."
    return Figure(f"adaptation-{slug(task)}", png, caption, rows)
