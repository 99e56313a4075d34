"""Trains a model on each task with a known answer and evaluates it there: is the spread of the samples the true one?

    python Testing/benchmarks/known_answers.py --output DIR [--minutes M] [--threads N] [TASK ...]

TASK is a phantom such as boundary:32x32; by default boundary, probit, lesions and template in two dimensions, with 15
minutes of training each on one thread. Both steps are the product's own commands, `train TASK` and `evaluate MODEL
TASK`, with 5, 10 and 100 adapted and 20 uniform steps. What is finished is kept: the same command goes on. Printed for
each task: CPU minutes of the training and what `evaluate` prints; the pages are DIR/TASK/scores/evaluation.html.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path

TASKS = ("boundary", "probit", "lesions", "template")
STEPS = ("10", "5", "100", "uniform:20")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tasks", metavar="TASK", nargs="*", default=TASKS)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    for task in options.tasks:
        folder = options.output / task.replace(":", "-")
        if not (folder / "model" / "model.safetensors").exists():
            minutes = cpu_minutes(
                "train", task, "--output", folder / "model", "--minutes", str(options.minutes), "--resume"
            )
            print(f"{task}: trained in {minutes:.1f} CPU minutes", flush=True)
        minutes = cpu_minutes("evaluate", folder / "model", task, "--output", folder / "scores", "--steps", *STEPS)
        print(f"{task}: evaluated in {minutes:.1f} CPU minutes", flush=True)


def cpu_minutes(*arguments: str | Path) -> float:
    """Run one of the product's commands; minutes of CPU it took, data loading and start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "diffusion_segmentation", *map(str, arguments)]
    if status := subprocess.run(command).returncode:
        sys.exit(status)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 60


if __name__ == "__main__":
    main()
