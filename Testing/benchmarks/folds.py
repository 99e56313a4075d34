"""Spread of the samples of a sampler on top of an nnU-Net, by the law of the log-odds that it gets.

    python Testing/run.py bench folds SAMPLER DATASET [--samples N]

SAMPLER is a calibrated sampler on top of an nnU-Net of several folds, DATASET a data set with labelled cases in
`imagesTs` and `labelsTs` that no fold has seen. The same sampler draws samples of them from the log-odds of each fold
in turn, as runs do; of the folds' mean; and of a single fold, another one for each case. The last is the law of its
training, so that a well-trained sampler keeps the bands of `evaluate` there; the first adds the disagreement of the
folds; the mean has another law. Needs the extra [nnunet].
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch

from diffusion_segmentation.any_model import head_of_sampler
from diffusion_segmentation.calibration.start import labelled, samples
from diffusion_segmentation.images.dataset import read_dataset
from diffusion_segmentation.images.working_grid import Grid
from diffusion_segmentation.metrics.joint import JointScores, joint_record
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.segmentation.folded_image import FoldedImage, SamplerImage, channels_of, mean_odds
from diffusion_segmentation.segmentation.foreign_head import Predict
from diffusion_segmentation.segmentation.run_control import RunControl
from diffusion_segmentation.segmentation.sampler import sample_seeds
from diffusion_segmentation.training.prepared import odds_on_grid, on_grid, read_case

CPU = torch.device("cpu")
SHOWN = ("z_rms", "coverage_50", "coverage_90", "crps_ml", "energy_score", "dice_ratio")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sampler", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--samples", type=int, default=16, help="default: %(default)s")
    options = parser.parse_args()
    model, dataset = models.load(options.sampler).to(CPU), read_dataset(options.dataset)
    head = head_of_sampler(options.sampler, model.section)
    if head is None or len(head.members) < 2 or not dataset.test:
        raise SystemExit(
            "Give a sampler on top of an nnU-Net of several folds, and a data set with a labelled test part."
        )
    predict, grid = Predict(head, model.foreign), Grid.of(model.section)
    records: dict[str, list[dict]] = {}
    for index, case in enumerate(dataset.test):
        print(f"drawing samples of {case.name}", flush=True)
        images = read_case(case, grid.inputs)
        values, labels = on_grid(images, case.labels[:1], grid, dataset.label_names, dataset.ignored)
        control, place = RunControl(lambda _: None, lambda: None), partial(odds_on_grid, images=images, grid=grid)
        image = predict(values.astype(np.float32), images, CPU, control, place)
        assert isinstance(image, FoldedImage), "there are several folds"
        seed = sample_seeds(0, 1, index)[0]
        for row, seen in rows(image, index).items():
            record = record_of(model, seen, labels[0], options.samples, seed)
            records.setdefault(row, []).append(record)
    scores = {row: JointScores(of_row).scores() for row, of_row in records.items()}
    print("log-odds".ljust(20) + "".join(name.rjust(14) for name in SHOWN))
    for row, of_row in scores.items():
        print(row.ljust(20) + "".join(f"{of_row[name].value:14.3f}" for name in SHOWN))
    first = next(iter(scores.values()))
    bands = (f"{first[name].low:.2f} - {first[name].high:.2f}" for name in SHOWN)
    print("perfect sampler".ljust(20) + "".join(band.rjust(14) for band in bands))


def rows(image: FoldedImage, index: int) -> dict[str, SamplerImage]:
    """What the sampler sees of case number `index` in each row of the table."""
    mean = channels_of(mean_odds(image.odds), image.mean_temperature)
    return {
        "each fold in turn": image,
        "mean of the folds": np.concatenate([image.values, mean]),
        "one fold": image.of_fold(index),
    }


def record_of(model: models.Model, image: SamplerImage, labels: np.ndarray, count: int, seed: int) -> dict:
    """Joint record of a case with `count` samples."""
    case = labelled(model, image, labels)
    masks, mean = samples(model, case, count, seed)
    chosen = (count * mean + model.map_prior * case.p).argmax(0).astype(np.uint8)
    return joint_record(case.labels, masks, case.p, chosen, (model.spacing,) * 3)


if __name__ == "__main__":
    main()
