"""A10: sampling in windows from one noise field for the whole image, or from separate noise for each window."""

from __future__ import annotations

import itertools
from typing import Any, ClassVar

import numpy as np
import torch

from ...diffusion.solvers import Denoise, dpm_solver_2m
from ...evaluation.known_answer.posterior import Truth
from ...evaluation.known_answer.samplers import Prediction
from ...evaluation.pooling import score
from ...networks import class_softmax, depth_to_space
from ...runtime.floating_point import flush_denormals
from ...segmentation.sampler import sample_seeds
from ...segmentation.tiling import Tiling, channels_first
from ..architectures.interface import Condition
from ..context import Context
from ..question import Results
from ..scores import combine_seeds, score_cases
from ..tasks import Task
from ..variants import Variant
from .comparison import Comparison, Scores, measure_titles

ONE, WHOLE, BLENDED, STITCHED = "one", "whole", "blended", "stitched"
TITLES = {
    ONE: "one window",
    WHOLE: "windows of one noise field, blended at every step",
    BLENDED: "separate noise per window, blended at the end",
    STITCHED: "separate noise per window, side by side",
}


class Windows(Comparison):
    """Images sampled in windows of half their edge."""

    key = "A10"
    title = "One noise field or separate noise per window"
    halves_windows = True
    why = (
        "A volume larger than a window is sampled in windows. With separate noise, adjacent windows need not agree: "
        "they meet at seams, and averaging their disagreement reduces the spread of the whole. The seam score is the "
        "rate of label changes where windows meet divided by the rate elsewhere; 1 means no seams."
    )
    measures: ClassVar[dict[str, str]] = {
        **measure_titles("ged_u", "spread", "coverage", "iou"),
        "seams": "seams (1 is none)",
    }
    plotted = ("ged_u", "spread", "seams")

    def titles(self, context: Context, name: str) -> dict[str, str]:
        return TITLES

    def pairs(self) -> dict[str, tuple[str, str]]:
        return {other: (WHOLE, other) for other in (BLENDED, STITCHED)}

    def caption(self, context: Context) -> str:
        return "images sampled in windows of half their edge"

    def shares(self, task: Task) -> int:
        return 1  # seams are not among the records

    def measure(self, context: Context, name: str, seed: int) -> dict[str, Any]:
        sampler, changes = context.sampler(Variant(name, seed)), []
        grid = sampler.adapted_grid()

        def predict(truth: Truth, index: int) -> dict[str, Prediction]:
            image = truth.case.image
            p = {how: sample_in_windows(sampler.network, image, how, context.samples, grid, index) for how in TITLES}
            masks = {how: one.argmax(1).astype(np.uint8) for how, one in p.items()}
            changes.append({how: seams(one) for how, one in masks.items()})
            return {how: Prediction(p[how].mean(0), masks[how]) for how in TITLES}

        return {"records": score_cases(sampler.task, predict, self.cases), "seams": changes}

    def scores(self, context: Context, results: Results, name: str) -> Scores:
        rates = {
            how: combine_seeds(
                [score([case[how] for case in results[name, seed]["seams"]], seam_rate) for seed in context.seeds]
            )
            for how in TITLES
        }
        return {how: {**row, "seams": rates[how]} for how, row in super().scores(context, results, name).items()}


def sample_in_windows(
    network: Any, image: np.ndarray, how: str, samples: int, grid: np.ndarray, seed: int
) -> np.ndarray:
    """Class probabilities [samples, C, *shape] of samples drawn in windows of half the edge, `how` a key of TITLES."""
    image = channels_first(image, network.dims)
    shape, half = image.shape[1:], [n // 2 for n in image.shape[1:]]
    device = next(network.parameters()).device
    tiling = Tiling(shape, shape if how == ONE else half, network.multiple)
    if how == STITCHED:
        tiling.windows = [
            tuple(slice(a, a + n // 4) for a, n in zip(start, shape, strict=True))
            for start in itertools.product(*((0, n // 4) for n in shape))
        ]
    generator = torch.Generator().manual_seed(sample_seeds(seed, 1)[0])
    channels = network.classes * 2 ** len(shape)

    def noise(size: tuple[int, ...]) -> torch.Tensor:
        return torch.randn((samples, channels, *size), generator=generator).to(device)

    def denoiser(condition: Condition) -> Denoise:
        def denoise(x: torch.Tensor, node: float) -> torch.Tensor:
            time = torch.full((len(x),), node, device=device)
            return class_softmax(network.denoise(x.contiguous(), time, condition))

        return denoise

    with flush_denormals(), torch.inference_mode():
        values = torch.from_numpy(tiling.pad(image))[None].to(device)
        conditions = [network.encode(values[:, :, *tiling.voxels(w)].contiguous()) for w in tiling.windows]
        heads = [class_softmax(network.head(condition)) for condition in conditions]
        denoisers = [denoiser(c) for c in conditions]
        if how in (ONE, WHOLE):

            def blended(x: torch.Tensor, node: float) -> torch.Tensor:
                return tiling.blend([d(x[:, :, *w], node) for d, w in zip(denoisers, tiling.windows, strict=True)])

            x = noise(tiling.cells)
            p = dpm_solver_2m(blended, x, tiling.blend(heads).expand(x.shape), grid)
        else:
            outputs = []
            for denoise, head in zip(denoisers, heads, strict=True):
                x = noise(head.shape[2:])
                outputs.append(dpm_solver_2m(denoise, x, head.expand(x.shape), grid))
            p = tiling.blend(outputs)
        return tiling.crop(depth_to_space(p)).float().cpu().numpy()


def seams(masks: np.ndarray) -> list[float]:
    """[label changes across the middle of each axis, voxel pairs there, changes elsewhere, pairs elsewhere]."""
    middle = elsewhere = pairs = others = 0.0
    for axis in range(1, masks.ndim):
        changed = np.diff(masks.astype(np.int16), axis=axis) != 0
        across = np.take(changed, masks.shape[axis] // 2 - 1, axis)
        middle, pairs = middle + across.sum(), pairs + across.size
        elsewhere, others = elsewhere + changed.sum() - across.sum(), others + changed.size - across.size
    return [float(middle), float(pairs), float(elsewhere), float(others)]


def seam_rate(x: np.ndarray) -> float:
    """Rate of label changes across the middle divided by the rate elsewhere, from `seams` [cases, 4]."""
    middle, pairs, elsewhere, others = x.sum(0)
    return float(middle / pairs / (elsewhere / others)) if elsewhere > 0 else float("nan")
