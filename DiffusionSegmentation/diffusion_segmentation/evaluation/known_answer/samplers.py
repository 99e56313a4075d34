"""The rows scored on a phantom: the model's sampler on several step grids, and wrong samplers made from the model."""

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

EXACT = "exact"  # key of the exact sampler: the scores of a perfect model with as many samples
FITTED = "fitted"  # key of the model's fitted start, if it has one; the step grids start from white noise
DIRECT = "independent-pixels"  # key of the direct head with independent voxels, the only row with its probabilities
CONTROLS = {DIRECT: "independent pixels", "one-step": "one step", "mean-squared": "mean-squared fusion"}
"""Wrong samplers, which must fail a gate: independent voxels, the most probable mask repeated, and squared means."""


@dataclass(frozen=True)
class Prediction:
    """Output of one row for one case of C classes."""

    probabilities: np.ndarray  # class probabilities of the map, [C, *shape]; for a sampler the mean of its samples
    masks: np.ndarray | None = None  # joint samples uint8 [n, *shape]; None for a row without samples
    seconds: float | None = None  # sampling time; None if nothing was run


@dataclass(frozen=True)
class Steps:
    """A requested step grid: adapted to the task by the model, or uniform in log-SNR."""

    count: int
    uniform: bool = False

    @classmethod
    def read(cls, text: str) -> Steps:
        """From "10" or "uniform:10". Raises InputError for anything else and for fewer than two steps."""
        kind, _, count = text.rpartition(":")
        if kind not in ("", "uniform") or not count.isdecimal() or int(count) < 2:
            raise InputError(f"'{text}' is not a number of steps; give 2 or more, such as 10 or uniform:10.")
        return cls(int(count), kind == "uniform")

    @property
    def key(self) -> str:
        return f"{'uniform' if self.uniform else 'adapted'}-{self.count}"

    @property
    def title(self) -> str:
        return f"{self.count} {'uniform' if self.uniform else 'adapted'} steps"

    def grid(self, model: Model) -> np.ndarray:
        """Log-SNR nodes [count], rising; without LOG_SNR_MAX, because the last node's probabilities are the result."""
        if self.uniform:
            return np.linspace(LOG_SNR_MIN, LOG_SNR_MAX, self.count + 1)[:-1]
        return model.step_grid(self.count)


class ModelSamplers:
    """The rows of a model: its sampler on each step grid, and the controls made from the same model."""

    def __init__(self, model: Model, steps: Sequence[Steps], samples: int, seed: int) -> None:
        self.steps, self.samples, self.seed = steps, samples, seed
        self.plain = model.with_start(None)
        self.grids = {one.key: (self.plain, one.grid(self.plain)) for one in steps}
        if model.start is not None:
            fitted = np.empty(0) if model.is_copula_only else model.step_grid(model.section["steps"]["cpu"])
            self.grids = {FITTED: (model, fitted), **self.grids}

    def __call__(self, image: np.ndarray, index: int) -> dict[str, Prediction]:
        """Predictions for the image [*shape] of case `index`, by row; every step grid gets the same noise."""
        seed, rows = sample_seeds(self.seed, 1, index)[0], {}
        for key, (model, grid) in self.grids.items():
            output, seconds = self._draw(model, image, self.samples, grid, seed)
            rows[key] = Prediction(output.mean, output.masks, seconds)
        one_step = self.plain.step_grid(1)
        single, seconds = self._draw(self.plain, image, 1, one_step, seed)
        direct, rng = single.direct, np.random.default_rng(seed)
        rows[DIRECT] = Prediction(direct, independent_pixels(direct, self.samples, rng), seconds)
        repeated, _ = self._draw(self.plain, image, self.samples, one_step, seed)
        rows["one-step"] = Prediction(repeated.mean, repeated.masks)
        rows["mean-squared"] = Prediction(mean_squared(output.masks, len(direct)))
        return rows

    @staticmethod
    def _draw(model: Model, image: np.ndarray, samples: int, grid: np.ndarray, seed: int) -> tuple[CaseSamples, float]:
        """Samples of one case, and the seconds they took."""
        start = time.perf_counter()
        with flush_denormals():
            output = draw(model, image, samples, grid, seed)
        return output, time.perf_counter() - start

    @property
    def passes(self) -> dict[str, tuple[int, int]]:
        """Passes of encoder and denoiser per case; the first step uses the direct head and needs no denoiser pass."""
        passes = {steps.key: (1, self.samples * (steps.count - 1)) for steps in self.steps}
        if FITTED in self.grids:
            passes[FITTED] = (1, self.samples * len(self.grids[FITTED][1]))
        return passes | {DIRECT: (1, 0)}

    @property
    def titles(self) -> dict[str, str]:
        """Names of the rows, in order."""
        fitted = {FITTED: "fitted start"} if FITTED in self.grids else {}
        return fitted | {steps.key: steps.title for steps in self.steps} | CONTROLS | {EXACT: "exact sampler"}


def independent_pixels(probabilities: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Masks uint8 [samples, *shape] whose voxels are drawn independently from probabilities [C, *shape]."""
    below = np.cumsum(probabilities.astype(np.float64), 0)[:-1]
    below /= below[-1] + probabilities[-1]
    return (rng.random((samples, 1, *below.shape[1:])) > below).sum(1).astype(np.uint8)


def mean_squared(masks: np.ndarray, classes: int) -> np.ndarray:
    """Squared share [C, *shape] of the masks with each foreground class; used elsewhere as STAPLE."""
    fused = votes(masks, classes) ** 2
    fused[0] = 1 - fused[1:].sum(0)
    return fused


def votes(masks: np.ndarray, classes: int) -> np.ndarray:
    """Share of the masks [n, *shape] with each class in each voxel, float64 [C, *shape]."""
    return np.stack([(masks == c).mean(0) for c in range(classes)])
