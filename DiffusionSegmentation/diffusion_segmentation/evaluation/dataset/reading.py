"""From files to arrays on the grid of the image: what raters drew, and what a run wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from ...images.label_file import read_labels, relabel


@dataclass(frozen=True)
class Drawn:
    """What a run says of an image; all arrays [k, j, i] on the image's grid.

    Outside the body, where nothing was computed, all is background with certainty.
    """

    labels: np.ndarray
    """Most probable class, uint8."""
    entropy: np.ndarray
    """Bits, float32."""
    probabilities: list[np.ndarray]
    """Of each class, background first, uint8; 255 is 1."""
    samples: list[np.ndarray]
    """Joint samples, uint8."""

    @property
    def confidence(self) -> np.ndarray:
        """Probability of the most probable class, float32."""
        most = self.probabilities[0]
        for p in self.probabilities[1:]:
            most = np.maximum(most, p)
        return most.astype(np.float32) / np.float32(255)

    def without(self, ignored: np.ndarray) -> Drawn:
        """The same with background, certain and in every sample, in the voxels of `ignored` (bool [k, j, i])."""
        if not ignored.any():
            return self
        first, *others = (np.where(ignored, np.uint8(0), p) for p in self.probabilities)
        return Drawn(
            labels=np.where(ignored, np.uint8(0), self.labels),
            entropy=np.where(ignored, np.float32(0), self.entropy),
            probabilities=[np.where(ignored, np.uint8(255), first), *others],
            samples=[np.where(ignored, np.uint8(0), sample) for sample in self.samples],
        )


def read_reference(
    path: Path, image: sitk.Image, names: Sequence[str], ignored: int | None, order: Sequence[int]
) -> np.ndarray:
    """A label map uint8 [k, j, i] with the model's labels or IGNORED; `order` has the model's label for each number.

    `names` and `ignored` as for `read_labels`, which raises.
    """
    return relabel(read_labels(path, image, names, ignored), order)


def read_drawn(folder: Path, image: sitk.Image) -> Drawn:
    """What `segment` with `keep_samples` wrote into `folder` for this image."""
    return Drawn(
        labels=_array(folder / "segmentation.seg.nrrd"),
        entropy=_array(folder / "entropy.nrrd"),
        probabilities=_sequence(folder / "probabilities.seq.nrrd", image, first=255),
        samples=_sequence(folder / "samples.seq.nrrd", image, first=0),
    )


def _array(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def _sequence(path: Path, image: sitk.Image, first: int) -> list[np.ndarray]:
    """The volumes of a sequence on the image's grid; outside their box the first holds `first`, the others 0."""
    stored = sitk.ReadImage(str(path))
    listed = sitk.GetArrayViewFromImage(stored)
    listed = listed[..., None] if listed.ndim == 3 else listed  # a list of one
    start = image.TransformPhysicalPointToIndex(stored.GetOrigin())[::-1]
    box = tuple(slice(a, a + n) for a, n in zip(start, listed.shape, strict=False))
    whole = []
    for number in range(listed.shape[-1]):
        volume = np.full(image.GetSize()[::-1], first if number == 0 else 0, np.uint8)
        volume[box] = listed[..., number]
        whole.append(volume)
    return whole
