"""`study DATA --adapt MODEL`: fits the step grid of an existing model to a few labelled cases.

The weights do not change. The loss curve over noise levels is measured on validation cases, and test cases show whether
samples on its step grid are closer to the truth than on the old grid. Writes

    <output>/model/         the model with the new curve
    <output>/adapt.json     both grids, both scores and their difference
    <output>/training.json  for a model trained on the cosine schedule: the input scale that the curve suggests, as a
                            configuration for `train --start`
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import ModelError
from ..evaluation.known_answer.posterior import Truth
from ..evaluation.known_answer.run import check_fits
from ..evaluation.known_answer.samplers import Prediction
from ..images.writing import write_report
from ..model import folder as models
from ..runtime.devices import choose_device
from ..runtime.floating_point import flush_denormals
from ..segmentation.sampler import draw
from ..training.loss import loss_curve
from .curves import half_point
from .scores import OPEN, compare, magnitude, score_cases, score_over_seeds
from .tasks import VALIDATION, Sizes, Task, plan

logger = logging.getLogger(__name__)

SAMPLES = 16
MAX_TEST_CASES = 40
MAX_CURVE_CASES = 32
OLD, NEW = "old grid", "new grid"


@dataclass(frozen=True)
class AdaptOptions:
    """Options of the command."""

    data: str
    model: str
    output: Path
    device: str = "auto"
    sizes: Sizes = Sizes(train=1, validation=MAX_CURVE_CASES, test=MAX_TEST_CASES)


def adapt(options: AdaptOptions) -> dict[str, Any]:
    """Fit, compare and write; returns the content of adapt.json.

    Raises InputError if the model does not fit the data, ModelError if it cannot be loaded.
    """
    model = models.load(models.find(options.model)).to(choose_device(options.device))
    if model.foreign is not None:
        raise ModelError("The steps of a sampler on top of a network that others trained cannot be adapted; train it.")
    task, write = plan(options.data, options.output / "cache", options.sizes, slices=model.dims == 2)
    check_fits(model, task.name, task.classes, task.shape, task.inputs)
    write(False)
    device = next(model.encoder.parameters()).device
    logger.info("measuring the loss over noise levels")
    with flush_denormals():
        networks, lowest = (model.encoder, model.denoiser), model.lowest_log_snr
        curve = loss_curve(*networks, _batches(task), model.classes, device, lowest=lowest)
    metadata = copy.deepcopy(model.metadata)
    section = metadata["diffusion_segmentation"]
    section["process"]["loss_curve"] = curve
    section["adapted"] = {"data": task.name, "from": {"name": section["name"], "sha256": section["sha256"]}}
    adapted = replace(model, metadata=metadata)
    steps = model.default_steps(device)
    grids = {OLD: model.step_grid(steps), NEW: adapted.step_grid(steps)}

    def predict(truth: Truth, index: int) -> Mapping[str, Prediction]:
        image = np.ascontiguousarray(truth.case.image)
        with flush_denormals():
            samples = {name: draw(model, image, SAMPLES, grid, index) for name, grid in grids.items()}
        return {name: Prediction(one.mean, one.masks) for name, one in samples.items()}

    by_seed = [score_cases(task, predict)]
    gain = compare(by_seed, NEW, OLD, "ged_u")
    result = {
        "model": model.section["name"],
        "data": task.name,
        "steps": steps,
        "cases": len(task.cases),
        "samples": SAMPLES,
        "grids": {name: [round(float(node), 4) for node in grid] for name, grid in grids.items()},
        "curves": {OLD: model.section["process"]["loss_curve"], NEW: curve},
        "scores": {name: {m: score_over_seeds(by_seed, name, m) for m in ("ged_u", "iou", "spread")} for name in grids},
        "gain": gain,
        "sentence": _sentence(task, steps, gain),
    }
    write_report(options.output / "adapt.json", result)
    models.save(options.output / "model", adapted.metadata, adapted.encoder, adapted.denoiser, adapted.input_statistics)
    if (model.section.get("training") or {}).get("optimisation", {}).get("density") == "cosine":
        _write_input_scale(options.output / "training.json", curve)
    return result


def text(result: dict[str, Any], output: Path) -> str:
    """The result for a terminal."""
    return f"{result['sentence']}\nThe model with the new grid is {output / 'model'}"


def _batches(task: Task) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Validation images [N, channels, *shape] with the first mask of each [N, 1, *shape]."""
    images, masks = (np.array(array[:MAX_CURVE_CASES]) for array in task.arrays(VALIDATION))
    size = 16 if len(task.shape) == 2 else 1
    return [
        (torch.from_numpy(images[start : start + size]), torch.from_numpy(masks[start : start + size, :1]))
        for start in range(0, len(images), size)
    ]


def _sentence(task: Task, steps: int, gain: dict[str, Any]) -> str:
    if gain["verdict"] == OPEN:
        return f"{task.name}, {steps} steps: the difference in GED between the new and the old grid is not decided."
    return f"{task.name}, {steps} steps: the new grid is {gain['verdict']} than the old in GED by {magnitude(gain, 4)}."


def _write_input_scale(path: Path, curve: dict[str, list[float]]) -> None:
    """The input scale b that puts the middle of the cosine schedule, 2 ln b, at the curve's half-point."""
    scale = math.exp(half_point(np.array(curve["log_snr"]), np.array(curve["cross_entropy"])) / 2)
    section = {"process": {"input_scale": round(float(np.clip(scale, 0.05, 1.0)), 3)}}
    write_report(path, {"diffusion_segmentation": section})
