"""Temperature of the map and factors of the volume intervals from labelled cases that the model has not seen.

Each case is segmented as `segment` does it, so that the factors are those of the intervals that a user reads. Half of
the cases checks the factors of the other half; the model gets the factors of all.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from ..errors import InputError
from ..images.dataset import Case, Dataset
from ..images.label_file import IGNORED, read_labels, relabel
from ..images.sequence_file import read_sequence
from ..metrics.conformal import cross_checked, expected_share, fit_scaling, share_range
from ..metrics.intervals import covered
from ..model.cache import ModelCache
from ..model.folder import Model
from ..model.seen_cases import calibrated_cases, cases_of_folds, seen_cases
from ..runtime.terminal import ProgressLine, StepCounter
from ..segmentation import pipeline
from ..segmentation.ensemble import class_sizes
from ..segmentation.foreign_head import ForeignHead, Predict
from ..segmentation.outputs import geometry
from ..segmentation.own_cases import LEVELS
from ..segmentation.uncertain_regions import voxel_size
from ..training.prepared import read_case
from .temperature import LabelledVoxels, fit_temperature

MIN_CASES = 20  # half of them must suffice for a factor of 90 %, which needs 9
NEAR = 0.98  # probability of background (of 1) below which a voxel counts for the temperature
MOST_VOXELS = 20_000  # of a case that count for the temperature


@dataclass(frozen=True)
class CheckedCase:
    """Sizes of the foreground classes in a case, in samples [n, C - 1] and in truth [C - 1], and voxels of its map."""

    samples: np.ndarray
    truth: np.ndarray
    voxels: LabelledVoxels
    steps: int


def unseen_cases(
    dataset: Dataset, section: Mapping[str, Any], frozen: Mapping[str, Any] | None, count: int | None = None
) -> list[Case]:
    """The first `count` cases, by name, to which neither the model nor the spread of its samples was fitted.

    `section` is ours of the model's metadata, `frozen` that of the model that it is on top of. Cases that one fold of
    an nnU-Net has seen are left out: new cases are predicted by the mean of all folds.
    """
    known = seen_cases(section, dataset.name, frozen) | calibrated_cases(section, dataset.name)
    known |= set().union(*((frozen and cases_of_folds(frozen)) or {}).values())
    unseen = [case for case in dataset.training if case.name not in known]
    return sorted(unseen, key=lambda case: case.name)[:count]


@dataclass(frozen=True)
class CaseRuns:
    """Runs of a `model`, without any own cases, on cases of a data set; `order` maps its labels to the model's."""

    model: Model
    folder: Path
    dataset: Dataset
    order: Sequence[int]
    head: ForeignHead | None
    seed: int
    device: str

    def labels(self, case: Case) -> tuple[np.ndarray, sitk.Image]:
        """Labels uint8 [k, j, i] of a case by its first rater, and its first image."""
        image = read_case(case, self.dataset.inputs)[0]
        names = self.dataset.label_names, self.dataset.ignored
        return relabel(read_labels(case.labels[0], image, *names), self.order), image

    def run(self, case: Case) -> CheckedCase:
        """Segment a case, whose labels must be complete."""
        labels, image = self.labels(case)
        size, unit = voxel_size(*geometry(image))
        with tempfile.TemporaryDirectory() as output:
            request = pipeline.Request(
                case.images,
                Path(output),
                str(self.folder),
                seed=self.seed,
                device=self.device,
                keep_samples=True,
                compress=False,
            )
            foreign = self.model.foreign
            predict = Predict(self.head, foreign) if self.head is not None and foreign is not None else None
            report = pipeline.segment(request, models=_Given(self.model), predict=predict).report
            p, block = read_sequence(Path(output) / "probabilities.seq.nrrd", image)
        samples = np.array([entry[f"samples_{unit}"] for entry in report["volumes"]]).T
        near = np.flatnonzero(p[0] < 255 * NEAR)
        near = near[:: len(near) // MOST_VOXELS + 1]
        voxels = p.reshape(len(p), -1)[:, near].astype(np.float32) / 255, labels[block].ravel()[near]
        return CheckedCase(samples, class_sizes(labels, self.model.classes, size)[1:], voxels, report["steps"])


class _Given(ModelCache):
    """The given model, whatever is asked for."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self._model = model

    def get(self, name: str, device: torch.device) -> Model:
        return self._model


def fit_own_cases(runs: CaseRuns, cases: Sequence[Case]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The entry `own_cases` of the model's metadata, see `segmentation.own_cases`, and entries of calibration.json.

    Raises InputError for fewer than MIN_CASES cases whose voxels are all labelled.
    """
    _require_enough(len(cases), len(cases))
    complete = [case for case in cases if not (runs.labels(case)[0] == IGNORED).any()]
    _require_enough(len(complete), len(cases))
    checked = []
    with ProgressLine() as line:
        counter = StepCounter(line, "segmenting unseen cases")
        for number, case in enumerate(complete, 1):
            checked.append(runs.run(case))
            counter(number, len(complete))
    samples, truth = np.stack([case.samples for case in checked]), np.stack([case.truth for case in checked])
    names = [entry["name"] for entry in runs.model.labels]
    rows = [structure(samples[..., n], truth[:, n]) for n in range(len(names))]
    with_voxels = [case.voxels for case in checked if len(case.voxels[1])]
    temperature = fit_temperature(with_voxels) if len(with_voxels) >= MIN_CASES else None
    entry = {
        "data": {"kind": "folder", "name": runs.dataset.name},
        "cases": [case.name for case in complete],
        "samples": samples.shape[1],
        "steps": checked[0].steps,
        "temperature": 1.0 if temperature is None else temperature.value,
        "structures": [
            {"label": n, **{key: row[key] for key in row if not key.startswith(("raw", "absent"))}}
            for n, row in enumerate(rows, 1)
        ],
    }
    scores = {} if temperature is None else {"log_score": [temperature.before, temperature.after]}
    named = [{"name": name, **row} for name, row in zip(names, rows, strict=True)]
    return entry, {
        **entry,
        "cases": len(complete),
        "left_out": len(cases) - len(complete),
        **scores,
        "structures": named,
    }


def structure(samples: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """Factors of a structure from its sizes in samples [cases, n] and in truth [cases], for cases with a sample of it.

    With `held`, and `raw`, the number of cases whose intervals held without factors. In the other cases all samples
    lack it, and no factor of an interval of width 0 would hold where it is there: `absent`, and in how many it is.
    """
    varies = samples.any(1)
    row: dict[str, Any] = {"cases": int(varies.sum())}
    if row["cases"] >= MIN_CASES:
        for level in LEVELS:
            arguments = samples[varies], truth[varies], level / 100
            scaling = fit_scaling(*arguments)
            row |= {f"factor{level}": scaling.factor, f"floor{level}": scaling.floor}
            row |= {f"held{level}": int(cross_checked(*arguments).sum()), f"raw{level}": int(covered(*arguments).sum())}
    if not varies.all():
        row |= {"absent": int((~varies).sum()), "absent_right": int((truth[~varies] == 0).sum())}
    return row


def _require_enough(complete: int, cases: int) -> None:
    if complete < MIN_CASES:
        some = f"{complete} of these {cases} cases" if complete < cases else f"{cases} cases"
        whole = ", and only they are labelled in every voxel" if complete < cases else ""
        raise InputError(
            f"Intervals cannot be calibrated on {some} that the model has not seen{whole}; {MIN_CASES} or more are "
            "needed, because each half of them checks the factors of the other half."
        )


def text(result: Mapping[str, Any]) -> str:
    """The entries of `fit_own_cases` for calibration.json, for a terminal."""
    rows = result["structures"]
    width = max(len("structure"), *(len(row["name"]) for row in rows)) + 2
    lines = [f"{'structure':<{width}}{'cases':>6}{'factor 50 %':>13}{'factor 90 %':>13}{'90 % held':>11}{'before':>8}"]
    for row in rows:
        numbers = [f"{row['cases']:6d}"]
        if "factor90" in row:
            numbers += [f"{row['factor50']:13.2f}{row['factor90']:13.2f}{row['held90']:11d}{row['raw90']:8d}"]
        else:
            numbers += [f"  fewer than {MIN_CASES} cases with it in a sample: no factors"]
        lines.append(f"{row['name']:<{width}}{''.join(numbers)}")
        if "absent" in row:
            lines.append(
                f"  in {row['absent']} further cases no sample has it, and it is absent in {row['absent_right']}"
            )
    lines.append("held: in cases of one half with the factor of the other half; before: without factors.")
    for count in sorted({row["cases"] for row in rows if "factor90" in row}):
        low, high = share_range(count, 0.9)
        lines.append(
            f"With {count} cases 90 % intervals hold in 90 % of new cases like them or more: over many such sets of "
            f"cases in {100 * expected_share(count, 0.9):.0f} %, with one set in {100 * low:.0f} to {100 * high:.0f} % "
            "(probability 90 %)."
        )
    if "log_score" in result:
        before, after = result["log_score"]
        lines.append(
            f"Temperature of the map: {result['temperature']:.2f}; log score {before:.4f} nats without and {after:.4f} "
            "with one, of cases that it was not fitted to."
        )
    if result["left_out"]:
        lines.append(f"{result['left_out']} cases with unlabelled voxels were left out.")
    return "\n".join(lines)
