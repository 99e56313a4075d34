"""Coverage of calibrated intervals on tasks with a known answer, with samplers that spread too little.

    python Testing/run.py bench own_cases [--cases N] [--fresh N] [--sets N] [--samples N] [TASK ...]

TASK is a phantom, by default boundary, probit, lesions and template on 32x32 and boundary on 24x24x24. The samples are
exact draws of a law that is too narrow: border shifts (boundary) and fields (probit) of half the standard deviation, or
the weights of the possible masks to the power of three, scaled to sum to 1 (lesions, template). Truths are draws of the
exact law. Each of 100 sets of 24 cases gives factors, as `calibrate --intervals` fits them, whose intervals are counted
on 400 fresh cases, the same for all sets. Of a structure count cases in which a sample has it. Printed are the share
of the fresh truths in intervals without factors, with them as the mean over the sets (the bound is 90 % at least) and
its range in 90 % of the sets beside that of the theory without ties, the median factor and the mean share of the cases
of a set that held with the factor of the other half.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
from scipy.special import ndtr

from diffusion_segmentation.metrics.conformal import (
    cross_checked,
    expected_share,
    fit_scaling,
    share_range,
)
from diffusion_segmentation.metrics.intervals import covered
from diffusion_segmentation.phantoms import phantom
from diffusion_segmentation.phantoms.case import PhantomCase
from diffusion_segmentation.runtime.terminal import ProgressLine, StepCounter

TASKS = ("boundary:32x32", "probit:32x32", "lesions:32x32", "template:32x32", "boundary:24x24x24")
NARROW, POWER = 0.5, 3
LEVEL = 0.9
SEED = 23


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", metavar="TASK", nargs="*", default=TASKS)
    parser.add_argument("--cases", type=int, default=24)
    parser.add_argument("--fresh", type=int, default=400)
    parser.add_argument("--sets", type=int, default=100)
    parser.add_argument("--samples", type=int, default=8)
    options = parser.parse_args()
    low, high = share_range(options.cases, LEVEL)
    print(f"{options.cases} cases: mean {expected_share(options.cases, LEVEL):.3f}, 90 % of sets {low:.3f}-{high:.3f}")
    print(f"{'task':<20}{'structure':<16}{'raw':>7}{'calibrated':>12}{'90 % of sets':>15}{'factor':>8}{'held':>7}")
    for task in options.tasks:
        for name, sizes in case_volumes(task, options).items():
            print(f"{task:<20}{name:<16}{row(sizes, options)}", flush=True)


def case_volumes(task: str, options: argparse.Namespace) -> dict[str, np.ndarray]:
    """Volumes [cases, samples + 1] of each structure, the truth last, of the fresh cases and all sets."""
    wanted, names = options.fresh + options.sets * options.cases, phantom(task).label_names
    found: dict[str, list[np.ndarray]] = {name: [] for name in names}
    with ProgressLine() as line:
        counter = StepCounter(line, f"{task}: drawing cases")
        for sizes in volumes(task, options.samples):
            for name, of_case in zip(names, sizes.T, strict=True):
                if of_case[:-1].any():
                    found[name].append(of_case)
            done = min(map(len, found.values()))
            if done >= wanted:
                return {name: np.array(rows[:wanted]) for name, rows in found.items()}
            counter(max(done, 1), wanted)
    raise AssertionError("the cases never end")


def volumes(task: str, count: int) -> Iterator[np.ndarray]:
    """Volumes (voxels) [count + 1, C - 1] in the samples and, last, the truth of one case after another."""
    for index in itertools.count():
        rng = np.random.default_rng([SEED, index])
        case = phantom(task).draw(rng)
        masks = np.concatenate([narrowed(case).sample(rng, count), case.sample(rng, 1)])
        yield np.stack([np.bincount(mask.ravel(), minlength=case.classes)[1:] for mask in masks]).astype(float)


def narrowed(case: PhantomCase, spread: float = NARROW, power: float = POWER) -> PhantomCase:
    """The case with a law of the standard deviation `spread`, or with weights to `power`; too narrow by default."""
    if hasattr(case, "thresholds"):
        return dataclasses.replace(case, sigma=spread * case.sigma)
    if hasattr(case, "depth"):
        levels = np.unique(case.depth)[: len(case.weights) - 1]
        weights = np.diff(ndtr(np.concatenate([[-np.inf], levels, [np.inf]]) / spread))
    else:
        weights = case.weights**power
    return dataclasses.replace(case, weights=weights / weights.sum())


def row(sizes: np.ndarray, options: argparse.Namespace) -> str:
    samples, truth = sizes[:, :-1], sizes[:, -1]
    fresh = samples[: options.fresh], truth[: options.fresh]
    first = range(options.fresh, len(sizes), options.cases)
    sets = [(samples[n : n + options.cases], truth[n : n + options.cases], LEVEL) for n in first]
    scalings = [fit_scaling(*one) for one in sets]
    shares = [scaling.holds(*fresh).mean() for scaling in scalings]
    low, high = np.quantile(shares, [0.05, 0.95])
    held = np.mean([cross_checked(*one).mean() for one in sets])
    numbers = f"{covered(*fresh, LEVEL).mean():7.3f}{np.mean(shares):12.3f}{f'{low:.3f}-{high:.3f}':>15}"
    return f"{numbers}{np.median([scaling.factor for scaling in scalings]):8.2f}{held:7.3f}"


if __name__ == "__main__":
    main()
