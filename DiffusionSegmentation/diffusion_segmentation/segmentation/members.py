"""Results of several class probabilities of one volume: files that others made, or the folds of a network.

Their mean is the map, their most probable masks take the place of samples, and their disagreement is the mutual
information of label and member.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..images.compressed_mask import CompressedMask
from ..images.resampling import Projection
from ..measurements.question import Question
from ..runtime import memory
from .ensemble import Ensemble
from .input_volume import InputVolume
from .outputs import ResultSource, ResultWriter, geometry
from .uncertain_regions import voxel_size

MAX_MASKS = 64  # masks that are stored for the sample browser; all count in the statistics
BOX_MARGIN = 2  # voxels around all foreground that the result covers
MIN_PROBABILITY = 1 / 255  # of foreground; voxels below it everywhere lie outside the box
EXCLUDED_SHARE = 0.001  # largest share of the foreground's probability outside the box


@dataclass(frozen=True)
class Members:
    """Masks of several members, and the mean of their class probabilities, in a box of the volume's grid.

    Attributes:
        box: slices [k, j, i] of the box.
        probabilities: mean class probabilities float32 [C, kb, jb, ib].
        masks: label maps of the box.
        mutual_information: of label and member, in bits, float32 [k, j, i] on the whole grid; None for masks, whose
            entropy it would be, and for one member.
    """

    box: tuple[slice, ...]
    probabilities: np.ndarray
    masks: list[CompressedMask]
    mutual_information: np.ndarray | None = None


@dataclass(frozen=True)
class WriteOptions:
    """How a result is written; see `segmentation.request.Request`."""

    compress: bool
    keep_samples: bool
    region_mm: float | None
    questions: Sequence[Question] = ()


class ProbabilityMean:
    """Running statistics of the class probabilities of members, each on the whole grid of a volume."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._shape = tuple(shape)
        self._entropy = np.zeros(self._shape, np.float32)  # mean over the members
        self._masks: list[CompressedMask] = []
        self._mean: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self._masks)

    @property
    def mean(self) -> np.ndarray:
        """Mean class probabilities float32 [C, k, j, i]. Raises ValueError if there is no member yet."""
        if self._mean is None:
            raise ValueError("There is no member yet.")
        return self._mean

    def add(self, p: np.ndarray) -> None:
        """Add the class probabilities float32 [C, k, j, i] of a member, which become part of this object."""
        self._masks.append(CompressedMask(p.argmax(0)))
        self._entropy += (entropy_bits(p) - self._entropy) / len(self)
        if self._mean is None:
            self._mean = p
        else:
            for mean, added in zip(self._mean, p, strict=True):  # one class at a time to save memory
                mean += (added - mean) / np.float32(len(self))

    def members(self) -> Members:
        """The members so far, in a box around their foreground. A single one is a mean without masks.

        Raises OutOfMemoryError if the memory does not suffice for their result.
        """
        mean = self.mean
        inside = _foreground_box(mean)
        require_memory(len(mean), inside)
        p = mean[:, *inside].copy()
        if len(self) == 1:
            return Members(inside, p, [])
        cropped = [CompressedMask(mask.whole()[inside]) for mask in self._masks]
        # Houlsby et al. (2011), "Bayesian Active Learning for Classification and Preference Learning", equation 2.
        return Members(inside, p, cropped, np.maximum(entropy_bits(mean) - self._entropy, 0))


class VoxelBox:
    """Smallest box around all included voxels of a grid [k, j, i], with a margin in voxels."""

    def __init__(self, shape: Sequence[int], margin: int = BOX_MARGIN) -> None:
        self._shape, self._margin = tuple(shape), margin
        self._low, self._high = list(self._shape), [0, 0, 0]

    def include(self, voxels: np.ndarray) -> None:
        """Enlarge the box by the true `voxels`, bool [k, j, i]."""
        for axis, others in enumerate(((1, 2), (0, 2), (0, 1))):
            used = np.flatnonzero(voxels.any(others))
            if used.size:
                self._low[axis] = min(self._low[axis], int(used[0]))
                self._high[axis] = max(self._high[axis], int(used[-1]) + 1)

    def slices(self) -> tuple[slice, ...]:
        """The box; the whole grid if nothing was included. With a margin slices have two voxels or more."""
        if self._high[0] == 0:
            return tuple(slice(0, n) for n in self._shape)
        return tuple(
            slice(max(0, low - self._margin), min(n, high + self._margin))
            for low, high, n in zip(self._low, self._high, self._shape, strict=True)
        )

    @property
    def shape(self) -> tuple[int, ...]:
        """Edges of the box in voxels [k, j, i]."""
        return tuple(part.stop - part.start for part in self.slices())


def write_members(
    folder: Path,
    volume: InputVolume,
    members: Members,
    labels: list[dict[str, Any]],
    report: Callable[[Ensemble], dict[str, Any]],
    options: WriteOptions,
    warnings: list[str],
    model_spacing_mm: float | None = None,
    are_draws: bool = True,
) -> dict[str, Any]:
    """Write the result files of `members` into `folder`; returns their report, which `outputs.finish` writes.

    `labels` is the table of labels, and `report` returns the entries of the report on the members and their source. For
    `model_spacing_mm` and `are_draws` see `ResultSource`.
    """
    k, j, i = members.box
    working = volume.image[i.start : i.stop, j.start : j.stop, k.start : k.stop]
    spacing = working.GetSpacing()[::-1]
    information = members.mutual_information
    source = ResultSource(
        labels,
        spacing,
        report,
        mutual_information=information,
        model_spacing_mm=model_spacing_mm,
        are_draws=are_draws,
    )
    projection = Projection(working, volume.image)
    chosen = options.compress, options.keep_samples, options.region_mm, options.questions
    writer = ResultWriter(volume, source, projection, *chosen)
    kept = MAX_MASKS if options.keep_samples else 0
    ensemble = Ensemble(members.probabilities, 0.0, voxel_size(*geometry(volume.image))[0], kept, True, writer.measure)
    for mask in members.masks:
        whole = mask.whole()
        ensemble.add(whole, whole)
    return writer.write(folder, ensemble, 0, warnings)


def require_memory(classes: int, box: tuple[slice, ...]) -> None:
    """Raise OutOfMemoryError if the memory does not suffice for a result in the box."""
    voxels = int(np.prod([part.stop - part.start for part in box]))
    memory.require(result_bytes(classes, voxels), "The result", "give fewer labels, or crop the volume and its masks")


def result_bytes(classes: int, voxels: int) -> int:
    """Peak memory (bytes) of writing a result of this many voxels.

    Measured where all voxels are uncertain: probabilities, votes, regions and their seeds need 11 bytes for each voxel
    and class and 155 for each voxel; with many classes the interpolated copies of probabilities and votes need more.
    """
    return max(11 * classes + 155, 19 * classes + 20) * voxels


def entropy_bits(p: np.ndarray) -> np.ndarray:
    """Entropy in bits, float32 [k, j, i], of class probabilities [C, k, j, i]; one class at a time to save memory."""
    bits = np.zeros(p.shape[1:], np.float32)
    for part in p:
        bits -= part * np.log2(np.maximum(part, np.finfo(np.float32).tiny))
    return bits


def _foreground_box(p: np.ndarray) -> tuple[slice, ...]:
    """Box around all voxels with foreground; the whole grid if it excludes too much of the foreground's probability."""
    box = VoxelBox(p.shape[1:])
    foreground = 1 - p[0]
    box.include(foreground >= MIN_PROBABILITY)
    inside, total = box.slices(), foreground.sum(dtype=np.float64)
    if total - foreground[inside].sum(dtype=np.float64) > EXCLUDED_SHARE * total:
        return tuple(slice(0, n) for n in foreground.shape)
    return inside
