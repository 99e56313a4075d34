"""`diffusion-segmentation calibrate MODEL DATA`: the spread of a model's samples, from labelled cases it has not seen.

Written are a copy of the model with the fitted start and prior and with what the scans of the data have in common, and
calibration.json with all starts compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..images.label_file import relabel
from ..images.writing import write_report
from ..model import folder as models
from ..model.folder import Model
from ..networks.input_statistics import FEWEST as FEWEST_SCANS
from ..runtime.devices import choose_device
from ..runtime.terminal import ProgressLine, StepCounter
from ..training.input_statistics import fit_input_statistics
from ..training.sources import Source, open_source
from .covariance import fit_covariance
from .start import choose, compare_starts, labelled

CASES = {2: 200, 3: 72}
"""Cases that are fitted to by default, by the number of axes, where the data are drawn without end."""
FEWEST = 3
COMPARED, SAMPLES = 12, 8
"""Cases on which the starts are compared, at most, and samples of each."""


@dataclass(frozen=True)
class Request:
    """What a person asked for. `data` is what `train` takes; `output` the folder of the calibrated model.

    With `scans_only` the spread stays as it is: only what unseen scans have in common is learnt.
    """

    model: str
    data: str
    output: Path
    cases: int | None = None
    seed: int = 0
    device: str = "auto"
    scans_only: bool = False


def calibrate(request: Request) -> dict[str, Any]:
    """Fit and write; returns what calibration.json holds.

    Raises InputError where model and data do not go together or the cases are too few, ModelError for a model that
    cannot be used.
    """
    folder = models.find(request.model)
    model = models.load(folder).to(choose_device(request.device))
    source = open_source(request.data, request.output)
    require_fit(model, source)
    source.configure(model.section)
    if request.scans_only:
        calibrated, found = model, {"model": model.section["name"]}
    else:
        calibrated, found = fitted(model, source, request.cases or CASES[model.dims], request.seed)
    with ProgressLine() as line:
        told = StepCounter(line, "looking at unseen scans")
        learnt = fit_input_statistics(model.encoder, model.section, source, request.seed, told)
    if request.scans_only and learnt is None:
        raise InputError(f"What scans are like cannot be told from so few; {FEWEST_SCANS} or more are needed.")
    found["scans"] = 0 if learnt is None else int(learnt.scans)
    input_statistics = learnt or model.input_statistics
    request.output.mkdir(parents=True, exist_ok=True)
    write_report(request.output / "calibration.json", found)
    models.save(request.output, calibrated.metadata, calibrated.encoder, calibrated.denoiser, input_statistics)
    return found


def require_fit(model: Model, source: Source) -> None:
    """Raise InputError, one sentence, where the model and the data do not go together."""
    settings = source.settings()["diffusion_segmentation"]
    dims = settings["network"].get("dims", 3)
    if dims != model.dims:
        raise InputError(f"The model was made for {model.dims} axes and the data have {dims}; choose data of its kind.")
    source.order(model.labels)
    fixed = source.facts().get("kind") == "phantom"  # folders and heads come at the model's spacing
    if fixed and settings["working_spacing_mm"] != model.spacing:
        raise InputError(
            f"The model works at {model.spacing:g} mm and the data are drawn at {settings['working_spacing_mm']:g} mm; "
            "choose a folder of labelled images."
        )


def fitted(model: Model, source: Source, count: int, seed: int) -> tuple[Model, dict[str, Any]]:
    """The model with a start and a prior fitted to at most `count` unseen cases, and what was compared.

    Raises InputError for fewer than FEWEST cases.
    """
    order = source.order(model.labels)
    with ProgressLine() as line:
        cases, counter = [], StepCounter(line, "segmenting unseen cases")
        for image, labels in source.labelled(count, seed):
            cases.append(labelled(model, image, relabel(labels, order)))
            counter(len(cases), count)
        if len(cases) < FEWEST:
            raise InputError(
                f"The spread cannot be fitted to {len(cases)} unseen cases; {FEWEST} or more labelled cases are needed."
            )
        # The starts are compared on cases that the covariance was not fitted to, if there are enough for both.
        compared = cases[:COMPARED]
        apart = len(cases) >= 2 * COMPARED
        fitted_to = cases[COMPARED:] if apart else cases
        covariance = fit_covariance(fitted_to, model.spacing, seed, StepCounter(line, "fitting the covariance"))
        counter = StepCounter(line, "comparing starts")
        candidates = compare_starts(model, covariance, compared, SAMPLES, seed + 1, counter)
    best = choose(candidates)
    calibrated = model.with_start(best.start)
    section = calibrated.section
    # The mean of the copula's own masks is the direct head exactly: there is nothing for a prior to mend.
    section["map_prior"] = 0 if best.start is not None and best.start.log_snr is None else best.prior
    section.pop("map_source", None)
    facts = source.facts()
    section["calibration"] = {
        "data": {key: facts[key] for key in ("kind", "name", "task") if key in facts},
        "cases": facts["held_out"] or facts["cases"] if "held_out" in facts else len(cases),
        "start": best.name,
        "sound": best.sound,
    }
    found = {
        "model": section["name"],
        "cases": len(cases),
        "compared_apart": apart,
        "chosen": best.name,
        "sound": best.sound,
        "map_prior": section["map_prior"],
        "covariance": covariance.as_json(),
        "starts": [one.as_json() for one in candidates],
    }
    return calibrated, found


def text(found: dict[str, Any], output: Path) -> str:
    """For a terminal."""
    if "starts" not in found:
        return f"{found['scans']} scans tell what is usual. The model that knows them is {output}"
    lines = [f"{'start':<30}{'energy score':>13}{'rms z':>8}{'90 % held':>11}{'k':>4}"]
    for row in found["starts"]:
        marked = "* " if row["start"] == found["chosen"] else "  "
        lines.append(
            f"{marked + row['start']:<30}{row['energy_score']:13.4f}{row['z_rms']:8.2f}{row['coverage_90']:11.2f}"
            f"{row['map_prior']:4d}"
        )
    lines.append(f"* chosen, from {found['cases']} cases. rms z is over what a perfect sampler scores: 1 is right.")
    if not found["sound"]:
        lines.append("No start spreads as the truth does: do not rely on this model's intervals.")
    if not found["compared_apart"]:
        lines.append("There were too few cases to compare the starts on others than they were fitted to.")
    return "\n".join([*lines, f"The calibrated model is {output}"])
