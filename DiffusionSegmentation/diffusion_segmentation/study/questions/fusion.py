"""Fusion: how samples become one mask and one map."""

from __future__ import annotations

from typing import Any

from ...evaluation.known_answer.posterior import Truth
from ...evaluation.known_answer.samplers import Answer
from ..context import Context
from ..fusion_rules import RULES
from ..sampling import VariantSampler
from ..scores import score_cases
from ..variants import Variant
from .comparison import Comparison, measure_titles

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

    def variants(self, name: str, seed: int) -> tuple[Variant, ...]:
        return (Variant(name, seed),)

    def titles(self, context: Context, name: str) -> dict[str, str]:
        return {rule: rule for rule in RULES}

    def pairs(self) -> dict[str, tuple[str, str]]:
        return {rule: (MEAN, rule) for rule in RULES if rule != MEAN}

    def caption(self, context: Context) -> str:
        return f"{context.samples} samples fused by each rule"

    def measure(self, context: Context, name: str, seed: int) -> dict[str, Any]:
        (variant,), task = self.variants(name, seed), context.tasks[name]
        sampler = VariantSampler(context.network(variant), variant, task)
        grid = sampler.adapted_grid()

        def predict(truth: Truth, index: int) -> dict[str, Answer]:
            samples = sampler.sample(truth.case.image, context.samples, grid, index, path=True)
            return {name: Answer(rule(samples)) for name, rule in RULES.items()}

        return {"records": score_cases(task, predict, self.cases)}
