"""Where the sampler starts, on tasks whose answer is known: today's white noise, the copula, and the copula denoised.

    python Testing/run.py bench starts --output DIR [--minutes M] [--cases N] [--samples N] [TASK ...]

TASK is a phantom, by default boundary and lesions on 128x128 and 64x64x64. Each model is trained for M minutes (15) by
`train TASK`; its covariance is fitted to cases of its own; then every start is scored on the same new cases, beside the
exact sampler: rms z and 90 % coverage of the volumes with one exact draw as the truth, and the energy score with
distance 1 - Dice. What is trained is kept: the same command goes on. Written are DIR/TASK/starts.json and a table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from diffusion_segmentation.calibration.covariance import fit_covariance
from diffusion_segmentation.calibration.start import compare_starts, labelled, scored
from diffusion_segmentation.model import folder as models
from diffusion_segmentation.phantoms import phantom
from diffusion_segmentation.runtime.terminal import ProgressLine, StepCounter
from diffusion_segmentation.training.sources import Phantoms

TASKS = ("boundary:128x128", "lesions:128x128", "boundary:64x64x64", "lesions:64x64x64")
FITTED = {2: 100, 3: 24}
CASES = {2: 60, 3: 16}
SEED = 5
"""Of the fitted cases; the scored ones have seeds of three parts that end in another number."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", metavar="TASK", nargs="*", default=TASKS)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--cases", type=int, help="default: 60 in two dimensions, 16 in three")
    parser.add_argument("--samples", type=int, default=16)
    options = parser.parse_args()
    for task in options.tasks:
        folder = options.output / task.replace(":", "-")
        if not (folder / "model" / "model.safetensors").exists():
            train = ["train", task, "--output", str(folder / "model"), "--minutes", str(options.minutes), "--resume"]
            subprocess.run([sys.executable, "-m", "diffusion_segmentation", *train], check=True)
        rows = compare(task, folder / "model", options.cases, options.samples)
        (folder / "starts.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        print(table(task, rows), flush=True)


def compare(task: str, folder: Path, count: int | None, samples: int) -> list[dict]:
    """Rows of all starts and of the exact sampler."""
    model = models.load(folder).to(torch.device("cpu"))
    with ProgressLine() as line:
        fitted = [labelled(model, *pair) for pair in Phantoms(task).labelled(FITTED[model.dims], SEED)]
        covariance = fit_covariance(fitted, model.spacing, SEED, StepCounter(line, f"{task}: fitting"))
        cases, exact = [], []
        for index in range(count or CASES[model.dims]):
            rng = np.random.default_rng([SEED, index, 11])
            case = phantom(task).draw(rng)
            draws = case.sample(rng, samples + 1)
            cases.append(labelled(model, case.image, draws[0]))
            exact.append((draws[1:], case.marginals))
        comparison = compare_starts(model, covariance, cases, samples, SEED, StepCounter(line, f"{task}: comparing"))
    comparison.append(scored("exact sampler", None, cases, exact, model.spacing))
    return [one.as_json() for one in comparison]


def table(task: str, rows: list[dict]) -> str:
    lines = [f"{task:<30}{'rms z':>8}{'90 % held':>11}{'energy score':>14}"]
    lines += [
        f"{row['start']:<30}{row['z_rms']:8.2f}{row['coverage_90']:11.2f}{row['energy_score']:14.4f}" for row in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
