"""Alternatives of exact samples, or of a model's, beside the true candidates of lesions.

    python Testing/run.py bench alternatives [--model DIR] [--cases N] [--task TASK]

Each of 400 cases of `lesions:32x32` has 8, 16 and 64 samples and the uncertain regions of its exact marginals, 6 mm
apart, or 15 mm, where they hold several lesions. Printed for the regions with one to three possible candidates, by the
number of samples: how many regions have just the candidates that were drawn as alternatives; the share of the
alternatives that are possible; and the deviation of their shares from the true probabilities in standard deviations of
a binomial law, root mean square, which is 1 for exact samples. The last column has the share of possible alternatives
in the regions with more candidates.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from diffusion_segmentation.calibration.start import labelled, samples
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.phantoms import phantom
from diffusion_segmentation.runtime.terminal import ProgressLine, StepCounter
from diffusion_segmentation.segmentation.alternatives import MOST, alternatives
from diffusion_segmentation.segmentation.watershed import watershed_regions

COUNTS = (8, 16, 64)
SEED_DISTANCES_MM = (6.0, 15.0)
SEED = 19


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path)
    parser.add_argument("--cases", type=int, default=400)
    parser.add_argument("--task", default="lesions:32x32")
    options = parser.parse_args()
    model = models.load(options.model) if options.model else None
    rows: dict[int, list[tuple[int, float, bool, float]]] = {count: [] for count in COUNTS}
    with ProgressLine() as line:
        counter = StepCounter(line, options.task)
        for index in range(options.cases):
            rng = np.random.default_rng([SEED, index])
            case = phantom(options.task).draw(rng)
            masks = case.sample(rng, max(COUNTS))
            if model is not None:
                masks = samples(model, labelled(model, case.image, masks[0]), max(COUNTS), index)[0]
            distance = SEED_DISTANCES_MM[index % 2]
            regions = watershed_regions(1 - case.marginals.max(0), (1,) * len(case.shape), distance)
            support, weights = case.support()
            for basin in range(1, int(regions.max()) + 1):
                inside = regions == basin
                possible, which = np.unique(support[:, inside], axis=0, return_inverse=True)
                chances = np.bincount(which.ravel(), weights)
                for count in COUNTS:
                    rows[count].append(compared(masks[:count, inside], possible, chances))
            counter(index + 1, options.cases)
    print(f"{'samples':>8}{'regions':>9}{'exact':>8}{'possible':>10}{'deviation':>11}{'crowded':>9}{'possible':>10}")
    for count, found in rows.items():
        few, crowded = ([row for row in found if (row[0] <= MOST) == flag] for flag in (True, False))
        exact, possible = np.mean([row[2] for row in few]), np.mean([row[1] for row in few])
        spread = np.sqrt(np.nanmean([row[3] for row in few]))
        others = f"{np.mean([row[1] for row in crowded]):10.4f}" if crowded else ""
        print(f"{count:8d}{len(few):9d}{exact:8.4f}{possible:10.4f}{spread:11.3f}{len(crowded):9d}{others}")


def compared(masks: np.ndarray, possible: np.ndarray, chances: np.ndarray) -> tuple[int, float, bool, float]:
    """Number of candidates `possible` [m, voxels], share of the alternatives of `masks` [n, voxels] that are among
    them, whether these are just the candidates drawn, and squared deviation of the first one's share; NaN if certain.
    """
    found = alternatives(masks)
    same = (masks[[one.sample for one in found], None] == possible).all(2)
    drawn = (masks[:, None] == possible).all(2).any(0)
    first = int(same[0].argmax()) if same[0].any() else -1
    p = chances[first] if first >= 0 else 0.0
    variance = p * (1 - p) / len(masks)
    deviation = (found[0].count / len(masks) - p) ** 2 / variance if variance > 1e-12 else np.nan
    return len(possible), float(same.any(1).mean()), bool((same.any(0) == drawn).all() and same.any(1).all()), deviation


if __name__ == "__main__":
    main()
