"""Fits a model's start, prior and input statistics to unseen cases, and writes a copy of the model with them.

Or, with `intervals`, the temperature of its map and the factors of its volume intervals (`own_cases`).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ..any_model import head_of_sampler
from ..errors import InputError
from ..images.label_file import relabel
from ..images.writing import write_report
from ..model import folder as models
from ..model.folder import Model
from ..model.seen_cases import fold_of_cases, seen_cases
from ..networks.input_statistics import MIN_SCANS
from ..runtime.devices import choose_device
from ..runtime.terminal import ProgressLine, StepCounter
from ..segmentation.folded_image import FoldedImage
from ..training.case_odds import CaseOdds
from ..training.folder import Folder
from ..training.input_statistics import fit_input_statistics
from ..training.sources import Source, open_source
from . import own_cases
from .covariance import fit_covariance
from .start import choose, compare_starts, labelled

CASES = {2: 200, 3: 72}  # default for the largest number of cases, by number of axes
MIN_CASES = 3
ON_FOLDERS = "A sampler on top of a network that others trained needs volumes; give a folder of labelled images."
COMPARED, SAMPLES = 36, 8  # maximum number of cases on which starts are compared, and samples of each
MIN_APART = 24  # number of cases from which on starts are compared on cases that the covariance is not fitted to


def calibrate(
    model: str,
    data: str,
    output: Path,
    cases: int | None = None,
    seed: int = 0,
    device: str = "auto",
    scans_only: bool = False,
    intervals: bool = False,
) -> dict[str, Any]:
    """Write a calibrated copy of `model` to the folder `output`; returns the content of calibration.json.

    `data` is what `train` accepts. With `scans_only` the spread is not changed and only the input statistics are
    fitted. With `intervals` neither is the spread; a temperature of the map, factors of the volume intervals and the
    input statistics are fitted to a folder of labelled images, of which `cases` are used, all by default. Raises
    InputError where model and data do not match or the cases are too few, ModelError for an unusable model.
    """
    folder = models.find(model)
    loaded = models.load(folder).to(choose_device(device))
    source = open_source(data, output, slices=loaded.dims == 2)
    require_fit(loaded, source)
    source.configure(loaded.section)
    if intervals and not isinstance(source, Folder):
        raise InputError("Intervals are calibrated on cases of your own; give a folder of labelled images.")
    head = None
    if isinstance(source, Folder):
        name, theirs = source.dataset.name, models.frozen_section(folder, loaded.section)
        source.hold_out(seen_cases(loaded.section, name, theirs))
        head = head_of_sampler(folder, loaded.section)
        if loaded.foreign is not None and head is not None:
            names = [case.name for case in source.dataset.training]
            folds = fold_of_cases(loaded.section, name, head.section, names)
            source.odds = CaseOdds(head, folds, loaded.foreign, device)
    if frozen := loaded.section.get("frozen"):
        models.find_by_digest(frozen["name"], frozen["sha256"], output.resolve().parent)
        if scans_only:
            raise InputError("A sampler on top of a frozen model has no input statistics; calibrate it without this.")
    if intervals and isinstance(source, Folder):
        calibrated = _without_own_cases(loaded)
        source.seen, source.held_out = [], own_cases.unseen_cases(source.dataset, loaded.section, theirs, cases)
        order = source.order(loaded.labels)
        runs = own_cases.CaseRuns(calibrated, folder, source.dataset, order, head, seed, device)
        entry, result = own_cases.fit_own_cases(runs, source.held_out)
        calibrated.section["own_cases"] = entry
        result = {"model": loaded.section["name"], "own_cases": result}
    elif scans_only:
        # The check of own cases holds for scans like those, with which the new statistics do not compare.
        calibrated, result = _without_own_cases(loaded), {"model": loaded.section["name"]}
    else:
        calibrated, result = fitted(loaded, source, cases or CASES[loaded.dims], seed)
    input_statistics = fit_input_statistics(loaded.encoder, loaded.section, source, seed)
    if scans_only and input_statistics is None:
        raise InputError(f"The scans are too few for input statistics; {MIN_SCANS} or more are needed.")
    result["scans"] = 0 if input_statistics is None else int(input_statistics.get_buffer("scans"))
    output.mkdir(parents=True, exist_ok=True)
    write_report(output / "calibration.json", result)
    input_statistics = input_statistics or loaded.input_statistics
    models.save(output, calibrated.metadata, calibrated.encoder, calibrated.denoiser, input_statistics)
    return result


def _without_own_cases(model: Model) -> Model:
    """The model without an earlier calibration of its intervals; the networks are shared."""
    section = {key: value for key, value in model.section.items() if key != "own_cases"}
    return dataclasses.replace(model, metadata={**model.metadata, "diffusion_segmentation": section})


def require_fit(model: Model, source: Source) -> None:
    """Raise InputError where model and data do not match."""
    if model.foreign is not None and not isinstance(source, Folder):
        raise InputError(ON_FOLDERS)
    settings = source.settings()["diffusion_segmentation"]
    dims = settings["network"].get("dims", 3)
    if dims != model.dims:
        raise InputError(
            f"The model was made for {model.dims} axes and the data have {dims}; choose data of the same kind."
        )
    source.order(model.labels)
    fixed = source.facts().get("kind") == "phantom"  # folders and heads are resampled to the model's spacing
    if fixed and settings["working_spacing_mm"] != model.spacing:
        raise InputError(
            f"The model works at {model.spacing:g} mm and the data are drawn at {settings['working_spacing_mm']:g} mm; "
            "choose a folder of labelled images."
        )


def fitted(model: Model, source: Source, count: int, seed: int) -> tuple[Model, dict[str, Any]]:
    """The model with start and prior fitted to at most `count` unseen cases, and entries of calibration.json.

    Raises InputError for fewer than MIN_CASES cases.
    """
    order = source.order(model.labels)
    with ProgressLine() as line:
        cases, of_folds, counter = [], [], StepCounter(line, "segmenting unseen cases")
        for number, (image, labels) in enumerate(source.labelled(count, seed)):
            cases.append(labelled(model, image, relabel(labels, order)))
            of_folds.append(cases[-1])
            if isinstance(image, FoldedImage):  # a sample starts from the probabilities of one fold
                of_folds[-1] = labelled(model, image.of_fold(number), relabel(labels, order))
            counter(len(cases), count)
        if len(cases) < MIN_CASES:
            few = f"The spread cannot be fitted to {len(cases)} unseen cases"
            raise InputError(f"{few}; {MIN_CASES} or more labelled cases are needed.")
        separate = len(cases) >= MIN_APART
        compared = min(COMPARED, len(cases) // 2 if separate else len(cases))
        fit_cases = of_folds[compared:] if separate else of_folds
        covariance = fit_covariance(fit_cases, model.spacing, seed, StepCounter(line, "fitting the covariance"))
        counter = StepCounter(line, "comparing starts")
        candidates = compare_starts(model, covariance, cases[:compared], SAMPLES, seed + 1, counter)
    best = choose(candidates)
    calibrated = _without_own_cases(model.with_start(best.start))  # its intervals change
    section = calibrated.section
    # The mean of copula masks is the direct head's probability exactly, so a prior would change nothing.
    section["map_prior"] = 0 if calibrated.is_copula_only else best.prior
    section.pop("map_source", None)
    facts = source.facts()
    section["calibration"] = {
        "data": {key: facts[key] for key in ("kind", "name", "task") if key in facts},
        "cases": facts["held_out"] or facts["cases"] if "held_out" in facts else len(cases),
        "start": best.name,
        "sound": best.sound,
    }
    return calibrated, {
        "model": section["name"],
        "cases": len(cases),
        "compared_apart": separate,
        "chosen": best.name,
        "sound": best.sound,
        "map_prior": section["map_prior"],
        "covariance": covariance.as_json(),
        "starts": [one.as_json() for one in candidates],
    }


def text(result: dict[str, Any], output: Path) -> str:
    """Summary of `calibrate`'s result for a terminal."""
    if "own_cases" in result:
        return f"{own_cases.text(result['own_cases'])}\nThe calibrated model is {output}"
    if "starts" not in result:
        return f"Input statistics were fitted to {result['scans']} scans. The model with them is {output}"
    width = max(len(row["start"]) for row in result["starts"]) + 2
    lines = [f"{'start':<{width}}{'energy score':>13}{'rms z':>8}{'90 % coverage':>15}{'k':>4}"]
    for row in result["starts"]:
        name = ("* " if row["start"] == result["chosen"] else "  ") + row["start"]
        scores = f"{row['energy_score']:13.4f}{row['z_rms']:8.2f}{row['coverage_90']:15.2f}{row['map_prior']:4d}"
        lines.append(f"{name:<{width}}{scores}")
    lines.append(f"* chosen, on {result['cases']} cases. rms z is relative to a perfect sampler, for which it is 1.")
    if not result["sound"]:
        lines.append("No start has the right spread; do not rely on this model's intervals.")
    if not result["compared_apart"]:
        lines.append("There were too few cases to compare the starts on cases that the covariance was not fitted to.")
    return "\n".join([*lines, f"The calibrated model is {output}"])
