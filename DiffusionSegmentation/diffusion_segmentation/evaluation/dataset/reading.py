"""Reading of the outputs of a run as arrays on the grid of the image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from pathlib import Path

import numpy as np
import SimpleITK as sitk


@dataclass(frozen=True)
class RunOutputs:
    """Outputs of `segment` for one image; all arrays [k, j, i] on the image's grid.

    Outside the body, where nothing was computed, all is background with probability 1.
    """

    labels: np.ndarray  # most probable class, uint8
    entropy: np.ndarray  # Bits, float32
    probabilities: list[np.ndarray]  # by class, background first, uint8; 255 is 1
    samples: list[np.ndarray]  # joint samples, uint8

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the most probable class, float32."""
        return reduce(np.maximum, self.probabilities).astype(np.float32) / np.float32(255)

    def without(self, ignored: np.ndarray) -> RunOutputs:
        """The same with certain background, in every sample, in the voxels of `ignored` (bool [k, j, i])."""
        if not ignored.any():
            return self

        def cleared(array: np.ndarray, value: int = 0) -> np.ndarray:
            return np.where(ignored, array.dtype.type(value), array)

        first, *others = self.probabilities
        return RunOutputs(
            cleared(self.labels),
            cleared(self.entropy),
            [cleared(first, 255), *map(cleared, others)],
            list(map(cleared, self.samples)),
        )


def read_outputs(folder: Path, image: sitk.Image) -> RunOutputs:
    """The files that `segment` with `keep_samples` wrote into `folder` for this image."""
    return RunOutputs(
        labels=sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "segmentation.seg.nrrd"))),
        entropy=sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "entropy.nrrd"))),
        probabilities=_sequence(folder / "probabilities.seq.nrrd", image, first=255),
        samples=_sequence(folder / "samples.seq.nrrd", image, first=0),
    )


def _sequence(path: Path, image: sitk.Image, first: int) -> list[np.ndarray]:
    """The volumes of a sequence on the image's grid; outside their box the first volume is `first`, the others 0."""
    stored = sitk.ReadImage(str(path))
    array = sitk.GetArrayViewFromImage(stored)
    array = array[..., None] if array.ndim == 3 else array  # a sequence of one volume
    start = image.TransformPhysicalPointToIndex(stored.GetOrigin())[::-1]
    box = tuple(slice(a, a + n) for a, n in zip(start, array.shape, strict=False))
    volumes = []
    for number in range(array.shape[-1]):
        volume = np.full(image.GetSize()[::-1], first if number == 0 else 0, np.uint8)
        volume[box] = array[..., number]
        volumes.append(volume)
    return volumes
