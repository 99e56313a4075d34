"""Fusion: how samples become one mask and one map."""

from __future__ import annotations

from typing import Any

from ...evaluation.known_answer.samplers import Prediction
from ...evaluation.report.tables import Cell, Table, scored
from .. import plots
from ..context import Context
from ..curves import loss_over_levels
from ..drawing import STEPS, Drawer
from ..findings import Figure, Findings, slug
from ..fusion_rules import RULES, fused
from ..question import Found, Question
from ..scores import MEASURES, WANTED, compared, record_case
from ..scores import scored as score_of
from ..solvers import step_grid
from ..variants import Arm
from .rows import score_rows, sentence

CASES = 60
MEASURED = ("iou", "ece", "e_aurc")
MEAN = next(iter(RULES))


class Fusion(Question):
    """The same samples fused by six rules."""

    key = "fusion"
    title = "How samples become one answer"
    why = (
        "Published programs fuse their samples each in its own way. Here the same samples are fused by their mean "
        "probability, by majority, by STAPLE, by the one sample that is nearest to all, and by the rules that the code "
        "of MedSegDiff and Diff-UNet has."
    )

    def arms(self, task: str, seed: int) -> tuple[Arm, ...]:
        return (Arm(task, seed),)

    def probe(self, context: Context, task: str, seed: int) -> dict[str, Any]:
        (arm,), of = self.arms(task, seed), context.tasks[task]
        drawer = Drawer(context.network(arm), arm, of)
        curve = loss_over_levels(drawer.network, arm, of)
        grid = step_grid("adapted", STEPS, (curve["log_snr"], curve["loss"].mean(0)))
        records = []
        for index in range(min(CASES, len(of.cases))):
            truth = of.truth(index)
            drawn = drawer.draw(truth.case.image, context.samples, grid, index, path=True)
            answers = {rule: Prediction(p) for rule, p in fused(drawn).items()}
            records.append(record_case(truth, answers, of.exact, index))
        return {"records": records}

    def findings(self, context: Context, found: Found) -> Findings:
        said = Findings()
        for task in context.tasks:
            by_seed = [found[task, seed]["records"] for seed in context.seeds]
            shown = {rule: {m: score_of(by_seed, rule, m) for m in MEASURED} for rule in RULES}
            against = {rule: {m: compared(by_seed, MEAN, rule, m) for m in MEASURED} for rule in RULES if rule != MEAN}
            said.numbers[task] = {"scores": shown, "differences": against}
            rows = [[Cell(rule), *(scored(scores[m]) for m in MEASURED)] for rule, scores in shown.items()]
            caption = f"{task}: {context.samples} samples fused by each rule"
            said.tables.append(Table(caption, ["", *(MEASURES[m].title for m in MEASURED)], rows))
            png = plots.dots(shown, {m: MEASURES[m].title for m in MEASURED[:2]}, WANTED)
            caption = f"{task}: the same samples fused; bars reach over the seeds' 95 % intervals."
            said.figures.append(Figure(f"fusion-{slug(task)}", png, caption, score_rows(shown)))
            for rule, differences in against.items():
                said.say(*sentence(task, f"the {MEAN}", rule, differences))
        return said
