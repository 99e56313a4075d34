"""Facts of a run: voxels of the input whose class a reviewer has settled; the samples are drawn given these.

Facts lie on the grid of the input and the networks on the working grid. A working voxel counts as known if at least
half of it is known (KNOWN_SHARE), and then has the class with the largest known share; both shares are means over its
volume, as for intensities. Every fact, also one too small for a working voxel, is kept on the grid of the input: in the
segmentation, in each sample, and with an entropy of 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from ..errors import InputError, ModelError, shown
from ..images.label_file import read_label_numbers
from ..images.resampling import Block, Projection, on_grid_of
from ..model.folder import Model
from ..networks import UNKNOWN
from .members import VoxelBox
from .request import Request

KNOWN_SHARE = 0.5
ROUGH = (
    "The rest follows the corrections through a Gaussian copula, which is only roughly right; check what changed there."
)
CROP_MARGIN = 8  # voxels around all facts, the part of the volume that is resampled
SMALLEST_SHARE = 0.01  # of known foreground, for which the part of the volume that is segmented is enlarged


@dataclass(frozen=True)
class Facts:
    """Labels of the known voxels, uint8 [k, j, i] on the grid of the input, UNKNOWN elsewhere.

    `rounds` is the number of updates of the result, this one included.
    """

    labels: np.ndarray
    rounds: int = 1

    @classmethod
    def read(cls, paths: Sequence[Path], image: sitk.Image, classes: int, rounds: int) -> Facts:
        """From label maps in which UNKNOWN (255) marks all voxels that are not known; later ones win.

        Raises InputError for a label that the model does not have, if nothing is known, and as `read_label_numbers`.
        """
        labels = np.full(image.GetSize()[::-1], UNKNOWN, np.uint8)
        for path in paths:
            values = read_label_numbers(path, image, "facts file")[0]
            known = values != UNKNOWN
            wrong = values[known & ((values < 0) | (values >= classes))]
            if wrong.size:
                raise InputError(
                    f"The facts file '{shown(path.name)}' has the label {wrong[0]:g}, and the model has 0 to "
                    f"{classes - 1}; give voxels that are not known the value {UNKNOWN}."
                )
            labels[known] = values[known]
        if (labels == UNKNOWN).all():
            raise InputError(f"The facts file has no known voxel: all have the value {UNKNOWN}.")
        return cls(labels, rounds)

    def on_working_grid(self, working: sitk.Image, image: sitk.Image) -> tuple[np.ndarray, np.ndarray]:
        """Labels uint8 [z, y, x] of the known voxels of the grid of `working`, UNKNOWN elsewhere.

        `image` has the grid of the facts. The second array, bool [z, y, x], marks the voxels that have any part of a
        known foreground.
        """
        box = VoxelBox(self.labels.shape, CROP_MARGIN)
        box.include(self.labels != UNKNOWN)
        labels, start = self.labels[box.slices()], [part.start for part in box.slices()][::-1]
        found = np.unique(labels[labels != UNKNOWN])
        shares = []
        for label in found:
            part = sitk.GetImageFromArray((labels == label).astype(np.float32))
            part.SetSpacing(image.GetSpacing())
            part.SetDirection(image.GetDirection())
            part.SetOrigin(image.TransformIndexToPhysicalPoint(start))
            shares.append(sitk.GetArrayFromImage(on_grid_of(part, working)))
        total = np.stack(shares)
        known = np.where(total.sum(0) < KNOWN_SHARE, UNKNOWN, found[total.argmax(0)]).astype(np.uint8)
        return known, total[found > 0].sum(0) > SMALLEST_SHARE

    def as_json(self, names: list[str]) -> dict[str, Any]:
        """The entry `facts` of the report; `names` of the classes, background first."""
        counts = np.bincount(self.labels.ravel(), minlength=UNKNOWN + 1)
        return {
            "voxels": int(counts[:UNKNOWN].sum()),
            "rounds": self.rounds,
            "labels": {name: int(count) for name, count in zip(names, counts, strict=False) if count},
        }


def follows_facts(model: Model) -> bool:
    """Whether samples can be drawn given facts: by a denoiser that was trained for it, or by the copula alone."""
    return model.is_copula_only or model.denoiser.facts is not None


def read_facts(request: Request, model: Model, image: sitk.Image, folds: int = 0) -> Facts | None:
    """The facts of a request on the grid of its input `image`; None if it has none.

    `folds` is the number of folds from which the samples are drawn in turn. Given facts, those folds should draw most
    samples that found the facts most probable, and no network tells how probable they are together.

    Raises ModelError if the model cannot follow any, and as `Facts.read`.
    """
    if not request.facts:
        return None
    if folds > 1:
        raise ModelError(
            f"The samples of the model '{model.section['title']}' come from {folds} folds in turn and cannot follow "
            "corrections; choose a model on top of a single network."
        )
    if not follows_facts(model):
        raise ModelError(
            f"The model '{model.section['title']}' was not trained to follow corrections; train one whose denoiser has "
            '"facts": true in the configuration, or choose another model.'
        )
    return Facts.read(request.facts, image, model.classes, request.rounds)


def including(box: tuple[slice, ...], voxels: np.ndarray) -> tuple[slice, ...]:
    """The box [z, y, x], enlarged until it contains the true `voxels` of the whole grid."""
    for axis, part in enumerate(box):
        used = np.flatnonzero(voxels.any(tuple({0, 1, 2} - {axis})))
        if used.size:
            low, high = min(part.start, int(used[0])), max(part.stop, int(used[-1]) + 1)
            box = (*box[:axis], slice(low, high), *box[axis + 1 :])
    return box


class FactsProjection(Projection):
    """Projection to the grid of the input on which the facts hold, whatever the working grid says."""

    def __init__(self, working: sitk.Image, reference: sitk.Image, facts: Facts) -> None:
        super().__init__(working, reference)
        self._facts = facts.labels[self.inside]

    def mask(self, labels: np.ndarray) -> np.ndarray:
        mask = super().mask(labels)
        np.copyto(mask, self._facts, where=self._facts != UNKNOWN)
        return mask

    def _interpolated(self, images: Sequence[sitk.Image], block: Block) -> np.ndarray:
        q, facts = super()._interpolated(images, block), self._facts[block]
        known = facts != UNKNOWN
        for label, channel in enumerate(q):
            channel[known] = facts[known] == label
        return q

    def _known(self, block: Block) -> bytes:
        facts = self._facts[block]
        return b"" if (facts == UNKNOWN).all() else facts.tobytes()
