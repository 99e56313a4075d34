"""Ways to make one answer of many samples, those of published programs as their code has them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import SimpleITK as sitk

from .. import metrics
from ..evaluation.known_answer.samplers import mean_squared, votes
from .drawing import Sampled


def mean(drawn: Sampled) -> np.ndarray:
    """Mean of the samples' probabilities: an unbiased estimate of the marginals. [C, *shape], as all rules."""
    return drawn.softmax.mean(0)


def majority(drawn: Sampled) -> np.ndarray:
    """Share of the samples' masks."""
    return votes(drawn.masks, drawn.softmax.shape[1])


def staple(drawn: Sampled) -> np.ndarray:
    """STAPLE (Warfield et al. 2004) of each class by itself, as SimpleITK has it, then made to add up to 1.

    It takes the samples for raters of one truth who err independently, so where they agree more often than not it is
    surer than their share.
    """
    classes, found = drawn.softmax.shape[1], []
    for c in range(classes):
        marked = (drawn.masks == c).astype(np.uint8)
        if marked.any() and not marked.all():
            found.append(sitk.GetArrayFromImage(sitk.STAPLE([sitk.GetImageFromArray(m) for m in marked], 1.0)))
        else:  # all agree, and STAPLE has nothing to estimate
            found.append(marked[0].astype(np.float64))
    p = np.nan_to_num(np.stack(found)).clip(1e-6, 1)
    return p / p.sum(0)


def medoid(drawn: Sampled) -> np.ndarray:
    """The sample that is nearest to all others: one coherent mask, sure of itself everywhere."""
    classes = drawn.softmax.shape[1]
    nearest = metrics.pairwise_distance(drawn.masks, drawn.masks, classes).sum(1).argmin()
    return votes(drawn.masks[nearest][None], classes)


def squared_mean(drawn: Sampled) -> np.ndarray:
    """The square of the samples' share: what MedSegDiff's `staple` returns (guided_diffusion/utils.py)."""
    return mean_squared(drawn.masks, drawn.softmax.shape[1])


def step_uncertainty(drawn: Sampled) -> np.ndarray:
    """Diff-UNet's step-uncertainty fusion (Xing et al. 2023, section 2.3) as its BraTS test has it.

    Every step's x0 counts, by exp(sigmoid(step / 10) * (1 - u)) with u = -p ln p of the samples' mean probability; the
    sum over steps and samples is not normalised before its sigmoid, so nearly all of it is 0 or 1.
    """
    total: np.ndarray | float = 0.0
    for step, p in enumerate(drawn.path):
        of = p.mean(0)
        u = -of * np.log(of.clip(1e-6))
        total = total + np.exp((1 - u) / (1 + np.exp(-step / 10))) * (2 * p - 1).sum(0)
    p = 1 / (1 + np.exp(-np.clip(total, -50, 50)))
    return p / p.sum(0).clip(1e-12)


RULES: dict[str, Callable[[Sampled], np.ndarray]] = {
    "mean probability": mean,
    "majority": majority,
    "STAPLE": staple,
    "medoid sample": medoid,
    "squared mean (MedSegDiff)": squared_mean,
    "step uncertainty (Diff-UNet)": step_uncertainty,
}


def fused(drawn: Sampled, rules: Sequence[str] = tuple(RULES)) -> dict[str, np.ndarray]:
    """The answer [C, *shape] of each rule; samples need their path."""
    return {rule: RULES[rule](drawn) for rule in rules}
