"""A9: training windows chosen by the mask make structures look more frequent than they are."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from ...evaluation.pooling import above, score
from ...evaluation.report.tables import Cell, Table, scored
from ...segmentation.tiling import channels_first
from .. import plots
from ..context import Context
from ..question import Question, Results
from ..sampling import direct_probabilities
from ..scores import combine_seeds, magnitude
from ..summary import FAILS, HOLDS, UNDECIDED, Figure, Summary, slug
from ..variants import Variant
from .comparison import score_csv

CROPS = {"image": "windows anywhere", "labels": "half of the windows around the mask"}
ROWS = ("direct head", "samples")
SAMPLES = 8


class CropSelection(Question):
    """Networks trained on windows of half the edge, placed with and without regard to the mask."""

    key = "A9"
    title = "Windows chosen by the mask"
    halves_windows = True
    why = (
        "Training windows are often placed around labelled voxels, to see rare structures more often. The training "
        "data are then biased, and structures that may be absent become too probable. The excess is the mean of the "
        "foreground's probability minus the true one over ambiguous voxels; 0 is unbiased."
    )

    def variants(self, name: str, seed: int) -> tuple[Variant, ...]:
        return tuple(Variant(name, seed, crops=crops, halved=True) for crops in CROPS)

    def measure(self, context: Context, name: str, seed: int) -> dict[str, Any]:
        task = context.tasks[name]
        results: dict[str, Any] = {}
        for variant in self.variants(name, seed):
            sampler = context.sampler(variant)
            grid = sampler.adapted_grid()
            rows: dict[str, list[list[float]]] = {row: [] for row in ROWS}
            for index in range(len(task.cases)):
                truth = task.truth(index)
                window = _random_half(task.shape, np.random.default_rng([index, 9]))
                whole = channels_first(truth.case.image, len(task.shape))
                image, exact = whole[(slice(None), *window)], truth.case.marginals[(slice(1, None), *window)]
                ambiguous = truth.open[(slice(None), *window)]
                predictions = {
                    "direct head": direct_probabilities(sampler.network, image),
                    "samples": sampler.sample(image, SAMPLES, grid, index).softmax.mean(0),
                }
                for row, p in predictions.items():
                    excess = (p[1:] - exact)[ambiguous].sum()
                    rows[row].append([float(excess), float(ambiguous.sum()), float(exact[ambiguous].sum())])
            results[variant.crops] = rows
        return results

    def summarise(self, context: Context, results: Results) -> Summary:
        summary, table, kinds = Summary(), [], list(itertools.product(CROPS, ROWS))
        figure_rows: dict[str, dict[str, Any]] = {}
        for name in context.tasks:
            seeds = [results[name, seed] for seed in context.seeds]
            excess = {(c, row): combine_seeds([score(r[c][row], pooled_excess) for r in seeds]) for c, row in kinds}
            both = {row: [np.stack([r["labels"][row], r["image"][row]], 1) for r in seeds] for row in ROWS}
            more = {
                row: combine_seeds(
                    [score(x, lambda x: pooled_excess(x[:, 0]) - pooled_excess(x[:, 1])) for x in both[row]]
                )
                for row in ROWS
            }
            summary.numbers[name] = {f"{c}, {row}": value for (c, row), value in excess.items()} | {"more": more}
            for row, difference in more.items():
                summary.add(*_sentence(name, row, difference))
            table.append([Cell(name), *(scored(excess[kind]) for kind in kinds)])
            figure_rows |= {f"{name}, {row}, {CROPS[c]}": {"excess": value} for (c, row), value in excess.items()}
        head = ["", *(f"{row}, {CROPS[c]}" for c, row in kinds)]
        summary.tables.append(Table("Excess probability of the foreground; 0 is unbiased", head, table))
        titles = {"excess": "excess probability of the foreground"}
        caption = "Excess probability of the foreground, 0 is unbiased; bars span the seeds' 95 % intervals."
        png, csv = plots.dots(figure_rows, titles), score_csv(figure_rows, titles)
        summary.figures.append(Figure(f"a9-{slug('-'.join(context.tasks))[:60]}", png, caption, csv))
        return summary


def pooled_excess(x: np.ndarray) -> float:
    """Mean of p - exact over the ambiguous voxels of all cases, from [cases, (sum of p - exact, voxels, ...)]."""
    return float(x[:, 0].sum() / max(x[:, 1].sum(), 1))


def _random_half(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[slice, ...]:
    """A random window of half the edge."""
    return tuple(slice(a, a + n // 2) for n, a in ((n, int(rng.integers(n - n // 2 + 1))) for n in shape))


def _sentence(name: str, row: str, difference: dict[str, Any]) -> tuple[str, str]:
    """The claim is that windows around the mask raise the probability."""
    raised, start = above(difference), f"{name}, {row}: windows around the mask"
    if raised is None:
        return UNDECIDED, f"{start}: a change of the foreground's probability is not decided."
    verdict, verb = (HOLDS, "raise") if raised else (FAILS, "lower")
    return verdict, f"{start} {verb} the foreground's probability by {magnitude(difference)}."
