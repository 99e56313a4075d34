"""Preprocessing of the inputs of a case by MONAI's transforms, and the way back of class probabilities.

Arrays are in the order of MONAI's readers, [i, j, k]; affines lead from their indices to RAS in mm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from monai import transforms
from monai.data import MetaTensor
from monai.transforms.utils import convert_applied_interp_mode

from ..errors import GeometryError
from ..model.monai_metadata import DIRECTIONS

CLASSES = {
    name: getattr(transforms, name)
    for name in (
        *("Spacing", "CropForeground", "NormalizeIntensity"),
        *("ScaleIntensity", "ScaleIntensityRange", "ScaleIntensityRangePercentiles"),
    )
}
GEOMETRIC = ("Spacing", "CropForeground")
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
Undo = Callable[[MetaTensor], MetaTensor]


class Preprocessing:
    """The transforms of an entry `preprocessing` of the metadata, for one case."""

    def __init__(self, entries: Sequence[dict[str, Any]], interpolation: str) -> None:
        self._entries, self._interpolation = entries, interpolation
        self._undo: list[Undo] = []

    def __call__(self, images: Sequence[sitk.Image]) -> torch.Tensor:
        """Inputs on one grid as the network sees them, float32 [inputs, i, j, k].

        Raises GeometryError if nothing is left of them.
        """
        self._undo.clear()
        data = as_tensor(images)
        for entry in self._entries:
            data = self._applied(entry, data)
            if min(data.shape) < 1:
                raise GeometryError("The volume has no voxel above 0, which the model looks for; choose another one.")
        return data.as_tensor().float().contiguous()

    def _applied(self, entry: dict[str, Any], data: MetaTensor) -> MetaTensor:
        arguments = {key: value for key, value in entry.items() if key != "transform"}
        name = entry["transform"]
        if name == "Orientation":
            return self._oriented(data, arguments["axcodes"])
        transform = CLASSES[name](**arguments)
        result = transform(data)
        if name in GEOMETRIC:
            applied = result.applied_operations[-1]
            if self._interpolation == "nearest":
                applied = convert_applied_interp_mode([applied], "nearest")[0]
            self._undo.append(partial(_undone, transform, result.affine, applied))
        return result

    def _oriented(self, data: MetaTensor, axcodes: str) -> MetaTensor:
        order, flips = orientation(data.affine.numpy(), axcodes)
        back = [order.index(axis) for axis in range(3)]

        def turned(p: MetaTensor) -> MetaTensor:
            plain = p.as_tensor().flip([1 + axis for axis in flips])
            return MetaTensor(plain.permute(0, *(1 + axis for axis in back)))

        self._undo.append(turned)
        plain = data.as_tensor().permute(0, *(1 + axis for axis in order)).flip([1 + axis for axis in flips])
        affine = np.zeros((4, 4))
        affine[:, :3], affine[:, 3] = data.affine.numpy()[:, order], data.affine.numpy()[:, 3]
        for axis in flips:
            affine[:, 3] += affine[:, axis] * (plain.shape[1 + axis] - 1)
            affine[:, axis] *= -1
        return MetaTensor(plain, affine=torch.from_numpy(affine))

    def undone(self, p: torch.Tensor) -> np.ndarray:
        """Class probabilities [C, i, j, k] on the network's grid as float32 [C, k, j, i] on that of the volume.

        Outside the grid of the network there is background.
        """
        result = None
        for c, channel in enumerate(p):
            data = MetaTensor(channel[None])
            for undo in reversed(self._undo):
                data = undo(data)
            values = data.as_tensor()[0].numpy().transpose(2, 1, 0)
            result = np.empty((len(p), *values.shape), np.float32) if result is None else result
            result[c] = values
        assert result is not None
        result[0] += 1 - result.sum(0)
        return np.clip(result, 0, 1, out=result)


def as_tensor(images: Sequence[sitk.Image]) -> MetaTensor:
    """Volumes on one grid as MONAI's readers return them, float32 [inputs, i, j, k]."""
    values = np.empty((len(images), *images[0].GetSize()), np.float32)
    for channel, image in zip(values, images, strict=True):
        channel[:] = sitk.GetArrayViewFromImage(image).transpose(2, 1, 0)
    return MetaTensor(torch.from_numpy(values), affine=torch.from_numpy(affine_of(images[0])))


def affine_of(image: sitk.Image) -> np.ndarray:
    """Affine [4, 4] from the indices [i, j, k] of a volume to RAS in mm."""
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return LPS_TO_RAS @ affine


def orientation(affine: np.ndarray, axcodes: str) -> tuple[list[int], list[int]]:
    """Order of the axes, and those of the new axes that are reversed, with which an array is oriented as `axcodes`.

    Each axis, the first one first, belongs to the direction that it is closest to among those that are left.
    """
    cosines = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    u, _, v = np.linalg.svd(cosines)  # the closest rotation, as in NiBabel's `io_orientation`
    rotation, leads = u @ v, [0, 0, 0]
    signs = np.ones(3)
    for axis in range(3):
        direction = int(np.abs(rotation[:, axis]).argmax())
        leads[axis], signs[axis] = direction, np.sign(rotation[direction, axis])
        rotation[direction] = 0
    wanted = [next(n for n, pair in enumerate(DIRECTIONS) if letter in pair) for letter in axcodes]
    order = [leads.index(direction) for direction in wanted]
    positive = [letter == DIRECTIONS[direction][1] for letter, direction in zip(axcodes, wanted, strict=True)]
    return order, [n for n, axis in enumerate(order) if (signs[axis] > 0) != positive[n]]


def _undone(transform: Any, affine: torch.Tensor, applied: dict[str, Any], p: MetaTensor) -> MetaTensor:
    """Class probabilities before an operation, which `transform` applied to a volume with the result `affine`."""
    return transform.inverse(MetaTensor(p.as_tensor(), affine=affine, applied_operations=[deepcopy(applied)]))
