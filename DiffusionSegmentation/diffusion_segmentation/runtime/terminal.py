"""Output of the command: progress on stderr, results as text or JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from .stdio import claim_stdout, write_all
from .units import Units


def claim_for_json() -> Callable[[Any], None]:
    """Return a function that prints one JSON value on stdout; redirect all other output to stderr."""
    stdout = claim_stdout()

    def show(value: Any) -> None:
        write_all(stdout, (json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8"))

    return show


class ProgressLine:
    """Shows progress on stderr: in a terminal one line that is rewritten, otherwise a line for each stage.

    Call it with each `Progress`; leaving the context ends the line.
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

    def __call__(self, progress: Any) -> None:
        if self._rewrite:
            text = _progress_text(progress)
            print(f"\r{text:<{self._width}}", end="", file=sys.stderr, flush=True)
            self._width = len(text)
        elif progress.stage != self._stage:
            print(f"{progress.stage} ...", file=sys.stderr, flush=True)
        self._stage = progress.stage


class StepCounter:
    """Reports finished steps of a stage to a ProgressLine, with the time left at their mean duration."""

    def __init__(self, line: ProgressLine, stage: str) -> None:
        self._line, self._stage, self._start = line, stage, time.monotonic()

    def __call__(self, done: int, of: int) -> None:
        left = (time.monotonic() - self._start) / done * (of - done)
        self._line(SimpleNamespace(stage=self._stage, step=done, steps=of, seconds_left=left))


def _progress_text(progress: Any) -> str:
    text = progress.stage
    if progress.stage == "sampling":
        text += f", sample {progress.sample}{f' of {progress.samples}' if progress.samples else ''}"
    if progress.steps:
        text += f", step {progress.step} of {progress.steps}"
    if progress.seconds_left is not None:
        text += f", {progress.seconds_left:.0f} s left"
    return text


def summary(report: Mapping[str, Any], folder: Path) -> str:
    """A report as text: volumes with intervals, settings, warnings and the result folder."""
    width, units = max(len(volume["name"]) for volume in report["volumes"]), Units(report.get("unit", "ml"))
    unit = units.symbol
    spread = f"{'range of folds' if 'folds' in report else '90 % interval'} {unit}"
    lines = ["  ".join([" " * width, f"{'expected ' + unit:>13}", f"{spread:>20}", f"{'mask ' + unit:>10}"])]
    for volume in report["volumes"]:
        bounds = volume.get(units.key("range")) or volume[units.key("interval90")]  # None for a single sample
        interval = f"{bounds[0]:8.1f} to {bounds[1]:8.1f}" if bounds else "-"
        expected, mask = f"{volume[units.key('expected')]:13.1f}", f"{volume[units.key('consensus')]:10.1f}"
        lines.append(f"{volume['name']:<{width}}  {expected}  {interval:>20}  {mask}")
    lines += [
        _origin(report),
        f"The expected {units.what} is the sum of the class probabilities; the mask counts each {units.cell} as its "
        "most probable structure, which can differ.",
        *report["warnings"],
        f"Results are in {folder}",
    ]
    return "\n".join(lines)


def _origin(report: Mapping[str, Any]) -> str:
    """Sentences on the source of the samples and on the meaning of their intervals."""
    samples, model = report["samples"], report["model"]
    if "imported" in report:
        intervals = " The intervals are for one more mask, if it varies as these do." if samples else ""
        return f"From {model['title']}.{intervals}"
    if "folds" in report:
        spread = " The range is that of the masks of the folds, not of the true volume." if samples else ""
        count = len(report["folds"]["names"])
        return f"{'One fold' if count == 1 else f'{count} folds'} of {model['title']}, on {report['device']}.{spread}"
    if "network" in report:
        return f"By {model['title']}, on {report['device']}."
    steps = f" of {report['steps']} steps" if report["steps"] else ", each a mask of the copula without denoising"
    frozen = f" on top of {model['frozen']['name']}" if "frozen" in model else ""
    spread = "The intervals are the spread of the model's samples, not its accuracy."
    return (
        f"{samples} samples{steps}; seed {report['seed']}, model {model['name']} {model['version']}{frozen}, on "
        f"{report['device']}.\n{report.get('own_cases', {}).get('sentence', spread)}"
    )


def catalogue(models: Sequence[Mapping[str, Any]]) -> str:
    """A list of models, given by their metadata, as text: name, title, size and source, one per line."""
    rows = []
    for metadata in models:
        section, where = metadata["diffusion_segmentation"], metadata["installed"]
        rows.append((section["name"], section["title"], f"{where['bytes'] / 1e6:.1f} MB", where["source"]))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{text:<{width}}" for text, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines) or "No models are installed."
