"""Predictions of a network of MONAI by MONAI's transforms and sliding windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch
from monai.inferers import SlidingWindowInferer

from ..errors import GeometryError
from ..segmentation.run_control import RunControl
from .model import MonaiModel
from .network import sketch
from .preprocessing import Preprocessing

OVERLAP = 0.25  # of windows as a share of their edges; MONAI's default
MAX_WINDOWS = 100_000


class Prediction:
    """Predicts a volume with a model on a device.

    `on_pass` is called after each pass of the network with the number of passes so far and of all. Cancelling raises
    Cancelled, as `control` says, before the next layer of the network.
    """

    def __init__(
        self, model: MonaiModel, device: torch.device, control: RunControl, on_pass: Callable[[int, int], None]
    ) -> None:
        self._model, self._device, self._control, self._on_pass = model, device, control, on_pass
        self._network = model.network.to(device)
        self._preprocessing = Preprocessing(model.settings["preprocessing"], model.settings["interpolation"])

    def preprocessed(self, images: Sequence[sitk.Image]) -> torch.Tensor:
        """Inputs on one grid as the network sees them, float32 [inputs, i, j, k].

        Raises GeometryError if nothing is left of them.
        """
        return self._preprocessing(images)

    def logits(self, data: torch.Tensor) -> torch.Tensor:
        """Outputs of the network [C, i, j, k] for a preprocessed case, on the CPU."""
        shape = data.shape[1:]
        passes, done = window_count(shape, self._model.settings["inferer"]), 0
        window = window_size(shape, self._model.settings["inferer"])
        if sketch(self._model.settings["network"], window).channels is None:
            shown = " x ".join(map(str, window))
            raise GeometryError(
                f"The model cannot see {shown} voxels at once; choose another model, or crop the volume."
            )

        def counted(x: torch.Tensor) -> torch.Tensor:
            nonlocal done
            output = self._network(x)
            done += 1
            self._on_pass(done, passes)
            return output

        with torch.no_grad(), self._control.checked_layers():
            if self._model.settings["inferer"] is None:
                return counted(data[None].to(self._device)).cpu()[0]
            cpu = torch.device("cpu")
            inferer = SlidingWindowInferer(**self._model.settings["inferer"], sw_device=self._device, device=cpu)
            return inferer(data[None], counted)[0]

    def probabilities(self, logits: torch.Tensor) -> np.ndarray:
        """Class probabilities float32 [C, k, j, i] of logits on the grid of the volume."""
        if self._model.settings["activation"] == "sigmoid":
            p = logits.sigmoid()
            return self._preprocessing.undone(torch.cat([1 - p, p]))
        return self._preprocessing.undone(logits.softmax(0))


def window_size(shape: Sequence[int], inferer: dict[str, Any] | None) -> list[int]:
    """Voxels of a window along each axis of a preprocessed volume."""
    if inferer is None:
        return list(shape)
    return [n if edge == -1 else edge for n, edge in zip(shape, inferer["roi_size"], strict=True)]


def window_count(shape: Sequence[int], inferer: dict[str, Any] | None) -> int:
    """Number of windows of a preprocessed volume. Raises GeometryError if there are too many."""
    edges = window_size(shape, inferer)
    overlap = (inferer or {}).get("overlap", OVERLAP)
    count = 1
    for n, edge in zip(shape, edges, strict=True):
        step = max(1, int(edge * (1 - overlap)))
        count *= 1 if n <= edge else math.ceil((n - edge) / step) + 1
    if count > MAX_WINDOWS:
        raise GeometryError(f"The volume has {count} windows of this model, which is too many; crop it.")
    return count
