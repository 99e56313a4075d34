"""Questions that score several rows, ways to train or to sample, on the same test cases and compare pairs of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...diffusion.solvers import Solver, ancestral, ddim, dpm_solver_2m
from ...evaluation.known_answer.posterior import Truth
from ...evaluation.known_answer.samplers import Prediction
from ...evaluation.report.tables import Cell, Table, scored
from .. import plots
from ..context import Context
from ..question import Question, Results
from ..sampling import STEPS, direct_prediction, direct_probabilities
from ..scores import BETTER, IDEAL, MEASURES, OPEN, WORSE, Record, compare, magnitude, score_cases, score_over_seeds
from ..summary import FAILS, HOLDS, UNDECIDED, Figure, Summary, join, slug
from ..tasks import Task
from ..variants import Variant

VERDICTS = {BETTER: HOLDS, WORSE: FAILS, OPEN: UNDECIDED}
"""Verdict of a sentence that expects the first of two rows to be better."""
SHARE = 20  # cases of a share; before each share networks are loaded and, in some questions, covariances are fitted
SOLVERS: dict[str, Solver] = {"second order": dpm_solver_2m, "DDIM": ddim, "ancestral": ancestral}

Scores = Mapping[str, Mapping[str, Any]]  # scores by row and measure, None if a row has no such score


def measure_titles(*measures: str) -> dict[str, str]:
    return {m: MEASURES[m].title for m in measures}


def score_rows(by_seed: Sequence[Sequence[Record]], rows: Iterable[str], measures: Iterable[str]) -> Scores:
    """Scores of each row, from the records of each seed."""
    return {row: {m: score_over_seeds(by_seed, row, m) for m in measures if m in MEASURES} for row in rows}


def score_table(
    caption: str, scores: Scores, measures: Mapping[str, str], columns: Mapping[str, Sequence[str]] | None = None
) -> Table:
    """One line per row of `scores`, whose keys are titles; measures that no row has are left out.

    `columns` are more columns by heading, a text for each row.
    """
    columns = columns or {}
    measured = [m for m in measures if any(row[m] for row in scores.values())]
    rows = [
        [Cell(title), *(scored(row[m], 4 if m == "ged_u" else 3) for m in measured), *map(Cell, more)]
        for (title, row), *more in zip(scores.items(), *columns.values(), strict=True)
    ]
    return Table(caption, ["", *(measures[m] for m in measured), *columns], rows)


def score_csv(scores: Scores, measures: Mapping[str, str]) -> list[list[Any]]:
    """Scores by row and measure as the rows of a CSV file."""
    series = {title: [(measures[m], s) for m, s in row.items() if s] for title, row in scores.items()}
    return points_csv(["row", "score", "value"], series)


def points_csv(head: list[str], series: Mapping[str, Sequence[tuple[Any, Mapping[str, Any]]]]) -> list[list[Any]]:
    """Series of (place, score) as the rows of a CSV file: `head`, low, high."""
    rows = [[title, at, s["value"], s["low"], s["high"]] for title, points in series.items() for at, s in points]
    return [[*head, "low", "high"], *rows]


def outcome(a: str, b: str, measure: str, difference: Mapping[str, Any], digits: int = 3) -> str:
    """Whether row `a` is better than `b` in a measure, and by how much, as a clause."""
    if difference["verdict"] == OPEN:
        return f'"{a}" against "{b}" is not decided in {measure}'
    return f'"{a}" is {difference["verdict"]} than "{b}" in {measure} by {magnitude(difference, digits)}'


class Comparison(Question):
    """Scores rows on every task and compares pairs of them."""

    cases: ClassVar[int | None] = 60
    measures: ClassVar[Mapping[str, str]] = measure_titles("iou", "ece", "ged_u", "coverage", "spread")
    """Scores in the table: keys of MEASURES, or those that `scores` adds, with their titles."""
    plotted: ClassVar[tuple[str, ...]] = ("iou", "ged_u")  # measures in the figure
    figure_name: ClassVar[str] = ""  # file name of the figure without the task; the question's key if empty

    @abstractmethod
    def titles(self, context: Context, name: str) -> dict[str, str]:
        """Titles of the rows by key, in the order of the table."""

    @abstractmethod
    def pairs(self) -> dict[str, tuple[str, str]]:
        """Keys of two rows, the first expected to be better, by the key of their difference in study.json."""

    @abstractmethod
    def caption(self, context: Context) -> str:
        """Caption of the table, without the task."""

    def shares(self, task: Task) -> int:
        return max(1, len(task.scored_cases(self.cases)) // SHARE)

    def columns(self, context: Context, results: Results, name: str) -> dict[str, list[str]]:
        """Further columns of the table."""
        return {}

    def scores(self, context: Context, results: Results, name: str) -> Scores:
        """Scores by row and measure."""
        by_seed = [results[name, seed]["records"] for seed in context.seeds]
        return score_rows(by_seed, self.titles(context, name), self.measures)

    def sentences(
        self, name: str, titles: Mapping[str, str], differences: Mapping[str, Mapping[str, Any]]
    ) -> Iterator[tuple[str, str, bool]]:
        """Verdict, text and claim flag: one sentence per pair and decided measure, one per pair for the others."""
        for key, (a, b) in self.pairs().items():
            measured = {m: d for m, d in differences[key].items() if d is not None}
            for m, d in measured.items():
                if d["verdict"] != OPEN:
                    text = f"{name}: {outcome(titles[a], titles[b], self.measures[m], d)}."
                    yield VERDICTS[d["verdict"]], text, False
            if undecided := [self.measures[m] for m, d in measured.items() if d["verdict"] == OPEN]:
                text = f'{name}: "{titles[a]}" against "{titles[b]}" is not decided in {join(undecided)}.'
                yield UNDECIDED, text, False

    def summarise(self, context: Context, results: Results) -> Summary:
        summary, known = Summary(), [m for m in self.measures if m in MEASURES]
        for name in context.tasks:
            by_seed = [results[name, seed]["records"] for seed in context.seeds]
            titles, scores = self.titles(context, name), self.scores(context, results, name)
            differences = {
                key: {m: compare(by_seed, a, b, m) if scores[a][m] and scores[b][m] else None for m in known}
                for key, (a, b) in self.pairs().items()
            }
            summary.numbers[name] = {"scores": scores, "differences": differences}
            titled = {titles[row]: score for row, score in scores.items()}
            columns = self.columns(context, results, name)
            summary.tables.append(score_table(f"{name}: {self.caption(context)}", titled, self.measures, columns))
            plotted = {m: self.measures[m] for m in self.plotted if any(row[m] for row in scores.values())}
            summary.figures.append(
                Figure(
                    f"{self.figure_name or slug(self.key)}-{slug(name)}",
                    plots.dots(titled, plotted, IDEAL),
                    f"{name}: scores of each row; bars span the seeds' 95 % intervals.",
                    score_csv(titled, self.measures),
                )
            )
            for sentence in self.sentences(name, titles, differences):
                summary.add(*sentence)
        return summary


@dataclass(frozen=True)
class Row:
    """A variant and how it is sampled; a direct variant has no steps."""

    variant: Variant
    steps: int = STEPS
    solver: str = "second order"


class VariantComparison(Comparison):
    """Compares variants, or samplers of the same variant."""

    @abstractmethod
    def rows(self, name: str, seed: int) -> dict[str, Row]:
        """Rows by title, in the order of the table."""

    @abstractmethod
    def compared(self) -> list[tuple[str, str]]:
        """Titles of two rows, the first expected to be better."""

    def pairs(self) -> dict[str, tuple[str, str]]:
        return {f"{a} | {b}": (a, b) for a, b in self.compared()}

    def titles(self, context: Context, name: str) -> dict[str, str]:
        return {title: title for title in self.rows(name, context.seeds[0])}

    def caption(self, context: Context) -> str:
        return f"mean over {len(context.seeds)} seeds, and the range of the seeds' 95 % intervals"

    def columns(self, context: Context, results: Results, name: str) -> dict[str, list[str]]:
        facts = [
            [results[name, seed]["facts"][title] for seed in context.seeds] for title in self.titles(context, name)
        ]
        return {
            "iterations": [f"{np.mean([one['iterations'] for one in seeds]):,.0f}" for seeds in facts],
            "1000 weights": [f"{seeds[0]['parameters'] / 1000:,.0f}" for seeds in facts],
            "MFLOP per pass": [f"{seeds[0]['operations'] / 1e6:,.1f}" for seeds in facts],
        }

    def variants(self, name: str, seed: int) -> tuple[Variant, ...]:
        return tuple(dict.fromkeys(row.variant for row in self.rows(name, seed).values()))

    def measure(self, context: Context, name: str, seed: int) -> dict[str, Any]:
        rows = self.rows(name, seed)
        samplers = {v: context.sampler(v) for v in self.variants(name, seed)}

        def predict(truth: Truth, index: int) -> dict[str, Prediction]:
            predictions, image = {}, truth.case.image
            for title, row in rows.items():
                sampler = samplers[row.variant]
                if row.variant.form == "direct":
                    p = direct_probabilities(sampler.network, image)
                    predictions[title] = direct_prediction(p, context.samples, index)
                else:
                    grid, solver = sampler.adapted_grid(row.steps), SOLVERS[row.solver]
                    predictions[title] = sampler.sample(image, context.samples, grid, index, solver).prediction()
            return predictions

        return {
            "records": score_cases(context.tasks[name], predict, self.cases),
            "facts": {title: context.training_facts(row.variant) for title, row in rows.items()},
        }
