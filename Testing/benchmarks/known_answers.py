"""Trains a model on each task with a known answer and compares the spread of its samples with the true one.

    python Testing/benchmarks/known_answers.py --output DIR [--minutes M] [--threads N] [TASK ...]

TASK is a phantom such as boundary:32x32; by default boundary, probit, lesions and template in two dimensions, with 15
minutes of training each on one thread. Both steps are the product's own commands, `train TASK` and `evaluate MODEL
TASK`, with 5, 10 and 100 adapted and 20 uniform steps (or --steps). What is finished is kept: the same command goes on.
Printed for each task: CPU minutes of the training, what `evaluate` prints, and how much worse few steps are than many
in GED_U, with a 95 % interval over the same cases (paired bootstrap). The pages are DIR/TASK/scores/evaluation.html.
"""

from __future__ import annotations

import argparse
import csv
import os
import resource
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import numpy as np

from diffusion_segmentation.metrics import interval

TASKS = ("boundary", "probit", "lesions", "template")
STEPS = ("10", "5", "100", "uniform:20")
PAIRS = (("adapted-10", "adapted-100"), ("adapted-5", "uniform-20"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", metavar="TASK", nargs="*", default=TASKS)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", nargs="+", default=STEPS)
    parser.add_argument("--cases", type=int, help="default: as many as evaluate takes, 400 in 2-D")
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    for task in options.tasks:
        folder = options.output / task.replace(":", "-")
        if not (folder / "model" / "model.safetensors").exists():
            minutes = cpu_minutes(
                "train", task, "--output", folder / "model", "--minutes", str(options.minutes), "--resume"
            )
            print(f"{task}: trained in {minutes:.1f} CPU minutes", flush=True)
        scores = folder / "scores"
        cases = ["--cases", str(options.cases)] if options.cases else []
        evaluated = ["evaluate", folder / "model", task, "--output", scores, "--steps", *options.steps]
        minutes = cpu_minutes(*evaluated, *cases)
        print(f"{task}: evaluated in {minutes:.1f} CPU minutes", flush=True)
        compare(scores / "cases.csv")


def compare(path: Path) -> None:
    """Print the paired differences in GED_U of the rows that were evaluated."""
    distances: dict[str, dict[str, float]] = defaultdict(dict)
    with open(path, newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            if any(line["row"] in pair for pair in PAIRS):
                distances[line["row"]][line["case"]] = float(line["ged_u"])
    for few, many in PAIRS:
        if few in distances and many in distances:
            pair = [np.array([distances[row][case] for case in distances[few]]) for row in (few, many)]
            difference = interval(pair[0] - pair[1], 0.95, np.random.default_rng(0))
            bounds = f"{difference.low:+.4f} to {difference.high:+.4f}"
            print(f"GED_U of {few} less that of {many}: {difference.estimate:+.4f} ({bounds})", flush=True)


def cpu_minutes(*arguments: str | Path) -> float:
    """Run one of the product's commands; minutes of CPU it took, data loading and start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "diffusion_segmentation", *map(str, arguments)]
    if status := subprocess.run(command, check=False).returncode:
        sys.exit(status)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60


if __name__ == "__main__":
    main()
