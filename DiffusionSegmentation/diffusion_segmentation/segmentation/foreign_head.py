"""The direct head of a sampler on top of a network that others trained: class probabilities as channels of the image.

The network runs as its makers run it, on its own grid, and its class probabilities on the grid of the volume are
resampled to the sampler's working grid. There the sampler's networks get their log-odds (see `networks.GivenLogits`).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from ..images.working_grid import Grid
from ..networks import ODDS_LIMIT
from ..runtime import memory
from .request import Progress
from .run_control import RunControl

MIN_PROBABILITY = 1e-12

Predict = Callable[[Sequence[sitk.Image], torch.device, RunControl], tuple[np.ndarray, float]]
"""From the channels of a case, as they were read, class probabilities float32 [C, k, j, i] on their grid, and the
temperature of their logits."""


class ForeignHead(ABC):
    """A network that others trained, or the folds of one, in a model folder.

    Construction raises ModelError if the model cannot be run on this computer.
    """

    def __init__(self, folder: Path, section: dict[str, Any]) -> None:
        self.folder, self.section = folder, section

    @property
    @abstractmethod
    def members(self) -> list[str]:
        """Names of the folds."""

    @abstractmethod
    def required_bytes(self, images: Sequence[sitk.Image], on_cpu: bool) -> int:
        """Peak memory (bytes) of a prediction. Raises GeometryError if the network cannot see the volume."""

    @abstractmethod
    def each(
        self,
        images: Sequence[sitk.Image],
        device: torch.device,
        control: RunControl,
        members: Sequence[str],
        on_pass: Callable[[int, int], None],
    ) -> Sequence[Callable[[], np.ndarray]]:
        """For each of the `members` the function that predicts float32 [C, k, j, i] on the grid of `images`.

        `on_pass` is called with the finished passes of the network and all of one member. Cancelling raises Cancelled.
        """

    def probabilities(
        self,
        images: Sequence[sitk.Image],
        device: torch.device,
        control: RunControl,
        fold: str | None = None,
        on_share: Callable[[float], None] = lambda share: None,
    ) -> np.ndarray:
        """Class probabilities float32 [C, k, j, i] of a fold, or the mean of all, on the grid of `images`.

        `on_share` is called with the finished share of the work, 0 to 1. Raises OutOfMemoryError if the memory is too
        small, GeometryError, and Cancelled.
        """
        needed = self.required_bytes(images, device.type == "cpu")
        memory.require(needed, "Segmenting this volume", "crop it, or close other programs")
        members, finished = self.members if fold is None else [fold], 0

        def on_pass(done: int, passes: int) -> None:
            on_share((finished + done / max(passes, done)) / len(members))

        total: np.ndarray | None = None
        for predict in self.each(images, device, control, members, on_pass):
            control.check()
            p = predict()
            total = p if total is None else np.add(total, p, out=total)
            finished += 1
            on_share(finished / len(members))
        assert total is not None, "a model has one member or more"
        return np.divide(total, len(members), out=total)

    def predict(self, frozen: dict[str, Any], fold: str | None = None) -> Predict:
        """The prediction by a fold or the mean of all, with the temperature in the entry `frozen` of the sampler."""

        def predict(
            images: Sequence[sitk.Image], device: torch.device, control: RunControl
        ) -> tuple[np.ndarray, float]:
            start = time.monotonic()

            def on_share(share: float) -> None:
                left = (time.monotonic() - start) * (1 - share) / share
                control.progress(Progress("encoding", step=round(100 * share), steps=100, seconds_left=left))

            return self.probabilities(images, device, control, fold, on_share), temperature(frozen, fold)

        return predict


def temperature(frozen: dict[str, Any], fold: str | None) -> float:
    """That of a fold's logits, or of the mean of all, by the entry `frozen` of a sampler's metadata."""
    return frozen["mean_temperature" if fold is None else "temperature"]


def log_odds(p: np.ndarray, image: sitk.Image, grid: Grid, box: tuple[slice, ...]) -> np.ndarray:
    """Log-odds against the background, float32 [C - 1, z, y, x], in a box of the working grid.

    `p` are class probabilities float32 [C, k, j, i] on the grid of `image`; outside it all is background.
    """
    logs = []
    for number, values in enumerate(p):
        share = sitk.GetImageFromArray(values)
        share.CopyInformation(image)
        working = sitk.GetArrayFromImage(grid.resampled(share, outside=float(number == 0)))[box]
        logs.append(np.log(np.maximum(working, MIN_PROBABILITY)))
    return np.stack(logs[1:]) - logs[0]


def channels_of(odds: np.ndarray, temperature: float) -> np.ndarray:
    """Channels of the image, float32 as `odds` [C - 1, ...], of logits over a temperature."""
    scaled = odds.astype(np.float32) / np.float32(temperature)
    return np.clip(scaled, -ODDS_LIMIT, ODDS_LIMIT) + np.float32(ODDS_LIMIT)
