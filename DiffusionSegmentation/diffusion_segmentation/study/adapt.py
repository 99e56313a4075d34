"""`study DATA --adapt MODEL`: a new step grid for an existing model, from a few labelled cases, and what it gains.

The weights stay. The loss curve over noise levels is measured anew on half of the cases; the other half says whether
samples drawn on the grid of that curve are nearer the truth than on the old one. Written are

    <output>/model/         the model with the new curve
    <output>/adapt.json     both grids, both scores and their difference
    <output>/training.json  for a model trained on the cosine schedule: the input scale that the curve advises, as a
                            configuration for `train --start`
"""

from __future__ import annotations

import copy
import json
import math
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError
from ..evaluation.known_answer.samplers import Prediction
from ..images.writing import write_report
from ..model import folder as models
from ..model.folder import Model
from ..runtime.denormals import flushed
from ..runtime.devices import choose_device
from ..segmentation.sampler import draw
from ..training.loss import loss_curve
from .curves import half_point
from .scores import BETTER, OPEN, amount, compared, record_case, scored
from .tasks import VALIDATION, Sizes, Task, prepare

SAMPLES = 16
CASES = 40
"""Test cases behind the gain, at most."""
FITTED = 32
"""Cases behind the curve, at most."""
OLD, NEW = "old grid", "new grid"


@dataclass(frozen=True)
class Request:
    """What a person asked for."""

    data: str
    model: str
    output: Path
    device: str = "auto"
    sizes: Sizes = Sizes(train=1, validation=FITTED, test=CASES)


def adapt(request: Request) -> dict[str, Any]:
    """Fit, compare, write; returns what adapt.json holds.

    Raises InputError where model and data do not go together, ModelError for a model that cannot be used.
    """
    folder = models.find(request.model)
    model = models.load(folder).to(choose_device(request.device))
    task = prepare(request.data, request.output / "cache", request.sizes)
    check_fits(model, task)
    device = next(model.encoder.parameters()).device
    print("measuring the loss over noise levels", file=sys.stderr, flush=True)
    with flushed():
        networks, lowest = (model.encoder, model.denoiser), model.lowest_log_snr
        curve = loss_curve(*networks, _batches(task), model.classes, device, lowest=lowest)
    adapted = with_curve(model, curve, task)
    steps = model.section["steps"]["cpu" if device.type == "cpu" else "gpu"]
    grids = {OLD: model.step_grid(steps), NEW: adapted.step_grid(steps)}
    records = [_record(model, task, index, grids) for index in range(len(task.cases))]
    gain = compared([records], NEW, OLD, "ged_u")
    found = {
        "model": model.section["name"],
        "data": task.name,
        "steps": steps,
        "cases": len(task.cases),
        "samples": SAMPLES,
        "grids": {name: [round(float(node), 4) for node in grid] for name, grid in grids.items()},
        "curves": {OLD: model.section["process"]["loss_curve"], NEW: curve},
        "scores": {name: {m: scored([records], name, m) for m in ("ged_u", "iou", "spread")} for name in grids},
        "gain": gain,
        "sentence": _sentence(task, steps, gain),
    }
    write_report(request.output / "adapt.json", found)
    models.save(request.output / "model", adapted.metadata, adapted.encoder, adapted.denoiser, adapted.input_statistics)
    if (model.section.get("training") or {}).get("optimisation", {}).get("density") == "cosine":
        _advise(request.output / "training.json", curve)
    return found


def text(found: dict[str, Any], output: Path) -> str:
    """For a terminal."""
    return f"{found['sentence']}\nThe model with the new grid is {output / 'model'}"


def check_fits(model: Model, task: Task) -> None:
    """Raise InputError, one sentence, where the model cannot be asked about this task."""
    if model.classes != task.classes:
        raise InputError(
            f"The model has {model.classes - 1} structures and '{task.name}' {task.classes - 1}; adapt a model of the "
            "same structures."
        )
    if model.dims != len(task.shape):
        raise InputError(f"The model was made for {model.dims} axes and '{task.name}' has {len(task.shape)}.")
    if any(n % model.multiple for n in task.shape):
        shape = "x".join(map(str, task.shape))
        raise InputError(f"The model needs edges of a multiple of {model.multiple} voxels; '{task.name}' has {shape}.")


def with_curve(model: Model, curve: dict[str, list[float]], task: Task) -> Model:
    """The same networks with another loss curve, and a note of where it comes from."""
    metadata = copy.deepcopy(model.metadata)
    section = metadata["diffusion_segmentation"]
    section["process"]["loss_curve"] = curve
    section["adapted"] = {"data": task.name, "from": {"name": section["name"], "sha256": section["sha256"]}}
    return replace(model, metadata=metadata)


def _batches(task: Task) -> list[tuple[torch.Tensor, torch.Tensor]]:
    images, masks = task.arrays(VALIDATION)
    count = min(FITTED, len(images))
    size = 16 if len(task.shape) == 2 else 1
    return [
        (
            torch.from_numpy(np.array(images[start : start + size]))[:, None],
            torch.from_numpy(np.array(masks[start : start + size, :1])),
        )
        for start in range(0, count, size)
    ]


def _record(model: Model, task: Task, index: int, grids: dict[str, np.ndarray]) -> dict[str, Any]:
    truth = task.truth(index)
    answers = {}
    with flushed():
        for name, grid in grids.items():
            drawn = draw(model, np.ascontiguousarray(truth.case.image)[None], SAMPLES, grid, index)
            answers[name] = Prediction(drawn.mean[0], drawn.masks[0])
    return record_case(truth, answers, task.exact, index)


def _sentence(task: Task, steps: int, gain: dict[str, Any]) -> str:
    if gain["verdict"] == OPEN:
        return f"On {task.name}, {steps} steps of the new grid are not decidedly better or worse than of the old one."
    word = "nearer to" if gain["verdict"] == BETTER else "farther from"
    return f"On {task.name}, {steps} steps of the new grid draw masks {word} the truth, in GED {amount(gain, 4)}."


def _advise(path: Path, curve: dict[str, list[float]]) -> None:
    """The cosine schedule's middle, 2 ln b, at the curve's half-point."""
    scale = math.exp(half_point(np.array(curve["log_snr"]), np.array(curve["cross_entropy"])) / 2)
    section = {"process": {"input_scale": round(float(np.clip(scale, 0.05, 1.0)), 3)}}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"diffusion_segmentation": section}, indent=2) + "\n", encoding="utf-8")
