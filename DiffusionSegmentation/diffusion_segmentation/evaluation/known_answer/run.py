"""Evaluation on a phantom: every row is scored against the exact posterior of each case."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import InputError
from ...images.input_names import Input, channel_count, inputs_of, require_same_inputs
from ...model.folder import Model
from ...phantoms import Phantom, PhantomCase
from ...segmentation.tiling import channels_first
from .. import cost
from ..store import CaseStore, Records, run_cases
from .posterior import Truth, entropy_bits, score_case
from .samplers import EXACT, Prediction, votes

CASES = {2: 400, 3: 100}  # default number of cases, by the number of axes
SAMPLES = 64
DRAW_CASE, DRAW_TRUTH, DRAW_EXACT, SCORE = range(4)
"""Third part of the seeds; training uses seeds of two parts, so no random numbers are shared."""

Predict = Callable[[np.ndarray, int], Mapping[str, Prediction]]
"""From an image [*shape] and the index of its case to the predictions of all rows."""


def check_fits(model: Model, name: str, classes: int, shape: Sequence[int], inputs: Sequence[Input]) -> None:
    """Raise InputError, one sentence, if the model cannot segment images of `shape` of the task `name`."""
    grid = "x".join(map(str, shape))
    if model.dims != len(shape):
        raise InputError(f"The model was made for {model.dims} axes and the grid {grid} has {len(shape)}.")
    if model.classes != classes:
        counts = f"The model has {model.classes - 1} structures and '{name}' {classes - 1}"
        raise InputError(f"{counts}; choose a model of the same structures.")
    of_model = inputs_of(model.section)
    require_same_inputs(of_model, inputs, name)
    values = channel_count(of_model)
    if values != channel_count(inputs):
        seen = "1 value" if values == 1 else f"{values} values"
        raise InputError(
            f"The model sees {seen} per pixel and '{name}' has {channel_count(inputs)}; choose a model of such images."
        )
    if any(n % model.multiple for n in shape):
        raise InputError(f"The model needs edges of a multiple of {model.multiple} voxels; {grid} is not that.")


def evaluate_known(task: Phantom, predict: Predict, cases: int, samples: int, seed: int, store: CaseStore) -> Records:
    """Records of the cases by name: {"case": numbers of its posterior, "rows": numbers of each row and of EXACT}.

    `predict` gets images only, not the posterior. Stored cases are not computed again.
    """

    def work(index: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        case = task.draw(np.random.default_rng([seed, index, DRAW_CASE]))
        truth = Truth(case, np.random.default_rng([seed, index, DRAW_TRUTH]))
        predictions = dict(predict(case.image, index))
        exact = case.sample(np.random.default_rng([seed, index, DRAW_EXACT]), samples)
        first = next(iter(predictions.values()))
        predictions[EXACT] = Prediction(votes(exact, case.classes), exact)
        rng = np.random.default_rng([seed, index, SCORE])
        rows = {key: score_case(truth, prediction, rng) for key, prediction in predictions.items()}
        record = {"case": truth.record(), "rows": rows, "memory_bytes": cost.peak_memory()}
        return record, _picture(case, truth, first)

    return run_cases([f"case {index + 1}" for index in range(cases)], work, store)[0]


def _picture(case: PhantomCase, truth: Truth, prediction: Prediction) -> dict[str, np.ndarray]:
    """Arrays for a picture of a prediction with its first input, in 3D of the slice with the largest entropy."""
    bits = entropy_bits(prediction.probabilities)
    at = () if bits.ndim == 2 else (int(bits.sum((1, 2)).argmax()),)
    masks = np.zeros((2, *bits.shape), np.uint8) if prediction.masks is None else prediction.masks[:2]
    return {
        "image": channels_first(case.image, bits.ndim)[(0, *at)].astype(np.float16),
        "truth": truth.draws[0][at],
        "consensus": prediction.probabilities.argmax(0).astype(np.uint8)[at],
        "entropy": bits[at].astype(np.float16),
        "exact_entropy": truth.entropy[at].astype(np.float16),
        "samples": np.stack([mask[at] for mask in masks]),
        "spacing": np.ones(2),
    }
