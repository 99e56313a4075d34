"""Fusion: rules that combine samples into class probabilities, and their comparison."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import SimpleITK as sitk

from ... import metrics
from ...evaluation.known_answer.posterior import Truth
from ...evaluation.known_answer.samplers import Prediction, mean_squared, votes
from ..context import Context
from ..sampling import Samples
from ..scores import score_cases
from ..variants import Variant
from .comparison import Comparison, measure_titles


def staple(samples: Samples) -> np.ndarray:
    """STAPLE (Warfield et al. 2004, SimpleITK) of each class separately, normalised over the classes.

    It treats the samples as raters of one truth with independent errors, so it is more certain than their share.
    """
    classes, by_class = samples.softmax.shape[1], []
    for c in range(classes):
        marked = (samples.masks == c).astype(np.uint8)
        if marked.any() and not marked.all():
            by_class.append(sitk.GetArrayFromImage(sitk.STAPLE([sitk.GetImageFromArray(m) for m in marked], 1.0)))
        else:  # all agree; STAPLE cannot estimate anything
            by_class.append(marked[0].astype(np.float64))
    p = np.nan_to_num(np.stack(by_class)).clip(1e-6, 1)
    return p / p.sum(0)


def medoid(samples: Samples) -> np.ndarray:
    """The sample nearest to all others: one coherent mask with probabilities of 0 and 1."""
    classes = samples.softmax.shape[1]
    nearest = metrics.pairwise_distance(samples.masks, samples.masks, classes).sum(1).argmin()
    return votes(samples.masks[nearest][None], classes)


def step_uncertainty(samples: Samples) -> np.ndarray:
    """Diff-UNet's step-uncertainty fusion (Xing et al. 2023, section 2.3) as in its BraTS test code.

    Weights every step's x0 by exp(sigmoid(step / 10) * (1 - u)) with u = -p ln p of the samples' mean probability p.
    The sum over steps and samples is not normalised before the sigmoid, so nearly all probabilities are 0 or 1.
    """
    total: np.ndarray | float = 0.0
    for step, p in enumerate(samples.path):
        average = p.mean(0)
        u = -average * np.log(average.clip(1e-6))
        total = total + np.exp((1 - u) / (1 + np.exp(-step / 10))) * (2 * p - 1).sum(0)
    p = 1 / (1 + np.exp(-np.clip(total, -50, 50)))
    return p / p.sum(0).clip(1e-12)


RULES: dict[str, Callable[[Samples], np.ndarray]] = {
    "mean probability": lambda samples: samples.softmax.mean(0),  # an unbiased estimate of the marginals
    "majority": lambda samples: votes(samples.masks, samples.softmax.shape[1]),
    "STAPLE": staple,
    "medoid sample": medoid,
    # What MedSegDiff's `staple` returns (guided_diffusion/utils.py).
    "squared mean (MedSegDiff)": lambda samples: mean_squared(samples.masks, samples.softmax.shape[1]),
    "step uncertainty (Diff-UNet)": step_uncertainty,
}
MEAN = next(iter(RULES))


class Fusion(Comparison):
    """The same samples fused by six rules."""

    key = "fusion"
    title = "Fusing samples into one segmentation"
    why = (
        "Published programs fuse their samples in different ways. Here the same samples are fused by their mean "
        "probability, by majority, by STAPLE, by the sample nearest to all others, and by the rules in the code of "
        "MedSegDiff and Diff-UNet."
    )
    measures = measure_titles("iou", "ece", "e_aurc")
    plotted = ("iou", "ece")

    def titles(self, context: Context, name: str) -> dict[str, str]:
        return {rule: rule for rule in RULES}

    def pairs(self) -> dict[str, tuple[str, str]]:
        return {rule: (MEAN, rule) for rule in RULES if rule != MEAN}

    def caption(self, context: Context) -> str:
        return f"{context.samples} samples fused by each rule"

    def measure(self, context: Context, name: str, seed: int) -> dict[str, Any]:
        sampler = context.sampler(Variant(name, seed))
        grid = sampler.adapted_grid()

        def predict(truth: Truth, index: int) -> dict[str, Prediction]:
            samples = sampler.sample(truth.case.image, context.samples, grid, index, path=True)
            return {name: Prediction(rule(samples)) for name, rule in RULES.items()}

        return {"records": score_cases(sampler.task, predict, self.cases)}
