"""A model on a task with a known answer: cases of a phantom, every row scored against the exact law."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...errors import InputError
from ...model.folder import Model
from ...phantoms import Case, Phantom
from .. import cost
from ..loop import each_case
from ..store import Kept
from .posterior import GROUP, Truth, entropy_bits, score_case
from .samplers import EXACT, Answer, votes

CASES = {2: 400, 3: 100}
"""Cases that are evaluated by default, by the number of axes."""
SAMPLES = 64
# Streams of random numbers that no training uses: there a stream's seed has two parts, here it has three.
DRAW_CASE, DRAW_TRUTH, DRAW_EXACT, SCORE = range(4)

Respond = Callable[[np.ndarray, int], Mapping[str, Answer]]
"""From an image and the number of its case to the rows' answers."""


def check_fits(model: Model, task: Phantom, samples: int) -> None:
    """Raise InputError, one sentence, where the model cannot be asked about this task."""
    if samples < GROUP:
        raise InputError(f"A task with a known answer needs {GROUP} samples a case or more.")
    shape = "x".join(map(str, task.shape))
    if model.dims != len(task.shape):
        raise InputError(f"The model was made for {model.dims} axes and the grid {shape} has {len(task.shape)}.")
    if model.classes != task.classes:
        raise InputError(
            f"The model has {model.classes - 1} foreground classes and the task '{task.name}' {task.classes - 1}; "
            "evaluate it on the task that it was trained on."
        )
    if any(n % model.multiple for n in task.shape):
        raise InputError(f"The model needs edges of a multiple of {model.multiple} voxels; {shape} is not that.")


def evaluate_known(
    task: Phantom, respond: Respond, cases: int, samples: int, seed: int, kept: Kept
) -> dict[str, dict[str, Any]]:
    """Records of the cases by name: {"case": facts of its law, "rows": numbers of each row, the exact sampler's too}.

    `respond` gets images alone: what is asked does not know the law. Cases that are kept are not drawn again.
    """

    def work(index: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        case = task.draw(np.random.default_rng([seed, index, DRAW_CASE]))
        truth = Truth(case, np.random.default_rng([seed, index, DRAW_TRUTH]))
        answers = dict(respond(case.image, index))
        exact = case.sample(np.random.default_rng([seed, index, DRAW_EXACT]), samples)
        shown = next(iter(answers.values()))
        answers[EXACT] = Answer(votes(exact, case.classes), exact)
        rng = np.random.default_rng([seed, index, SCORE])
        rows = {key: score_case(truth, answer, rng) for key, answer in answers.items()}
        record = {"case": truth.record(), "rows": rows, "memory_bytes": cost.peak_memory()}
        return record, _picture(case, truth, shown)

    return each_case([f"case {index + 1}" for index in range(cases)], work, kept)[0]


def _picture(case: Case, truth: Truth, answer: Answer) -> dict[str, np.ndarray]:
    """What a picture of the first row's answer needs: in 3D the slice where its entropy is largest."""
    bits = entropy_bits(answer.probabilities)
    at = () if bits.ndim == 2 else (int(bits.sum((1, 2)).argmax()),)
    masks = np.zeros((2, *bits.shape), np.uint8) if answer.masks is None else answer.masks[:2]
    return {
        "image": case.image[at].astype(np.float16),
        "truth": truth.draws[0][at],
        "consensus": answer.probabilities.argmax(0).astype(np.uint8)[at],
        "entropy": bits[at].astype(np.float16),
        "exact_entropy": truth.entropy[at].astype(np.float16),
        "samples": np.stack([mask[at] for mask in masks]),
        "spacing": np.ones(2),
    }
