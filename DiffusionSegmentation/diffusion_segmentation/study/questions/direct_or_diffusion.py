"""A1: is diffusion better than the same network trained directly, and by which scores?"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from ...evaluation.known_answer.posterior import Truth
from ...evaluation.known_answer.samplers import Prediction, votes
from ...model.folder import Start
from ...segmentation.sampler import sample_seeds, start_masks
from .. import sampling
from ..context import Context
from ..question import Results
from ..scores import score_cases
from ..variants import Variant, ensemble
from .comparison import VERDICTS, Comparison, measure_titles, outcome

FUSED = (1, 8, 32)  # numbers of samples that are fused
DIRECT, DICE, ENSEMBLE, DROPOUT, STOCHASTIC = "direct", "direct-dice", "ensemble", "dropout", "stochastic"
HEAD, COPULA = "head", "copula"
DIFFUSION = {n: f"diffusion-{n}" for n in FUSED}
EXACT = {n: f"exact-{n}" for n in FUSED[1:]}
LARGEST = DIFFUSION[FUSED[-1]]
TITLES = {
    DIRECT: "direct, CE",
    DICE: "direct, Dice + CE",
    ENSEMBLE: "deep ensemble, CE",
    DROPOUT: "MC dropout, CE",
    STOCHASTIC: "stochastic segmentation network",
    **{row: f"diffusion, {n} sample{'s' * (n > 1)}" for n, row in DIFFUSION.items()},
    HEAD: "direct head of the diffusion model",
    COPULA: "copula of that direct head",
    **{row: f"exact sampler, {n} samples" for n, row in EXACT.items()},
}


class DirectOrDiffusion(Comparison):
    """Direct networks, other methods with samples, and diffusion fused over 1, 8 and 32 samples.

    The copula of the diffusion model's direct head needs no training; its covariance is fitted to validation cases.
    """

    key = "A1"
    title = "Direct or diffusion"
    why = (
        "The same encoder is trained on the same data for the same time, as a direct segmentation network and as a "
        "diffusion model. The summary of Öttl et al. reports that diffusion improves IoU and ECE over a direct network "
        "with a Dice and CE loss. The direct network with CE alone is the control that separates the effect of "
        "diffusion from that of the loss."
    )
    cases = None
    measures = measure_titles("iou", "ece", "e_aurc", "ged_u", "coverage", "spread")
    plotted = ("iou", "ece", "ged_u", "coverage")
    figure_name = "direct-or-diffusion"

    def __init__(self, rows: tuple[str, ...]) -> None:
        self.rows = rows

    def detail(self) -> tuple[str, ...]:
        return self.rows

    def variants(self, name: str, seed: int) -> tuple[Variant, ...]:
        return (Variant(name, seed), *(v for row in self.rows for v in _direct_variants(row, name, seed)))

    def titles(self, context: Context, name: str) -> dict[str, str]:
        exact = EXACT.values() if context.tasks[name].exact else ()
        return {row: TITLES[row] for row in (*self.rows, *DIFFUSION.values(), HEAD, COPULA, *exact)}

    def pairs(self) -> dict[str, tuple[str, str]]:
        return {row: (LARGEST, row) for row in (*self.rows, HEAD, COPULA)}

    def caption(self, context: Context) -> str:
        return (
            f"mean over {len(context.seeds)} seeds, and the range of the seeds' 95 % intervals over the test cases; "
            "samples of direct networks are independent pixels; the exact sampler shows what a perfect model scores "
            "with as many samples"
        )

    def columns(self, context: Context, results: Results, name: str) -> dict[str, list[str]]:
        seconds = [
            [results[name, seed]["seconds"].get(row) for seed in context.seeds] for row in self.titles(context, name)
        ]
        return {"CPU ms per case": ["" if None in spent else f"{1000 * np.mean(spent):.0f}" for spent in seconds]}

    def sentences(
        self, name: str, titles: Mapping[str, str], differences: Mapping[str, Mapping[str, Any]]
    ) -> Iterator[tuple[str, str, bool]]:
        """The paper's claim with its controls, then the other comparisons."""
        controls, stated = [row for row in (DIRECT, ENSEMBLE) if row in differences], set()
        for row in (DICE, *controls) if DICE in differences else ():
            for measure in ("iou", "ece"):
                d = differences[row][measure]
                text = outcome(titles[LARGEST], titles[row], self.measures[measure], d)
                stated.add(f"{name}: {text}.")
                yield VERDICTS[d["verdict"]], f"{name}, {'claim' if row == DICE else 'control'}: {text}.", True
        yield from (sentence for sentence in super().sentences(name, titles, differences) if sentence[1] not in stated)

    def measure(self, context: Context, name: str, seed: int) -> dict[str, Any]:
        sampler, task = context.sampler(Variant(name, seed)), context.tasks[name]
        networks = {row: [context.network(v) for v in _direct_variants(row, name, seed)] for row in self.rows}
        grid = sampler.adapted_grid()
        start = Start(sampling.fitted_covariance(sampler.network, task), None)
        samples, seconds = context.samples, defaultdict(list)

        def timed(row: str, function: Callable[..., Any], *arguments: Any) -> Any:
            started = time.process_time()
            result = function(*arguments)
            seconds[row].append(time.process_time() - started)
            return result

        def copula(image: np.ndarray, index: int) -> Prediction:
            p = sampling.direct_probabilities(sampler.network, image)
            return Prediction(p, start_masks(start, p, 1.0, sample_seeds(index, samples)))

        def predict(truth: Truth, index: int) -> dict[str, Prediction]:
            image = truth.case.image
            predictions = {
                row: timed(row, _predict_directly, row, networks[row], image, samples, index) for row in networks
            }
            fused = timed(LARGEST, sampler.sample, image, samples, grid, index)
            predictions |= {row: fused.prediction(min(n, samples)) for n, row in DIFFUSION.items()}
            predictions[COPULA] = timed(COPULA, copula, image, index)
            predictions[HEAD] = Prediction(predictions[COPULA].probabilities)
            exact = truth.case.sample(np.random.default_rng([index, 7]), samples)
            return predictions | {
                row: Prediction(votes(exact[:n], task.classes), exact[:n]) for n, row in EXACT.items()
            }

        return {
            "records": score_cases(task, predict),
            "seconds": {row: float(np.median(spent)) for row, spent in seconds.items()},
            "iterations": {v.title(): context.training_facts(v)["iterations"] for v in self.variants(name, seed)},
        }


def _direct_variants(row: str, name: str, seed: int) -> list[Variant]:
    """The networks of a row."""
    if row == ENSEMBLE:
        return ensemble(name, seed)
    if row == STOCHASTIC:
        return [Variant(name, seed, form="stochastic")]
    loss, dropout = "dice" if row == DICE else "ce", 1.0 if row == DROPOUT else 0.0
    return [Variant(name, seed, form="direct", loss=loss, dropout=dropout)]


def _predict_directly(row: str, networks: list[Any], image: np.ndarray, samples: int, seed: int) -> Prediction:
    if row == STOCHASTIC:
        return sampling.stochastic_prediction(networks[0], image, samples, seed)
    if row == ENSEMBLE:
        return sampling.mixture_prediction(
            np.stack([sampling.direct_probabilities(n, image) for n in networks]), samples, seed
        )
    if row == DROPOUT:
        passes = np.stack([sampling.direct_probabilities(networks[0], image) for _ in range(samples)])
        return sampling.mixture_prediction(passes, samples, seed)
    return sampling.direct_prediction(sampling.direct_probabilities(networks[0], image), samples, seed)
