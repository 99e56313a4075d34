"""How results and progress look in a terminal."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .stdio import claim_stdout, write_all


def claim_for_json() -> Callable[[Any], None]:
    """Return a function that prints one JSON value on stdout; from now on all other output goes to stderr."""
    stdout = claim_stdout()

    def show(value: Any) -> None:
        write_all(stdout, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8"))

    return show


class ProgressLine:
    """Shows progress on stderr: one line that is rewritten in a terminal, a line for each stage elsewhere.

    Call it with each `Progress`; as a context manager it ends the line.
    """

    def __init__(self) -> None:
        self._rewrite = sys.stderr.isatty()
        self._width = 0
        self._stage = ""

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._width:
            print(file=sys.stderr)

    def __call__(self, now: Any) -> None:
        if self._rewrite:
            text = _progress_text(now)
            print(f"\r{text:<{self._width}}", end="", file=sys.stderr, flush=True)
            self._width = len(text)
        elif now.stage != self._stage:
            print(f"{now.stage} ...", file=sys.stderr, flush=True)
        self._stage = now.stage


class Counter:
    """Tells a ProgressLine how many of the steps of a stage are done, and the time left as the mean of those says."""

    def __init__(self, line: ProgressLine, stage: str) -> None:
        self._line, self._stage, self._start = line, stage, time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        left = (time.monotonic() - self._start) / done * (of - done)
        self._line(SimpleNamespace(stage=self._stage, step=done, steps=of, seconds_left=left))


def _progress_text(now: Any) -> str:
    text = now.stage
    if now.stage == "sampling":
        text += f", sample {now.sample}{f' of {now.samples}' if now.samples else ''}"
    if now.steps:
        text += f", step {now.step} of {now.steps}"
    if now.seconds_left is not None:
        text += f", {now.seconds_left:.0f} s left"
    return text


def summary(report: Mapping[str, Any], folder: Path) -> str:
    """Return a report as text: volumes with their intervals, what was used, warnings, where the files are."""
    width = max(len(volume["name"]) for volume in report["volumes"])
    lines = [f"{'':<{width}}  {'expected ml':>11}  {'90 % interval ml':>18}  {'mask ml':>8}"]
    for volume in report["volumes"]:
        interval = volume["interval90_ml"]  # none from a single sample
        shown = f"{interval[0]:7.1f} to {interval[1]:7.1f}" if interval else "-"
        lines.append(
            f"{volume['name']:<{width}}  {volume['expected_ml']:11.1f}  {shown:>18}  {volume['consensus_ml']:8.1f}"
        )
    steps = f" of {report['steps']} steps" if report["steps"] else ", each a mask of the copula without denoising"
    lines.append(
        f"{report['samples']} samples{steps}; seed {report['seed']}, "
        f"model {report['model']['name']} {report['model']['version']}, on {report['device']}."
    )
    lines.append(
        "The expected volume is the sum of the class probabilities; the mask counts each voxel as its most probable "
        "structure, which can differ."
    )
    lines.append("The intervals are the spread of the model's samples, not its accuracy.")
    lines += report["warnings"]
    lines.append(f"Results are in {folder}")
    return "\n".join(lines)


def catalogue(models: Sequence[Mapping[str, Any]]) -> str:
    """Return a list of models (their metadata) as text, one a line."""
    sections = [metadata["diffusion_segmentation"] for metadata in models]
    width = max((len(section["name"]) for section in sections), default=0)
    lines = [f"{section['name']:<{width}}  {section['title']}" for section in sections]
    return "\n".join(lines) or "No models are here."
