"""A10: one noise field for the whole image, or noise of its own for each window."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import torch

from ...evaluation.known_answer.samplers import Prediction
from ...evaluation.pooling import score
from ...evaluation.report.tables import Cell, Table, scored
from ...networks import class_softmax, depth_to_space
from ...runtime.denormals import flushed
from ...segmentation.sampler import sample_seeds, solve
from ...segmentation.tiling import Tiling
from .. import plots
from ..context import Context
from ..curves import loss_over_levels
from ..drawing import STEPS
from ..findings import Figure, Findings, slug
from ..question import Found, Question
from ..scores import MEASURES, WANTED, compared, hull, record_case
from ..scores import scored as score_of
from ..solvers import step_grid
from ..tasks import Task, check_halves
from ..variants import Arm
from .rows import score_rows, sentence

WHOLE, BLENDED, STITCHED = "whole", "blended", "stitched"
TITLES = {
    "one": "one window",
    WHOLE: "windows of one noise field, blended at every step",
    BLENDED: "noise of its own for each window, blended at the end",
    STITCHED: "noise of its own for each window, side by side",
}
CASES = 60
MEASURED = ("ged_u", "spread", "coverage", "iou")


class Windows(Question):
    """Images sampled in windows of half their edge."""

    key = "A10"
    title = "Whole-volume noise or noise of each window"
    why = (
        "A volume that is larger than a window is sampled in windows. Where each draws noise of its own, their masks "
        "need not belong together: they meet in seams, and the whole varies too little, because what windows disagree "
        "in averages out. Seams are label changes where windows meet over those elsewhere; 1 is none."
    )

    def arms(self, task: str, seed: int) -> tuple[Arm, ...]:
        return (Arm(task, seed),)

    def check(self, task: Task) -> None:
        check_halves(self.key, task)

    def probe(self, context: Context, task: str, seed: int) -> dict[str, Any]:
        (arm,), of = self.arms(task, seed), context.tasks[task]
        network = context.network(arm)
        curve = loss_over_levels(network, arm, of)
        grid = step_grid("adapted", STEPS, (curve["log_snr"], curve["loss"].mean(0)))
        records, changes = [], []
        for index in range(min(CASES, len(of.cases))):
            truth = of.truth(index)
            rows = {name: draw_in_windows(network, truth.case.image, name, context.samples, grid, index)
                    for name in TITLES}  # fmt: skip
            answers = {name: Prediction(p.mean(0), p.argmax(1).astype(np.uint8)) for name, p in rows.items()}
            records.append(record_case(truth, answers, of.exact, index))
            changes.append({name: seams(answer.masks) for name, answer in answers.items()})
        return {"records": records, "seams": changes}

    def findings(self, context: Context, found: Found) -> Findings:
        said = Findings()
        for task in context.tasks:
            by_seed = [found[task, seed]["records"] for seed in context.seeds]
            shown = {name: {m: score_of(by_seed, name, m) for m in MEASURED} for name in TITLES}
            rate = {
                name: hull([score([case[name] for case in found[task, s]["seams"]], seam_rate) for s in context.seeds])
                for name in TITLES
            }
            said.numbers[task] = {"scores": shown, "seams": rate}
            measures = [m for m in MEASURED if any(s[m] for s in shown.values())]
            rows = [
                [Cell(TITLES[name]), *(scored(shown[name][m]) for m in measures), scored(rate[name], 2)]
                for name in TITLES
            ]
            head = ["", *(MEASURES[m].title for m in measures), "seams"]
            said.tables.append(Table(f"{task}: images sampled in windows of half their edge", head, rows))
            for other in (BLENDED, STITCHED):
                against = {m: compared(by_seed, WHOLE, other, m) for m in MEASURED}
                said.say(*sentence(task, TITLES[WHOLE], TITLES[other], against))
            titled = {TITLES[name]: {**scores, "seams": rate[name]} for name, scores in shown.items()}
            png = plots.dots(
                titled, {**{m: MEASURES[m].title for m in measures[:2]}, "seams": "seams, 1 is none"}, WANTED
            )
            caption = f"{task}: sampled in windows; bars reach over the seeds' 95 % intervals."
            csv = score_rows({title: {m: s[m] for m in measures} for title, s in titled.items()})
            csv += [[title, "seams", *(s["seams"][k] for k in ("value", "low", "high"))] for title, s in titled.items()]
            said.figures.append(Figure(f"a10-{slug(task)}", png, caption, csv))
        return said


def draw_in_windows(network: Any, image: np.ndarray, how: str, samples: int, grid: np.ndarray, seed: int) -> np.ndarray:
    """Class probabilities [samples, C, *shape] of samples drawn in windows of half the edge, as TITLES name it."""
    shape, half = image.shape, [n // 2 for n in image.shape]
    device = next(network.parameters()).device
    tiling = Tiling(shape, shape if how == "one" else half, network.multiple)
    if how == STITCHED:
        tiling.windows = [
            tuple(slice(a, a + n // 4) for a, n in zip(start, shape, strict=True))
            for start in itertools.product(*((0, n // 4) for n in shape))
        ]
    generator = torch.Generator().manual_seed(sample_seeds(seed, 1)[0])
    channels = network.classes * 2 ** len(shape)
    with flushed(), torch.inference_mode():
        values = torch.from_numpy(tiling.pad(image))[None, None].to(device)
        conditions = [network.encode(values[(..., *tiling.voxels(window))].contiguous()) for window in tiling.windows]
        heads = [_first(network, condition) for condition in conditions]

        def denoiser(condition: Any) -> Any:
            def denoise(x: torch.Tensor, node: float) -> torch.Tensor:
                time = torch.full((len(x),), node, device=device)
                return class_softmax(network.denoise(x.contiguous(), time, condition))

            return denoise

        if how in ("one", WHOLE):
            x = torch.randn((samples, channels, *tiling.cells), generator=generator).to(device)
            denoisers = [denoiser(condition) for condition in conditions]

            def blended(x: torch.Tensor, node: float) -> torch.Tensor:
                answers = [d(x[(..., *w)], node) for d, w in zip(denoisers, tiling.windows, strict=True)]
                return tiling.blend(answers)

            p = solve(blended, x, tiling.blend(heads).expand(x.shape), grid)
        else:
            answers = []
            for window, condition, head in zip(tiling.windows, conditions, heads, strict=True):
                size = [s.stop - s.start for s in window]
                x = torch.randn((samples, channels, *size), generator=generator).to(device)
                answers.append(solve(denoiser(condition), x, head.expand(x.shape), grid))
            p = tiling.blend(answers)
        return tiling.crop(depth_to_space(p)).float().cpu().numpy()


def _first(network: Any, condition: Any) -> torch.Tensor:
    return class_softmax(network.head(condition))


def seams(masks: np.ndarray) -> list[float]:
    """Label changes between neighbours across the middle of each axis and elsewhere, with the numbers of neighbours."""
    middle = elsewhere = pairs = others = 0.0
    for axis in range(1, masks.ndim):
        changed = np.diff(masks.astype(np.int16), axis=axis) != 0
        at = masks.shape[axis] // 2 - 1
        across = np.take(changed, at, axis)
        middle, pairs = middle + across.sum(), pairs + across.size
        elsewhere, others = elsewhere + changed.sum() - across.sum(), others + changed.size - across.size
    return [float(middle), float(pairs), float(elsewhere), float(others)]


def seam_rate(x: np.ndarray) -> float:
    """Changes across the middle over changes elsewhere, each a neighbour pair, from `seams` [cases, 4]."""
    middle, pairs, elsewhere, others = x.sum(0)
    return float(middle / pairs / (elsewhere / others)) if elsewhere > 0 else float("nan")
