"""Turning the axes of a volume to right, anterior and superior, as some of nnU-Net's readers do, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import SimpleITK as sitk

Value = TypeVar("Value")


@dataclass(frozen=True)
class Turn:
    """An exchange and reversal of the axes [k, j, i] of a volume.

    Attributes:
        order: for each axis after the turn, the one before it.
        reversed: whether each axis after the turn runs against the one before it.
    """

    order: tuple[int, ...] = (0, 1, 2)
    reversed: tuple[bool, ...] = (False, False, False)

    @classmethod
    def to_ras(cls, direction: Sequence[float]) -> Turn:
        """The turn that ITK makes for a volume with this direction matrix (3 x 3 in one row).

        Names of axes such as "LPS" do not suffice to find it again: at 45 degrees an axis has two.
        """
        image = sitk.Image(1, 1, 1, sitk.sitkUInt8)
        image.SetDirection(direction)
        before, after = (np.reshape(one.GetDirection(), (3, 3)) for one in (image, sitk.DICOMOrient(image, "RAS")))
        signs = np.rint(np.linalg.solve(before, after)).T[::-1, ::-1].astype(int)  # [axis after, axis before]
        turn = cls(tuple(np.abs(signs).argmax(1).tolist()), tuple((signs.sum(1) < 0).tolist()))
        if sorted(turn.order) != [0, 1, 2] or not np.allclose(before[:, ::-1] @ signs.T, after[:, ::-1], atol=1e-6):
            raise ValueError("The axes were not only exchanged and reversed.")
        return turn

    def sizes(self, sizes: Sequence[Value]) -> list[Value]:
        """Values for each axis [k, j, i], such as voxel sizes, after the turn."""
        return [sizes[axis] for axis in self.order]

    def array(self, values: np.ndarray) -> np.ndarray:
        """Turned values [C, k, j, i]."""
        return np.flip(np.transpose(values, self._channels_first(self.order)), self._flipped)

    def undone(self, values: np.ndarray) -> np.ndarray:
        """Values [C, k, j, i] on the turned grid, back on the grid before the turn."""
        return np.transpose(np.flip(values, self._flipped), self._channels_first(np.argsort(self.order).tolist()))

    @property
    def _flipped(self) -> tuple[int, ...]:
        return tuple(axis + 1 for axis, flipped in enumerate(self.reversed) if flipped)

    @staticmethod
    def _channels_first(order: Sequence[int]) -> tuple[int, ...]:
        return (0, *(axis + 1 for axis in order))
