"""A9: windows chosen by the drawn mask make structures look more frequent than they are."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...evaluation.pooling import score
from ...evaluation.report.tables import Cell, Table, scored
from .. import plots
from ..context import Context
from ..curves import loss_over_levels
from ..drawing import STEPS, Drawer, direct_probabilities
from ..findings import FAILS, HOLDS, UNDECIDED, Figure, Findings, slug
from ..question import Found, Question
from ..scores import hull
from ..solvers import step_grid
from ..tasks import Task, check_halves
from ..variants import Arm

CROPS = {"image": "windows anywhere", "labels": "half of the windows around the drawn mask"}
SAMPLES = 8


class CropSelection(Question):
    """Networks trained on windows of half the edge, chosen with and without a look at the mask."""

    key = "A9"
    title = "Windows chosen by the mask"
    why = (
        "Windows are often drawn around labelled voxels, to see more of rare structures. What is trained on is then no "
        "longer what happens, and a structure that may or may not be there looks too probable. The excess is the mean "
        "of the foreground's probability minus the true one, where the truth leaves it open; 0 is right."
    )

    def arms(self, task: str, seed: int) -> tuple[Arm, ...]:
        return tuple(Arm(task, seed, crops=crops, halved=True) for crops in CROPS)

    def check(self, task: Task) -> None:
        check_halves(self.key, task)

    def probe(self, context: Context, task: str, seed: int) -> dict[str, Any]:
        of = context.tasks[task]
        found: dict[str, Any] = {}
        for arm in self.arms(task, seed):
            network = context.network(arm)
            drawer = Drawer(network, arm, of)
            curve = loss_over_levels(network, arm, of)
            grid = step_grid("adapted", STEPS, (curve["log_snr"], curve["loss"].mean(0)))
            rows: dict[str, list[list[float]]] = {"direct head": [], "samples": []}
            for index in range(len(of.cases)):
                truth = of.truth(index)
                window = window_of(of.shape, np.random.default_rng([index, 9]))
                image, exact = truth.case.image[window], truth.case.marginals[(slice(1, None), *window)]
                here = truth.open[(slice(None), *window)]
                answers = {
                    "direct head": direct_probabilities(network, image),
                    "samples": drawer.draw(image, SAMPLES, grid, index).softmax.mean(0),
                }
                for row, p in answers.items():
                    rows[row].append([float((p[1:] - exact)[here].sum()), float(here.sum()), float(exact[here].sum())])
            found[arm.crops] = rows
        return found

    def findings(self, context: Context, found: Found) -> Findings:
        said, shown = Findings(), {}
        for task in context.tasks:
            excess = {
                (crops, row): hull([score(found[task, s][crops][row], pooled_excess) for s in context.seeds])
                for crops in CROPS
                for row in ("direct head", "samples")
            }
            more = {
                row: hull(
                    [
                        score(
                            np.stack([np.array(found[task, s][crops][row]) for crops in ("labels", "image")], 1),
                            lambda x: pooled_excess(x[:, 0]) - pooled_excess(x[:, 1]),
                        )
                        for s in context.seeds
                    ]
                )
                for row in ("direct head", "samples")
            }
            shown[task] = excess
            said.numbers[task] = {f"{crops}, {row}": value for (crops, row), value in excess.items()} | {"more": more}
            for row, difference in more.items():
                said.say(*_sentence(task, row, difference))
        head = ["", *(f"{row}, {CROPS[crops]}" for crops in CROPS for row in ("direct head", "samples"))]
        rows = [
            [Cell(task), *(scored(excess[crops, row]) for crops in CROPS for row in ("direct head", "samples"))]
            for task, excess in shown.items()
        ]
        said.tables.append(Table("Excess of the foreground's probability; 0 is right", head, rows))
        said.figures.append(_figure(shown))
        return said


def window_of(shape: tuple[int, ...], rng: np.random.Generator) -> tuple[slice, ...]:
    """A window of half the edge anywhere in the image."""
    return tuple(slice(a, a + n // 2) for n, a in ((n, int(rng.integers(n - n // 2 + 1))) for n in shape))


def pooled_excess(x: np.ndarray) -> float:
    """Mean of p - exact over the open voxels of all cases, from [cases, (sum of p - exact, voxels, ...)]."""
    return float(x[:, 0].sum() / max(x[:, 1].sum(), 1))


def _sentence(task: str, row: str, difference: dict[str, Any]) -> tuple[str, str]:
    value, low, high = difference["value"], difference["low"], difference["high"]
    if low is None or high is None or low <= 0 <= high:
        words, mark = "whether windows around the mask raise it is not decided", UNDECIDED
    elif low > 0:
        words, mark = f"windows around the mask raise it by {value:.3f} ({low:.3f} to {high:.3f})", HOLDS
    else:
        words, mark = f"windows around the mask lower it by {-value:.3f} ({-high:.3f} to {-low:.3f})", FAILS
    return mark, f"{task}, {row}: probability of the foreground: {words}; the claim is that they raise it."


def _figure(shown: dict[str, Any]) -> Figure:
    rows = {
        f"{task}, {row}, {CROPS[crops]}": {"excess": value}
        for task, excess in shown.items()
        for (crops, row), value in excess.items()
    }
    table = [["row", "excess", "low", "high"]]
    table += [[name, s["excess"]["value"], s["excess"]["low"], s["excess"]["high"]] for name, s in rows.items()]
    png = plots.dots(rows, {"excess": "excess of the foreground's probability"})
    caption = "Excess of the foreground's probability; bars reach over the seeds' 95 % intervals, 0 is right."
    return Figure(f"a9-{slug('-'.join(shown))[:60]}", png, caption, table)
