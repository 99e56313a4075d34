"""A12: what a sample starts from, and the noise of the process."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...evaluation.known_answer.posterior import Truth
from ...evaluation.known_answer.samplers import Prediction
from ...model.folder import Start
from ...segmentation.sampler import sample_seeds, start_masks
from .. import sampling
from ..context import Context
from ..noise import SPECTRA
from ..question import Results
from ..scores import score_cases
from ..summary import FACT, Summary, join
from ..variants import Variant
from .comparison import Comparison, measure_titles

LOG_SNR = -2.5
"""Noise level from which the masks of a start are denoised; of -2.5, -1 and 1 the best on known answers in 3-D."""
PATCH = 8  # pixels of the edge of a patch

WHITE, MIXED = "white", "mixed"
COPULA, COPULA_DENOISED = "copula", "copula-denoised"
BASE, BASE_DENOISED = "base", "base-denoised"
TITLES = {
    WHITE: "white noise",
    MIXED: "noise with a spectrum",
    COPULA: "copula, as drawn",
    COPULA_DENOISED: f"copula, denoised from {LOG_SNR:g}",
    BASE: "learned base (SSN), as drawn",
    BASE_DENOISED: f"learned base, denoised from {LOG_SNR:g}",
}


class Starts(Comparison):
    """Compares starts of the sampler, with the network of white noise wherever masks are denoised."""

    key = "A12"
    title = "What a sample starts from"
    why = (
        "In white noise one random number decides thousands of undecided voxels, and the sampler has to read the mean "
        "of the noise over all of them. Noise with a spectrum (40 % white, widths of 2 and 8 pixels, 15 % constant) "
        "and correlated masks relieve it: those of a Gaussian copula of the direct probabilities, whose stationary "
        "covariance is fitted to validation cases, and those of a network with jointly Gaussian logits (Monteiro et "
        "al. 2020), whose covariance is learnt from the image. Masks are used as drawn, or with noise added and "
        "denoised."
    )
    measures = measure_titles("iou", "ece", "ged_u", "coverage", "spread")
    plotted = ("ged_u", "coverage")
    figure_name = "starts"

    def variants(self, name: str, seed: int) -> tuple[Variant, ...]:
        return Variant(name, seed), Variant(name, seed, noise="mixed"), Variant(name, seed, form="stochastic")

    def titles(self, context: Context, name: str) -> dict[str, str]:
        return TITLES

    def pairs(self) -> dict[str, tuple[str, str]]:
        return {
            "mixed": (MIXED, WHITE),
            "copula": (COPULA_DENOISED, COPULA),
            "start": (COPULA_DENOISED, WHITE),
            "base": (BASE_DENOISED, BASE),
            "learned": (BASE_DENOISED, COPULA_DENOISED),
        }

    def caption(self, context: Context) -> str:
        return (
            f"{context.samples} samples, mean over {len(context.seeds)} seeds, and the range of the seeds' 95 % "
            "intervals; networks have the same training time each"
        )

    def measure(self, context: Context, name: str, seed: int) -> dict[str, Any]:
        task, count = context.tasks[name], context.samples
        white, mixed, stochastic = self.variants(name, seed)
        of_white, of_mixed, base = context.sampler(white), context.sampler(mixed), context.network(stochastic)
        grids = {WHITE: of_white.adapted_grid(), MIXED: of_mixed.adapted_grid()}
        from_masks = of_white.grid_from(LOG_SNR)
        covariance = sampling.fitted_covariance(of_white.network, task)
        start = Start(covariance, None)

        def predict(truth: Truth, index: int) -> dict[str, Prediction]:
            image = truth.case.image
            p = sampling.direct_probabilities(of_white.network, image)
            copula = Prediction(p, start_masks(start, p, 1.0, sample_seeds(index, count)))
            learned = sampling.stochastic_prediction(base, image, count, index)

            def denoised(drawn: Prediction) -> Prediction:
                return of_white.sample(image, count, from_masks, index, start=drawn.masks).prediction()

            return {
                WHITE: of_white.sample(image, count, grids[WHITE], index).prediction(),
                MIXED: of_mixed.sample(image, count, grids[MIXED], index).prediction(),
                COPULA: copula,
                COPULA_DENOISED: denoised(copula),
                BASE: learned,
                BASE_DENOISED: denoised(learned),
            }

        return {"records": score_cases(task, predict, self.cases), "covariance": covariance.as_json()}

    def summarise(self, context: Context, results: Results) -> Summary:
        summary = super().summarise(context, results)
        for name, task in context.tasks.items():
            covariances = [results[name, seed]["covariance"] for seed in context.seeds]
            summary.numbers[name]["covariances"] = covariances
            summary.add(FACT, f"{name}: {correlation(covariances)}.")
            summary.add(FACT, f"{name}: {decided(task.shape)}.")
        return summary


def correlation(covariances: list[dict[str, Any]]) -> str:
    """Widths of the correlation of the masks around their probabilities, as a clause: a fingerprint of the task."""
    weights = np.mean([np.mean(one["weights"], 0) for one in covariances], 0)
    shared = np.mean([np.mean(one["shared"]) for one in covariances])
    scales = covariances[0]["scales_mm"]
    first, *others = (f"{100 * w:.0f} %{{}} a width of {scale:g} px" for w, scale in zip(weights, scales, strict=True))
    parts = [first.format(" have"), *(other.format("") for other in others), f"{100 * shared:.0f} % are common to all"]
    return f"of the variance of the masks' correlated fields {join(parts)}"


def decided(shape: tuple[int, ...]) -> str:
    """The log-SNR from which a pixel, a patch and a border are decided, for each spectrum, as a clause."""
    pixel, patch = np.zeros(shape, bool), np.zeros(shape, bool)
    pixel[tuple(n // 2 for n in shape)] = True
    patch[tuple(slice(n // 2 - PATCH // 2, n // 2 + PATCH // 2) for n in shape)] = True
    grid = np.stack(np.meshgrid(*(np.arange(n) - n / 2 for n in shape), indexing="ij"))
    border = np.abs(np.linalg.norm(grid, axis=0) - min(shape) / 4) < 0.5
    values = {kind: [spectrum.decided_at(one) for one in (pixel, patch, border)] for kind, spectrum in SPECTRA.items()}
    each = [f"{a:.1f}, {b:.1f} and {c:.1f} on in {kind} noise" for kind, (a, b, c) in values.items()]
    return (
        f"whether a pixel, a patch of {PATCH} pixels and the border of a disc of a quarter of the image are there can "
        f"be told from log-SNR {join(each)}"
    )
