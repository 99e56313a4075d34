"""Estimate of duration and memory of a run, from the last run with the same model on the same device.

Both grow with the physical size of the volume, the sampling time also with samples x steps. The estimate is rough if
the volume is much larger or smaller than that of the last run, because the body fills another fraction of it.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import slicer

from ..i18n import tr as _
from . import status_texts

BASE_BYTES = 600e6
"""Memory of the worker before it reads a volume (torch's CPU build)."""


@dataclass(frozen=True)
class RunMeasurement:
    """Volume (l), seconds outside the sampling, seconds per sample and step, steps and peak memory of one run.

    For a model without steps, `steps` is 0 and `stepSeconds` is the time per sample.
    """

    liters: float
    fixedSeconds: float
    stepSeconds: float
    steps: int
    peakBytes: float
    samples: int = 8

    @classmethod
    def of(cls, report: Mapping[str, Any]) -> "RunMeasurement":
        """The measurement in `report`. Raises KeyError if the report has no timings."""
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
    def fromText(cls, text: str) -> "RunMeasurement | None":
        """Parse what `asText` has returned; None for any other text."""
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError):
            return None

    def asText(self) -> str:
        return json.dumps(asdict(self))

    def text(self, volumeNode: slicer.vtkMRMLScalarVolumeNode, samples: int | None, steps: int | None) -> str:
        """The estimate for `volumeNode` as one sentence. None: as many samples or steps as in the measured run."""
        size = np.multiply(volumeNode.GetImageData().GetDimensions(), volumeNode.GetSpacing())
        growth = float(np.prod(size)) / 1e6 / self.liters
        evaluations = (samples or self.samples) * (steps or self.steps if self.steps else 1)
        seconds = growth * (self.fixedSeconds + evaluations * self.stepSeconds)
        text = _("Estimated from the last run: {duration}").format(duration=status_texts.durationText(seconds))
        if self.peakBytes:
            gigabytes = (BASE_BYTES + growth * max(self.peakBytes - BASE_BYTES, 0.0)) / 1e9
            text += _(", about {gigabytes:.1f} GB of memory").format(gigabytes=gigabytes)
        return text + "."
