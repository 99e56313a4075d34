"""How long a run will take and how much memory, judged by the last one with the same model on the same device. No qt.

Time and memory grow with the part of space that the volume covers, and the time for sampling with samples x steps.
Of a volume much larger or smaller than the last the body may fill another part: the estimate is rough, and said so.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import slicer

from ..i18n import tr as _
from . import messages as wording

BASE_BYTES = 600e6
"""What the worker holds before it sees a volume: about 0.6 GB with torch's CPU build."""


@dataclass(frozen=True)
class Measured:
    """One run: `liters` of space, seconds around the sampling and in it per sample and step, steps, peak bytes.

    `steps` is 0 where the samples take none; `stepSeconds` is the time of a sample then.
    """

    liters: float
    fixedSeconds: float
    stepSeconds: float
    steps: int
    peakBytes: float
    samples: int = 8

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> "Measured":
        """What `report` tells of its run. Raises KeyError for one that tells nothing."""
        timings, source = report["timings_s"], report["input"]
        sampling = timings["sampling"]
        return cls(
            liters=float(np.prod(np.multiply(source["size_ijk"], source["spacing_mm"]))) / 1e6,
            fixedSeconds=sum(timings.values()) - sampling,
            stepSeconds=sampling / (report["samples"] * (report["steps"] or 1)),
            steps=report["steps"],
            peakBytes=float(report["memory_bytes"].get("process_peak", 0)),
            samples=report["samples"],
        )

    @classmethod
    def fromText(cls, text: str) -> "Measured | None":
        """What `asText` wrote; None for anything else."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def asText(self) -> str:
        return json.dumps(asdict(self))

    def text(self, volumeNode: slicer.vtkMRMLScalarVolumeNode, samples: int | None, steps: int | None) -> str:
        """The estimate for another volume, in words; numbers that are None are those of the run that was measured."""
        size = np.multiply(volumeNode.GetImageData().GetDimensions(), volumeNode.GetSpacing())
        growth = float(np.prod(size)) / 1e6 / self.liters
        passes = (samples or self.samples) * (steps or self.steps if self.steps else 1)
        seconds = growth * (self.fixedSeconds + passes * self.stepSeconds)
        told = _("Takes {duration}, judging by the last run").format(duration=wording.durationText(seconds))
        if self.peakBytes:
            gigabytes = (BASE_BYTES + growth * max(self.peakBytes - BASE_BYTES, 0.0)) / 1e9
            told += _(", and about {gigabytes:.1f} GB of memory").format(gigabytes=gigabytes)
        return told + "."
