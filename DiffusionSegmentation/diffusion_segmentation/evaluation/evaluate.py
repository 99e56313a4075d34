"""`diffusion-segmentation evaluate`: scores of a model as JSON, table and HTML page."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..any_model import head_of_sampler
from ..calibration.calibrate import ON_FOLDERS, require_fit
from ..calibration.start import labelled
from ..diffusion.process import LOG_SNR_MIN
from ..errors import InputError
from ..images.dataset import label_order, read_dataset
from ..images.file_digest import files_sha256
from ..images.input_names import Input, inputs_of, require_same_inputs
from ..images.writing import write_report
from ..model import folder as models
from ..model.folder import Model
from ..model.seen_cases import cases_of_folds
from ..phantoms import PHANTOMS, phantom
from ..runtime.devices import choose_device
from ..runtime.versions import versions
from ..segmentation.sampler import sample_seeds
from ..training.sources import WINDOW, Heads
from . import cost, joint
from .dataset import cases
from .dataset import scores as folder_scores
from .known_answer import run as known
from .known_answer import scores as known_scores
from .known_answer.posterior import GROUP
from .known_answer.samplers import ModelSamplers, Steps
from .report.page import write_page
from .report.sentences import evaluation_sentences
from .report.spreadsheet import write_csv
from .report.text import evaluation_text as text
from .store import SCHEMA, CaseStore, Records, run_cases

logger = logging.getLogger(__name__)

__all__ = ["EvaluationRequest", "evaluate", "text"]

STEPS = ("5", "10")  # default step grids of a phantom
HEADS = 100  # default number of synthetic heads


@dataclass(frozen=True)
class EvaluationRequest:
    """Options of an evaluation; None is the default of the kind of data."""

    model: str
    dataset: str
    output: Path
    samples: int | None = None
    steps: tuple[str, ...] = ()
    cases: int | None = None
    seed: int = 0
    device: str = "auto"
    window: tuple[int, int, int] | None = None  # voxels of synthetic heads


def evaluate(request: EvaluationRequest) -> dict[str, Any]:
    """Write evaluation.json, cases.csv and evaluation.html into the output folder; returns the content of the first.

    Finished cases are stored in the subfolder `cases` and reused by the same request.

    Raises InputError if model, data and options do not fit or no case can be read, ModelError for an unusable model,
    and the errors of `segment` about memory and disk.
    """
    folder = models.find(request.model)
    model = models.load(folder)
    if model.foreign is not None and not Path(request.dataset).is_dir():
        raise InputError(ON_FOLDERS)
    if Path(request.dataset).is_dir():
        evaluation, records, store = _on_folder(request, folder, model)
    elif request.dataset.partition(":")[0] in PHANTOMS:
        evaluation, records, store = _on_phantom(request, model)
    elif request.dataset.endswith(".npz"):
        evaluation, records, store = _on_heads(request, model)
    else:
        raise InputError(
            f"'{request.dataset}' is neither a folder of labelled images, a file of tissue priors (.npz), nor one of "
            f"the tasks with a known answer ({', '.join(PHANTOMS)})."
        )
    evaluation["sentences"] = evaluation_sentences(evaluation)
    write_report(request.output / "evaluation.json", evaluation)
    write_csv(request.output / "cases.csv", evaluation, records)
    write_page(request.output / "evaluation.html", evaluation, records, store)
    return evaluation


Result = tuple[dict[str, Any], Records, CaseStore]
"""Content of evaluation.json without the sentences, records of the cases by name, and where they are stored."""


def _on_phantom(request: EvaluationRequest, model: Model) -> Result:
    task, samples = phantom(request.dataset), request.samples or known.SAMPLES
    known.check_fits(model, task.name, task.classes, task.shape, tuple(map(Input, task.inputs)))
    if samples < GROUP:
        raise InputError(f"A task with a known answer needs at least {GROUP} samples per case.")
    device = choose_device(request.device)
    steps, notes = [Steps.read(text) for text in request.steps or STEPS], []
    if model.lowest_log_snr > LOG_SNR_MIN:
        if request.steps:
            notes.append(
                f"No samples were drawn with {', '.join(one.title for one in steps)}: step grids start from white "
                "noise, and this model's denoiser was trained for its own start alone."
            )
        steps = []  # the model cannot start from white noise
    samplers = ModelSamplers(model.to(device), steps, samples, request.seed)
    key = _key(model, request, samples, [one.key for one in steps], device) | {"task": repr(task)}
    store, count = CaseStore(request.output / "cases", key), request.cases or known.CASES[len(task.shape)]
    by_name = known.evaluate_known(task, samplers, count, samples, request.seed, store)
    records = list(by_name.values())
    rows = known_scores.summarise(records)
    evaluation = _about(request, model, device, samples) | {
        "kind": "known answer",
        "data": {
            "name": f"{task.name}:{'x'.join(map(str, task.shape))}",
            "title": f"the task '{task.name}', whose exact posterior is known",
            "cases": len(records),
            "which": f"{len(records)} cases {_training_task(model, task.name)}",
            "labels": list(task.label_names),
        },
        "steps": [one.key for one in steps],
        "titles": {key: samplers.titles[key] for key in rows},
        "rows": rows,
        "ideal": known_scores.ideal(records),
        "notes": known_scores.notes(samples, records) + notes,
        "blind": known_scores.blind_controls(rows),
        "cost": {
            "rows": cost.row_costs(records, samplers.passes),
            "memory_bytes": cost.largest([record["memory_bytes"] for record in records]),
        },
    }
    return evaluation, by_name, store


def _training_task(model: Model, name: str) -> str:
    trained = model.section.get("training", {}).get("data", {}).get("task", "").partition(":")[0]
    text = "drawn for the evaluation, from random numbers that no training uses"
    return text if trained == name else f"{text}; the model's metadata list no training on this task"


def _on_heads(request: EvaluationRequest, model: Model) -> Result:
    """Synthetic heads, whose labels are the truth by construction; new ones, used in no training or calibration."""
    source = Heads(Path(request.dataset), request.window or WINDOW)
    require_fit(model, source)
    source.configure(model.section)
    device, samples = choose_device(request.device), request.samples or joint.SAMPLES
    if samples < joint.FEWEST_SAMPLES:
        raise InputError(f"At least {joint.FEWEST_SAMPLES} samples per case are needed; give a larger number.")
    names = [entry["name"] for entry in model.labels]
    shape = "x".join(map(str, source.window))
    key = _key(model, request, samples, None, device) | {"data": shape, "priors": files_sha256(source.priors)}
    store, model = CaseStore(request.output / "cases", key), model.to(device)

    def work(index: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        image, labels = source.evaluated(index, request.seed)
        seed = sample_seeds(request.seed, 1, index)[0]
        return joint.joint_case(model, labelled(model, image, labels), samples, seed), {}

    by_name, _ = run_cases([f"head {index + 1}" for index in range(request.cases or HEADS)], work, store)
    records = list(by_name.values())
    evaluation = _about(request, model, device, samples) | {
        "kind": "synthetic heads",
        "data": {
            "name": f"synthetic heads, {shape}",
            "title": f"synthetic heads of {shape} voxels",
            "cases": len(records),
            "which": f"{len(records)} heads drawn from the atlas, used neither in training nor in calibration",
            "labels": names,
        },
        "joint": joint.summarise(records, names),
    }
    return evaluation, by_name, store


def _on_folder(request: EvaluationRequest, folder: Path, model: Model) -> Result:
    if len(request.steps) > 1 or any(":" in text for text in request.steps):
        raise InputError("Cases in a folder are segmented with one number of adapted steps; give one, such as 10.")
    dataset = read_dataset(Path(request.dataset))
    require_same_inputs(inputs_of(model.section), dataset.inputs, dataset.name)
    order = label_order(dataset, model.labels)
    frozen = models.frozen_section(folder, model.section)
    choice = cases.choose(dataset, model.section, frozen)
    chosen = choice.cases[: request.cases]
    units = cases.units_of(chosen, dataset.name)
    device, samples = choose_device(request.device), request.samples or model.default_samples
    steps = Steps.read(request.steps[0]).count if request.steps else None
    data: dict[str, Any] = {"data": dataset.name, "labels": order, "ignored": dataset.ignored, "unit": units.suffix}
    if frozen and (folds := cases_of_folds(frozen)):
        data["folds"] = folds
    if model.foreign is not None:
        data["samples_of"] = "folds"  # an earlier version drew them from the folds' mean
    store = CaseStore(request.output / "cases", _key(model, request, samples, steps, device) | data)
    if choice.seen_in_training:
        logger.warning(f"evaluating {choice.which}")
    settings = cases.Settings(str(folder), samples, steps, request.seed, request.device)
    head = head_of_sampler(folder, model.section)
    by_name, skipped = cases.evaluate_cases(chosen, dataset, order, settings, store, units, head)
    records, names = list(by_name.values()), [entry["name"] for entry in model.labels]
    evaluation = _about(request, model, device, samples) | {
        "kind": "folder",
        "data": {
            "name": dataset.name,
            "title": f"the data set '{dataset.name}'",
            "cases": len(records),
            "which": choice.which + (f"; the first {len(chosen)} of them" if len(chosen) < len(choice.cases) else ""),
            "seen_in_training": choice.seen_in_training,
            "raters": max(len(case.labels) for case in chosen),
            "skipped": skipped,
            "labels": names,
        },
        "steps": records[0]["run"]["steps"],
        # That of the maps that the model shows; the direct head if the samples do not change them.
        "map_source": "direct" if model.is_copula_only or np.isinf(model.map_prior) else "samples",
        "one_map": model.is_copula_only,
        "colors": [entry["color"] for entry in model.labels],
        "unit": units.suffix,
        f"tolerance_{units.length}": model.spacing,
        "warnings": {name: record["run"]["warnings"] for name, record in by_name.items() if record["run"]["warnings"]},
        "scores": folder_scores.summarise(records, names, units),
        "joint": joint.summarise([record["joint"] for record in records], names, units),
        "cost": cost.folder_costs(records),
    }
    return evaluation, by_name, store


def _key(model: Model, request: EvaluationRequest, samples: int, steps: Any, device: torch.device) -> dict[str, Any]:
    """Everything that determines the numbers of a case; the metadata too, because they hold the step grid."""
    return {
        "model": model.section["sha256"],
        "metadata": hashlib.sha256(json.dumps(model.metadata, sort_keys=True).encode()).hexdigest(),
        "samples": samples,
        "steps": steps,
        "seed": request.seed,
        "device": device.type,
    }


def _about(request: EvaluationRequest, model: Model, device: torch.device, samples: int) -> dict[str, Any]:
    section = model.section
    return {
        "schema": SCHEMA,
        "model": {key: section[key] for key in ("name", "title", "sha256")}
        | {"version": model.metadata.get("version")},
        "samples": samples,
        "seed": request.seed,
        "device": str(device),
        "machine": cost.machine(device),
        "versions": versions(),
    }
