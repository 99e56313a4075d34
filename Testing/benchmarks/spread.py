"""Spread of the samples on real heads with silver references.

    python Testing/run.py bench spread HEADS [--model NAME|DIR] [--samples N] [--json FILE]

HEADS is the folder that `bench heads` fills; a head counts if its reference lies beside it, NAME-reference.nii.gz, the
`seg.nii.gz` of `run.py reference`. Printed are the measures of `evaluate`, on the model's working grid. The reference
comes from a method with borders of its own, so a part of what misses the intervals is a difference of protocols: no bar
is set. The same measures where the truth is known: `evaluate MODEL build/priors.npz`.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from accuracy import by_class

from diffusion_segmentation.calibration.start import labelled
from diffusion_segmentation.evaluation import joint
from diffusion_segmentation.evaluation.report.formatting import number
from diffusion_segmentation.evaluation.report.text import joint_text
from diffusion_segmentation.images.volume import read_volume
from diffusion_segmentation.images.working_grid import Grid
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.training.prepared import on_grid

SHOWN = ("z_rms", "coverage_50", "coverage_90", "dice_ratio", "variogram_2mm", "variogram_8mm", "specks")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("heads", type=Path)
    parser.add_argument("--model", default="brain-structures")
    parser.add_argument("--samples", type=int, default=joint.SAMPLES)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    model = models.load(models.find(options.model)).to(torch.device("cpu"))
    names = sorted(path.name.removesuffix("-reference.nii.gz") for path in options.heads.glob("*-reference.nii.gz"))
    if not names:
        raise SystemExit("No head has its reference beside it; see the start of spread.py.")
    records = []
    for index, name in enumerate(names):
        print(f"scoring {name}", flush=True)
        volume, reference = (options.heads / f"{name}{end}.nii.gz" for end in ("", "-reference"))
        records.append(joint.joint_case(model, on_working_grid(model, volume, reference), options.samples, index))
    summary = joint.summarise(records, [entry["name"] for entry in model.labels])
    print(joint_text(summary))
    if options.json:
        options.json.write_text(json.dumps({"heads": names, "joint": summary}, indent=1) + "\n", encoding="utf-8")


def on_working_grid(model: models.Model, volume: Path, reference: Path) -> Any:
    """The head with its reference by class on the model's working grid, and the direct head's probabilities."""
    image = read_volume(volume)
    labels = sitk.GetImageFromArray(by_class(reference, image, model.labels))
    labels.CopyInformation(image)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "labels.nrrd"
        sitk.WriteImage(labels, str(path))
        values, masks = on_grid([image], [path], Grid.of(model.section), model.names[1:])
    return labelled(model, values.astype(np.float32), masks[0])


def markdown(summary: dict[str, dict[str, Any]]) -> str:
    """A table for the model card: a column for each set of cases, its values beside a perfect sampler's 99 % band."""
    lines = ["| samples and truth | " + " | ".join(summary) + " |", "| --- |" + " --- |" * len(summary)]
    for key in SHOWN:
        cells = (scores["measures"][key] for scores in summary.values())
        texts = (f"{number(one['value'])} ({number(one['low'])} to {number(one['high'])})" for one in cells)
        lines.append(f"| {joint.titles()[key]} | " + " | ".join(texts) + " |")
    for title, key in (("Dice of the map", "map_dice"), ("expected from the samples", "expected_dice")):
        lines.append(f"| {title} | " + " | ".join(number(scores[key]) for scores in summary.values()) + " |")
    return "\n".join(lines)


def by_structure(scores: dict[str, Any]) -> str:
    """A table of one set of cases by structure; * marks what lies outside the band of a perfect sampler."""
    keys = ("z_rms", "coverage_90", "dice_ratio")
    lines = [
        "| structure | rms z | 90 % intervals hold | mean width, ml | 1 - Dice ratio |",
        "| --- | --- | --- | --- | --- |",
    ]
    for index, name in enumerate(scores["structures"]):
        z, held, ratio = (
            number(scores["measures"][key]["by_structure"][index], 2)
            + ("" if joint.within(scores["measures"][key], index) else "*")
            for key in keys
        )
        width = number(scores["describe"]["interval_90_width_ml"][index], 1)
        lines.append(f"| {name} | {z} | {held} | {width} | {ratio} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
