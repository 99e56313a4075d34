"""What is asked of a run, and what it tells while it goes and at its end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal


@dataclass(frozen=True)
class Request:
    """What is asked for. Where `samples` or `steps` is None the model's advice is taken.

    `samples` "auto" draws 8 samples or more until the result has settled, at most 32 or as many as the model advises.

    `region_mm`, 5 to 100, is how far the middles of uncertain regions lie apart at least, None for 15; none is more
    than twice that across.

    `spacing` is the size of a voxel in mm along i, j and k, for a volume file that does not state it. `source` is the
    file that a program loaded before it wrote `volume`: what its header leaves open is a warning of the report.
    """

    volume: Path
    output: Path
    model: str = "brain-structures"
    samples: int | Literal["auto"] | None = None
    steps: int | None = None
    seed: int = 0
    device: str = "auto"
    region_mm: float | None = None
    keep_samples: bool = False
    compress: bool = True
    previews: bool = False
    spacing: tuple[float, float, float] | None = None
    source: Path | None = None


@dataclass(frozen=True)
class Progress:
    """Where a run stands. Stages: reading, model, encoding, sampling, writing; the time left may be unknown.

    `note` is a sentence on how the run had to be changed, empty where it had not.
    """

    stage: str
    sample: int = 0
    samples: int | None = None
    step: int = 0
    steps: int | None = None
    seconds_left: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Preview:
    """Result files so far, from `samples` samples; 0 is the direct head's fast mask, which is no sample."""

    segmentation: Path
    entropy: Path
    samples: int


@dataclass(frozen=True)
class Outcome:
    """The report, as in report.json; `partial` when the run was stopped with some samples drawn."""

    report: dict[str, Any]
    partial: bool
