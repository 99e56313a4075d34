"""Coverage of the answers to questions on tasks with a known answer, with exact samples and with those of a model.

    python Testing/run.py bench questions [--model DIR] [--cases N] [--samples N] [TASK ...]

TASK is a phantom, by default boundary, lesions and template on 32x32 and boundary on 24x24x24. Each of 400 cases has 64
exact samples, or as many of the model, and 16 further masks of its exact posterior as truths. Printed for every
measurement: the share of the truths that the 90 % intervals hold (values on a bound count by chance, as their part of
the distribution at the bound), with its interval over the cases; and for the statements "greater than t", with t from
20 more masks of each posterior, the expected calibration error of their probabilities (10 bins). Measurements that are
undefined, because a structure is absent, count in no interval, and in statements as false.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from diffusion_segmentation.calibration.start import labelled, samples
from diffusion_segmentation.measurements.functions import FUNCTIONS
from diffusion_segmentation.measurements.label_map import LabelMap
from diffusion_segmentation.measurements.table import MEASUREMENTS
from diffusion_segmentation.metrics import expected_calibration_error, interval, predictive_interval, randomised_pit
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.model.folder import Model
from diffusion_segmentation.phantoms import phantom
from diffusion_segmentation.runtime.terminal import ProgressLine, StepCounter

TASKS = ("boundary:32x32", "lesions:32x32", "template:32x32", "boundary:24x24x24")
TRUTHS = 16  # masks of the exact posterior of each case: one would leave its noise in the ECE of few cases
THRESHOLDS = 20  # statements for each case and measurement, from as many further masks
KNOWN = TRUTHS + THRESHOLDS
LEVEL = 0.9
BINS = 10
SEED = 17


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", metavar="TASK", nargs="*", default=TASKS)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--samples", type=int, default=64)
    options = parser.parse_args()
    model = models.load(options.model) if options.model else None
    for task in options.tasks:
        print(table(task, measured(task, options.cases, options.samples, model)), flush=True)


def measured(task: str, cases: int, count: int, model: Model | None = None) -> dict[str, np.ndarray]:
    """Values of each measurement, float [cases, KNOWN + count]: truths, thresholds, samples."""
    rows: dict[str, list[list[float]]] = {}
    with ProgressLine() as line:
        counter = StepCounter(line, f"{task}: measuring")
        for index in range(cases):
            rng = np.random.default_rng([SEED, index])
            case = phantom(task).draw(rng)
            masks = case.sample(rng, KNOWN + count)
            if model is not None:
                masks[KNOWN:] = samples(model, labelled(model, case.image, masks[0]), count, index)[0]
            for name, values in values_of(masks, case.classes).items():
                rows.setdefault(name, []).append(values)
            counter(index + 1, cases)
    return {name: np.array(values) for name, values in rows.items()}


def values_of(masks: np.ndarray, classes: int) -> dict[str, list[float]]:
    """Each measurement that the masks uint8 [n, *shape] have, of each structure or of the first two."""
    whole = [mask if mask.ndim == 3 else mask[None] for mask in masks]
    images = [LabelMap(mask, sitk.GetImageFromArray(mask)) for mask in whole]
    found = {}
    for name, measurement in MEASUREMENTS.items():
        if measurement.picture not in (None, images[0].is_picture) or measurement.structures >= classes:
            continue
        labels = ((1,), (2,))[: measurement.structures]
        found[name] = [FUNCTIONS[name](image, *labels) for image in images]
    return found


def table(task: str, rows: dict[str, np.ndarray]) -> str:
    lines = [f"{task:<20}{'cases':>7}{'90 % held':>22}{'statements':>12}{'ECE':>8}"]
    for name, values in rows.items():
        held = held_shares(values, MEASUREMENTS[name].low)
        p, truth = statements(values)
        error = f"{expected_calibration_error(p, truth, BINS):8.4f}" if len(p) else ""
        coverage = ""
        if len(held) > 1:
            share = interval(held, 0.95, np.random.default_rng(SEED))
            coverage = f"{share.estimate:8.3f} ({share.low:.3f}-{share.high:.3f})"
        lines.append(f"{name:<20}{len(held):7d}{coverage:>22}{len(p):12d}{error}")
    return "\n".join(lines)


def held_shares(values: np.ndarray, lowest: float) -> np.ndarray:
    """Share [n] of each case's truths in the interval of its samples, of those that vary."""
    rng, shares = np.random.default_rng(SEED), []
    for row in values:
        truths, samples = (part[np.isfinite(part)] for part in (row[:TRUTHS], row[KNOWN:]))
        if len(samples) < 2 or not len(truths) or np.ptp(np.concatenate([samples, truths])) == 0:
            continue
        bounds = predictive_interval(samples, LEVEL, lowest)
        assert bounds is not None
        pits = randomised_pit(np.broadcast_to(samples, (len(truths), len(samples))), truths, rng)
        inside = (bounds[0] < truths) & (truths < bounds[1])
        shares.append(np.where(np.isin(truths, bounds), np.abs(pits - 0.5) <= LEVEL / 2, inside).mean())
    return np.array(shares)


def statements(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [n] of statements "greater than t", and the share [n] of the truths for which they are true."""

    def above(x: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
        return np.nan_to_num(x, nan=-np.inf)[:, None] > thresholds

    p, occurred = [], []
    for row in values:
        truths, thresholds, samples = np.split(row, [TRUTHS, KNOWN])
        thresholds = thresholds[np.isfinite(thresholds)]
        p.append((above(samples, thresholds).sum(0) + 0.5) / (len(samples) + 1))
        occurred.append(above(truths, thresholds).mean(0))
    return np.concatenate(p), np.concatenate(occurred)


if __name__ == "__main__":
    main()
