"""`diffusion-segmentation evaluate`: a model and cases in, scores as JSON, table and page out."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..calibration.calibrate import require_fit
from ..diffusion.process import LOG_SNR_MIN
from ..errors import InputError, ModelError
from ..images.dataset import label_order, read_dataset
from ..images.file_digest import files_sha256
from ..images.writing import write_report
from ..model import folder as models
from ..model.folder import Model
from ..phantoms import PHANTOMS, phantom
from ..runtime.devices import choose_device
from ..runtime.versions import versions
from ..training.sources import open_source
from . import cost, heads, joint
from .dataset import cases
from .dataset import scores as case_scores
from .known_answer import run as known
from .known_answer import scores as known_scores
from .known_answer.samplers import Respondent, Steps
from .report import sentences
from .report.formatting import VERDICTS
from .report.page import write_page
from .report.tables import write_csv
from .store import SCHEMA, Kept

STEPS = ("5", "10")
"""Step grids that a phantom is evaluated on by default."""


@dataclass(frozen=True)
class Request:
    """What is asked for; None takes the default of the kind of data."""

    model: str
    dataset: str
    output: Path
    samples: int | None = None
    steps: tuple[str, ...] = ()
    cases: int | None = None
    seed: int = 0
    device: str = "auto"
    window: tuple[int, int, int] | None = None
    """Voxels of synthetic heads."""


def evaluate(request: Request) -> dict[str, Any]:
    """Evaluate, write evaluation.json, cases.csv and evaluation.html into the output folder, return the first.

    Finished cases are kept in the folder `cases` there, and taken over when the same is asked for again.

    Raises InputError where model, data and choices do not go together or no case can be read, ModelError for a model
    that cannot be used, and whatever `segment` raises about memory and disk.
    """
    folder = models.find(request.model)
    model = models.load(folder)
    if Path(request.dataset).is_dir():
        found, records, kept = _on_folder(request, folder, model)
    elif request.dataset.partition(":")[0] in PHANTOMS:
        found, records, kept = _on_phantom(request, model)
    elif request.dataset.endswith(".npz"):
        found, records, kept = _on_heads(request, model)
    else:
        raise InputError(
            f"'{request.dataset}' is no folder of labelled images, no file of tissue priors (.npz) and none of the "
            f"tasks with a known answer ({', '.join(PHANTOMS)})."
        )
    found["sentences"] = sentences.of(found)
    write_report(request.output / "evaluation.json", found)
    write_csv(request.output / "cases.csv", found, records)
    write_page(request.output / "evaluation.html", found, records, kept)
    return found


def _on_phantom(request: Request, model: Model) -> tuple[dict[str, Any], dict[str, dict[str, Any]], Kept]:
    task, samples = phantom(request.dataset), request.samples or known.SAMPLES
    known.check_fits(model, task, samples)
    device = choose_device(request.device)
    steps, notes = [Steps.read(text) for text in request.steps or STEPS], []
    if model.lowest_log_snr > LOG_SNR_MIN:
        if request.steps:
            notes.append(
                f"Nothing was drawn with {', '.join(one.title for one in steps)}: step grids start from white noise, "
                "and this model's denoiser was trained for its own start alone."
            )
        steps = []
    asked = Respondent(model.to(device), steps, samples, request.seed)
    key = _key(model, request, samples, [one.key for one in steps], device) | {"task": repr(task)}
    kept, count = Kept(request.output / "cases", key), request.cases or known.CASES[len(task.shape)]
    by_name = known.evaluate_known(task, asked, count, samples, request.seed, kept)
    records = list(by_name.values())
    rows = known_scores.summarise(records)
    found = _about(request, model, device, samples) | {
        "kind": "known answer",
        "data": {
            "name": f"{task.name}:{'x'.join(map(str, task.shape))}",
            "title": f"the task '{task.name}', whose exact posterior is known",
            "cases": len(records),
            "which": f"{len(records)} cases {_training_task(model, task.name)}",
            "labels": list(task.label_names),
        },
        "steps": [one.key for one in steps],
        "titles": {key: asked.titles[key] for key in rows},
        "rows": rows,
        "ideal": known_scores.ideal(records),
        "notes": known_scores.notes(samples, records) + notes,
        "blind": known_scores.blind_controls(rows),
        "cost": {
            "rows": cost.of_rows(records, asked.passes),
            "memory_bytes": cost.largest([record["memory_bytes"] for record in records]),
        },
    }
    return found, by_name, kept


def _on_heads(request: Request, model: Model) -> tuple[dict[str, Any], dict[str, dict[str, Any]], Kept]:
    source = open_source(request.dataset, request.output)
    require_fit(model, source)
    source.configure(model.section)
    device, samples = choose_device(request.device), request.samples or joint.SAMPLES
    if samples < joint.FEWEST_SAMPLES:
        raise InputError(f"Joint samples need {joint.FEWEST_SAMPLES} a case or more.")
    names = [entry["name"] for entry in model.labels]
    if request.window:
        source.window = request.window
    shape = "x".join(map(str, source.window))
    kept = Kept(
        request.output / "cases",
        _key(model, request, samples, None, device) | {"data": shape, "priors": files_sha256(source.priors)},
    )
    by_name = heads.evaluate_heads(source, model.to(device), request.cases or heads.CASES, samples, request.seed, kept)
    records = list(by_name.values())
    found = _about(request, model, device, samples) | {
        "kind": "synthetic heads",
        "data": {
            "name": f"synthetic heads, {shape}",
            "title": f"synthetic heads of {shape} voxels",
            "cases": len(records),
            "which": f"{len(records)} heads drawn from the atlas, neither trained nor calibrated on",
            "labels": names,
        },
        "joint": joint.summarise(records, names),
    }
    return found, by_name, kept


def _training_task(model: Model, name: str) -> str:
    facts = model.section.get("training", {}).get("data", {})
    trained = facts.get("task", "").partition(":")[0] if facts.get("kind") == "phantom" else ""
    drawn = "drawn for the evaluation, from random numbers that no training uses"
    return drawn if trained == name else f"{drawn}; the model's metadata do not say that it was trained on this task"


def _on_folder(request: Request, folder: Path, model: Model) -> tuple[dict[str, Any], dict[str, dict[str, Any]], Kept]:
    if model.dims != 3:
        raise ModelError("This model was made for 2-D pictures; choose one for volumes.")
    if len(request.steps) > 1 or any(":" in text for text in request.steps):
        raise InputError("Cases in a folder are segmented with one number of adapted steps; give one, such as 10.")
    dataset = read_dataset(Path(request.dataset))
    order = label_order(dataset, model.labels)
    chosen = cases.choose(dataset, model.section)
    picked = chosen.cases[: request.cases]
    device, samples = choose_device(request.device), request.samples or model.default_samples
    steps = Steps.read(request.steps[0]).count if request.steps else None
    key = _key(model, request, samples, steps, device) | {
        "data": dataset.name,
        "labels": order,
        "ignored": dataset.ignored,
    }
    kept = Kept(request.output / "cases", key)
    if chosen.seen_in_training:
        print(f"warning: evaluating {chosen.which}", file=sys.stderr)
    settings = cases.Settings(folder, samples, steps, request.seed, request.device)
    by_name, skipped = cases.evaluate_cases(picked, dataset, order, settings, kept)
    records = list(by_name.values())
    found = _about(request, model, device, samples) | {
        "kind": "folder",
        "data": {
            "name": dataset.name,
            "title": f"the data set '{dataset.name}'",
            "cases": len(records),
            "which": chosen.which + (f"; of these the first {len(picked)}" if len(picked) < len(chosen.cases) else ""),
            "seen_in_training": chosen.seen_in_training,
            "raters": max(len(case.labels) for case in picked),
            "skipped": skipped,
            "labels": [entry["name"] for entry in model.labels],
        },
        "steps": records[0]["run"]["steps"],
        "map_source": cases.shown_source(model),
        "one_map": model.is_copula_only,
        "colors": [entry["color"] for entry in model.labels],
        "tolerance_mm": model.spacing,
        "warnings": {name: record["run"]["warnings"] for name, record in by_name.items() if record["run"]["warnings"]},
        "scores": case_scores.summarise(records, [entry["name"] for entry in model.labels]),
        "joint": joint.summarise([record["joint"] for record in records], [entry["name"] for entry in model.labels]),
        "cost": cost.of_cases(records),
    }
    return found, by_name, kept


def _key(model: Model, request: Request, samples: int, steps: Any, device: torch.device) -> dict[str, Any]:
    """What decides the numbers of a case. The metadata count too: a step grid can change without the weights."""
    described = hashlib.sha256(json.dumps(model.metadata, sort_keys=True).encode()).hexdigest()
    return {
        "model": model.section["sha256"],
        "metadata": described,
        "samples": samples,
        "steps": steps,
        "seed": request.seed,
        "device": device.type,
    }


def _about(request: Request, model: Model, device: torch.device, samples: int) -> dict[str, Any]:
    section = model.section
    return {
        "schema": SCHEMA,
        "model": {
            "name": section["name"],
            "title": section["title"],
            "version": model.metadata.get("version"),
            "sha256": section["sha256"],
        },
        "samples": samples,
        "seed": request.seed,
        "device": str(device),
        "machine": cost.machine(device),
        "versions": versions(),
    }


def text(found: dict[str, Any], folder: Path) -> str:
    """An evaluation as text for a terminal."""
    lines = [f"{VERDICTS[s['verdict']]:<14}{s['text']}" for s in found["sentences"]]
    if "joint" in found:
        lines += ["", joint.text(found["joint"]), ""]
    return "\n".join([*lines, f"The page is {folder / 'evaluation.html'}"])
