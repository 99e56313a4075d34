"""What a model answers to a case of a phantom, and wrong ways to draw that must be found out."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ...diffusion.process import LOG_SNR_MAX, LOG_SNR_MIN
from ...errors import InputError
from ...model.folder import Model
from ...runtime.floating_point import flush_denormals
from ...segmentation.sampler import CaseSamples, draw, sample_seeds

EXACT = "exact"
"""The row of the exact sampler: what a perfect model would score from as many samples."""
FITTED = "fitted"
"""The row of a model's own start, where it has one; the step grids start from white noise."""
CONTROLS = {
    "independent-pixels": "independent pixels",
    "one-step": "one step",
    "mean-squared": "mean-squared fusion",
}
"""Rows that must fail. The first two are the direct head's: each pixel drawn by itself, and no drawing at all."""


@dataclass(frozen=True)
class Answer:
    """What one row says of one case of C classes."""

    probabilities: np.ndarray
    """Class probabilities as they would be shown, [C, *shape]; of a sampler the mean of its samples."""
    masks: np.ndarray | None = None
    """Joint samples uint8 [n, *shape]; None where the row claims none."""
    seconds: float | None = None
    """Time to draw; None where nothing was run for it."""


@dataclass(frozen=True)
class Steps:
    """A step grid that was asked for: the task-adapted one of the model, or one uniform in log-SNR."""

    count: int
    uniform: bool = False

    @classmethod
    def read(cls, text: str) -> Steps:
        """From "10" or "uniform:10". Raises InputError for anything else and for fewer than two steps."""
        kind, _, count = text.rpartition(":")
        if kind not in ("", "uniform") or not count.isdecimal() or int(count) < 2:
            raise InputError(f"'{text}' is no number of steps; give 2 or more, such as 10 or uniform:10.")
        return cls(int(count), kind == "uniform")

    @property
    def key(self) -> str:
        return f"{'uniform' if self.uniform else 'adapted'}-{self.count}"

    @property
    def title(self) -> str:
        return f"{self.count} {'uniform' if self.uniform else 'adapted'} steps"

    def grid(self, model: Model) -> np.ndarray:
        """Log-SNR nodes [count], rising. The uniform ones, like the adapted, leave the last share to the softmax."""
        if self.uniform:
            return np.linspace(LOG_SNR_MIN, LOG_SNR_MAX, self.count + 1)[:-1]
        return model.step_grid(self.count)


class Respondent:
    """The rows of a model: its sampler on each step grid, and the controls made of the same model."""

    def __init__(self, model: Model, steps: Sequence[Steps], samples: int, seed: int) -> None:
        self.model, self.steps, self.samples, self.seed = model, steps, samples, seed
        self.plain = model.with_start(None)
        has_nodes = model.start is not None and not model.is_copula_only
        self.own_grid = model.step_grid(model.section["steps"]["cpu"]) if has_nodes else np.empty(0)

    def __call__(self, image: np.ndarray, index: int) -> dict[str, Answer]:
        """Answers to the image [*shape] of case `index`, by row; the same noise for every step grid."""
        seed, rows = sample_seeds(self.seed, 1, index)[0], {}
        if self.model.start is not None:
            drawn, seconds = self._draw(image, self.samples, self.own_grid, seed, self.model)
            rows[FITTED] = Answer(drawn.mean[0], drawn.masks[0], seconds)
        for steps in self.steps:
            drawn, seconds = self._draw(image, self.samples, steps.grid(self.plain), seed)
            rows[steps.key] = Answer(drawn.mean[0], drawn.masks[0], seconds)
        once = self.plain.step_grid(1)
        single, seconds = self._draw(image, 1, once, seed)
        direct, rng = single.direct[0], np.random.default_rng(seed)
        rows["independent-pixels"] = Answer(direct, independent_pixels(direct, self.samples, rng), seconds)
        several, _ = self._draw(image, self.samples, once, seed)
        rows["one-step"] = Answer(several.mean[0], several.masks[0])
        rows["mean-squared"] = Answer(mean_squared(drawn.masks[0], len(direct)))
        return rows

    def _draw(
        self, image: np.ndarray, samples: int, grid: np.ndarray, seed: int, model: Model | None = None
    ) -> tuple[CaseSamples, float]:
        """Samples of one case, by default from white noise, and the seconds they took."""
        start = time.perf_counter()
        with flush_denormals():
            drawn = draw(model or self.plain, image[None], samples, grid, seed)
        return drawn, time.perf_counter() - start

    @property
    def passes(self) -> dict[str, tuple[int, int]]:
        """Passes of encoder and denoiser that a case takes; the first step is the direct head's and takes none."""
        drawn = {steps.key: (1, self.samples * (steps.count - 1)) for steps in self.steps}
        if self.model.start is not None:
            drawn[FITTED] = (1, self.samples * len(self.own_grid))
        return drawn | {"independent-pixels": (1, 0)}

    @property
    def titles(self) -> dict[str, str]:
        """Names of the rows, in their order."""
        own = {FITTED: "fitted start"} if self.model.start is not None else {}
        return own | {steps.key: steps.title for steps in self.steps} | CONTROLS | {EXACT: "exact sampler"}


def independent_pixels(probabilities: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Masks uint8 [samples, *shape] whose voxels are drawn from [C, *shape] without regard to each other."""
    below = np.cumsum(probabilities.astype(np.float64), 0)[:-1]
    below /= below[-1] + probabilities[-1]
    return (rng.random((samples, 1, *below.shape[1:])) > below).sum(1).astype(np.uint8)


def mean_squared(masks: np.ndarray, classes: int) -> np.ndarray:
    """Each foreground class's share of the masks, squared; the rest is background. What passes for STAPLE elsewhere."""
    fused = votes(masks, classes) ** 2
    fused[0] = 1 - fused[1:].sum(0)
    return fused


def votes(masks: np.ndarray, classes: int) -> np.ndarray:
    """Share of the masks [n, *shape] that have each class in each voxel, float64 [C, *shape]."""
    return np.stack([(masks == c).mean(0) for c in range(classes)])
