"""A11: samples for a network that is already trained: on top of it frozen, by copula, or from an ensemble."""

from __future__ import annotations

from typing import Any

import numpy as np

from ...evaluation.known_answer.posterior import Truth
from ...evaluation.known_answer.samplers import Prediction
from ...model.folder import Start
from ...segmentation.sampler import sample_seeds, start_masks
from .. import sampling
from ..context import Context
from ..scores import score_cases
from ..variants import Variant, ensemble
from .comparison import Comparison, measure_titles

CE, DICE, OWN, ENSEMBLE = "on-ce", "on-dice", "own", "ensemble-dice"
COPULA = {"ce": "copula-ce", "dice": "copula-dice"}
TITLES = {
    CE: "on top of a frozen network, CE",
    DICE: "on top of a frozen network, Dice + CE",
    OWN: "own encoder, trained together",
    COPULA["ce"]: "copula of the frozen network, CE",
    COPULA["dice"]: "copula of the frozen network, Dice + CE",
    ENSEMBLE: "deep ensemble, Dice + CE",
}


class Frozen(Comparison):
    """A sampler on top of a frozen direct network, beside the ways without a sampler and the model trained whole.

    The logits of the frozen network have a fitted temperature in the sampler and in the copula.
    """

    key = "A11"
    title = "On top of a frozen segmenter"
    why = (
        "Most people have a segmenter that they trust. A thin encoder and a denoiser are trained on top of it, frozen, "
        "after a loss that gives probabilities (CE) and one that does not (Dice and CE). As with the command "
        "'train --on', they are trained on cases that the segmenter has not seen, because on its own training cases "
        "its errors are smaller than elsewhere; in a folder, however, they are trained on the segmenter's cases, for "
        "want of others. Their training time comes on top of the segmenter's. The bar is the model whose encoder is "
        "trained with its denoiser; the alternatives without a sampler are a copula of the frozen network's "
        "probabilities and a deep ensemble of such networks."
    )
    measures = measure_titles("iou", "ece", "ged_u", "coverage", "spread")
    plotted = ("ged_u", "coverage", "spread")
    figure_name = "frozen-segmenter"

    def variants(self, name: str, seed: int) -> tuple[Variant, ...]:
        return (*_samplers(name, seed).values(), *ensemble(name, seed, "dice"))

    def titles(self, context: Context, name: str) -> dict[str, str]:
        return TITLES

    def pairs(self) -> dict[str, tuple[str, str]]:
        others = {other: (DICE, other) for other in (COPULA["dice"], ENSEMBLE)}
        return {OWN: (OWN, DICE), CE: (CE, DICE), **others}

    def caption(self, context: Context) -> str:
        return (
            f"{context.samples} samples, up to {self.cases} test cases, mean over {len(context.seeds)} seeds, and the "
            "range of the seeds' 95 % intervals; networks have the same training time each, the ensemble's members "
            "share it"
        )

    def measure(self, context: Context, name: str, seed: int) -> dict[str, Any]:
        task, count = context.tasks[name], context.samples
        samplers = {row: context.sampler(variant) for row, variant in _samplers(name, seed).items()}
        grids = {row: sampler.adapted_grid() for row, sampler in samplers.items()}
        members = [context.network(variant) for variant in ensemble(name, seed, "dice")]
        heads = {COPULA["ce"]: samplers[CE].network, COPULA["dice"]: samplers[DICE].network}
        starts = {row: Start(sampling.fitted_covariance(network, task), None) for row, network in heads.items()}

        def predict(truth: Truth, index: int) -> dict[str, Prediction]:
            image = truth.case.image
            predictions = {
                row: sampler.sample(image, count, grids[row], index).prediction() for row, sampler in samplers.items()
            }
            for row, network in heads.items():
                p = sampling.direct_probabilities(network, image)
                predictions[row] = Prediction(p, start_masks(starts[row], p, 1.0, sample_seeds(index, count)))
            p = np.stack([sampling.direct_probabilities(network, image) for network in members])
            return predictions | {ENSEMBLE: sampling.mixture_prediction(p, count, index)}

        return {"records": score_cases(task, predict, self.cases)}


def _samplers(name: str, seed: int) -> dict[str, Variant]:
    """Diffusion models by row."""
    return {CE: Variant(name, seed, on="ce"), DICE: Variant(name, seed, on="dice"), OWN: Variant(name, seed)}
