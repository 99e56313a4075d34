"""Questions that compare rows: ways to train or to sample, each scored on the same test cases."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...evaluation.known_answer.samplers import Prediction
from ...evaluation.report.tables import Cell, Table, scored
from .. import plots
from ..context import Context
from ..curves import loss_over_levels
from ..drawing import STEPS, Drawer, direct_answer, direct_probabilities
from ..findings import FACT, FAILS, HOLDS, UNDECIDED, Figure, Findings, listed, slug
from ..question import Found, Question
from ..scores import BETTER, JOINT, MEASURES, OPEN, WANTED, WORSE, amount, compared, record_case
from ..scores import scored as score_of
from ..solvers import SOLVERS, step_grid
from ..variants import Arm


@dataclass(frozen=True)
class Row:
    """An arm and how it is sampled; a direct arm has no steps."""

    arm: Arm
    steps: int = STEPS
    solver: str = "second order"

    @property
    def direct(self) -> bool:
        return self.arm.form == "direct"


class Rows(Question):
    """Scores of named rows on every task, and what pairs of them say."""

    cases: ClassVar[int] = 60
    measures: ClassVar[tuple[str, ...]] = ("iou", "ece", "ged_u", "coverage", "spread")
    drawn: ClassVar[tuple[str, ...]] = ("iou", "ged_u")
    """Measures in the figure."""

    @abstractmethod
    def rows(self, task: str, seed: int) -> dict[str, Row]:
        """Rows by title, in the order of the tables."""

    @abstractmethod
    def pairs(self) -> list[tuple[str, str]]:
        """Titles of rows that are compared: is the first better than the second?"""

    def arms(self, task: str, seed: int) -> tuple[Arm, ...]:
        return tuple(dict.fromkeys(row.arm for row in self.rows(task, seed).values()))

    def probe(self, context: Context, task: str, seed: int) -> dict[str, Any]:
        of, rows = context.tasks[task], self.rows(task, seed)
        networks = {arm: context.network(arm) for arm in self.arms(task, seed)}
        curves = {arm: loss_over_levels(n, arm, of) for arm, n in networks.items() if arm.form == "diffusion"}
        records = []
        for index in range(min(self.cases, len(of.cases))):
            truth = of.truth(index)
            answers: dict[str, Prediction] = {}
            for title, row in rows.items():
                if row.direct:
                    p = direct_probabilities(networks[row.arm], truth.case.image)
                    answers[title] = direct_answer(p, context.samples, index)
                    continue
                curve = curves[row.arm]
                grid = step_grid("adapted", row.steps, (curve["log_snr"], curve["loss"].mean(0)))
                drawer = Drawer(networks[row.arm], row.arm, of)
                drawn = drawer.draw(truth.case.image, context.samples, grid, index, SOLVERS[row.solver])
                answers[title] = drawn.answer()
            records.append(record_case(truth, answers, of.exact, index))
        return {"records": records, "facts": {title: context.facts(row.arm) for title, row in rows.items()}}

    def findings(self, context: Context, found: Found) -> Findings:
        said = Findings()
        for task in context.tasks:
            by_seed = [found[task, seed]["records"] for seed in context.seeds]
            titles = list(self.rows(task, context.seeds[0]))
            shown = {title: {m: score_of(by_seed, title, m) for m in self.measures} for title in titles}
            against = {f"{a} | {b}": {m: compared(by_seed, a, b, m) for m in self.measures} for a, b in self.pairs()}
            facts = {title: [found[task, seed]["facts"][title] for seed in context.seeds] for title in titles}
            said.numbers[task] = {"scores": shown, "differences": against, "facts": facts}
            said.tables.append(self._table(context, task, shown, facts))
            said.figures.append(self._figure(task, shown))
            for (a, b), differences in zip(self.pairs(), against.values(), strict=True):
                said.say(*sentence(task, a, b, differences))
        return said

    def _table(self, context: Context, task: str, shown: dict[str, Any], facts: dict[str, Any]) -> Table:
        measures = [m for m in self.measures if any(scores[m] for scores in shown.values())]
        rows = []
        for title, scores in shown.items():
            cells = [scored(scores[m], 4 if m == "ged_u" else 3) for m in measures]
            of = facts[title]
            iterations = f"{np.mean([one['iterations'] for one in of]):,.0f}"
            size = f"{of[0]['parameters'] / 1000:,.0f}", f"{of[0]['operations'] / 1e6:,.1f}"
            rows.append([Cell(title), *cells, Cell(iterations), *map(Cell, size)])
        head = ["", *(MEASURES[m].title for m in measures), "iterations", "1000 weights", "MFLOP a pass"]
        caption = f"{task}: mean over {len(context.seeds)} seeds, and the range of the seeds' 95 % intervals"
        return Table(caption, head, rows)

    def _figure(self, task: str, shown: dict[str, Any]) -> Figure:
        drawn = [m for m in self.drawn if any(scores[m] for scores in shown.values())]
        png = plots.dots(shown, {m: MEASURES[m].title for m in drawn}, WANTED)
        caption = f"{task}: scores of each row; bars reach over the seeds' 95 % intervals."
        return Figure(f"{slug(self.key)}-{slug(task)}", png, caption, score_rows(shown))


def score_rows(shown: dict[str, Any]) -> list[list[Any]]:
    """Scores by row and measure as the rows of a CSV."""
    rows = [["row", "score", "value", "low", "high"]]
    for title, scores in shown.items():
        rows += [[title, MEASURES[m].title, s["value"], s["low"], s["high"]] for m, s in scores.items() if s]
    return rows


def sentence(task: str, a: str, b: str, differences: dict[str, Any], joint: bool = True) -> tuple[str, str]:
    """Whether row `a` is better than `b`, in which scores and by how much: verdict and text."""
    outcome: dict[str, list[str]] = {BETTER: [], WORSE: [], OPEN: []}
    for m, d in differences.items():
        if d is not None and (joint or m not in JOINT):
            outcome[d["verdict"]].append(MEASURES[m].title + ("" if d["verdict"] == OPEN else f" ({amount(d)})"))
    parts = [f"better in {listed(outcome[BETTER])}"] if outcome[BETTER] else []
    parts += [f"worse in {listed(outcome[WORSE])}"] if outcome[WORSE] else []
    mark = {(True, True): FACT, (True, False): HOLDS, (False, True): FAILS, (False, False): UNDECIDED}
    text = f"{task}: {a} against {b} is "
    text += " and ".join(parts) if parts else "neither better nor worse in any score"
    if outcome[OPEN] and parts:
        text += f"; {listed(outcome[OPEN])} {'are' if len(outcome[OPEN]) > 1 else 'is'} not decided"
    return mark[bool(outcome[BETTER]), bool(outcome[WORSE])], f"{text}."
