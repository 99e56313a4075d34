"""The direct head of a sampler on top of a network that others trained: class probabilities as channels of the image.

The network runs as its makers run it, on its own grid, and its class probabilities on the grid of the volume are
resampled to the sampler's working grid. There the sampler's networks get their log-odds (see `networks.GivenLogits`).
Of several folds each sample uses one (see `folded_image`).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from ..images.working_grid import Grid
from ..runtime import memory
from .folded_image import MIN_PROBABILITY, SamplerImage, odds_bytes, with_odds
from .predicted_run import no_numbers
from .request import Progress
from .run_control import RunControl

Place = Callable[[np.ndarray], np.ndarray]
"""From class probabilities on the grid of a volume, float32 [C, k, j, i], to their log-odds; see `log_odds`."""


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

    def odds(
        self,
        images: Sequence[sitk.Image],
        device: torch.device,
        control: RunControl,
        place: Place,
        members: Sequence[str],
        on_share: Callable[[float], None] = lambda share: None,
        kept_bytes: int = 0,
    ) -> Iterator[np.ndarray]:
        """Log-odds of each of the `members`, put on another grid by `place`; the network runs when they are asked for.

        `on_share` is called with the finished share of the work, 0 to 1. Raises OutOfMemoryError if the memory is too
        small, also for `kept_bytes` that the caller needs for the log-odds of all, GeometryError, ModelError for values
        that are not finite, and Cancelled.
        """
        needed = self.required_bytes(images, device.type == "cpu") + kept_bytes
        memory.require(needed, "Segmenting this volume", "crop it, or close other programs")
        finished = 0

        def on_pass(done: int, passes: int) -> None:
            on_share((finished + done / max(passes, done)) / len(members))

        for predict in self.each(images, device, control, members, on_pass):
            control.check()
            p = predict()
            if not np.isfinite(p.sum(dtype=np.float64)):
                raise no_numbers(self.section)
            placed = place(p)
            del p  # a volume of all classes, beside the next member's
            finished += 1
            on_share(finished / len(members))
            yield placed


class Predict:
    """Adds the log-odds of a foreign network to images.

    `fold` is the one that has not seen the cases; without it no fold has, and all are used. With `keeps`, the first
    prediction is that of all later calls.
    """

    def __init__(self, head: ForeignHead, frozen: dict[str, Any], fold: str | None = None, keeps: bool = False) -> None:
        """`frozen` is the entry of the sampler's metadata."""
        self.members = head.members if fold is None else [fold]
        self._head, self._frozen, self._keeps = head, frozen, keeps
        self._known: list[np.ndarray] | None = None

    def __call__(
        self,
        values: np.ndarray,
        images: Sequence[sitk.Image],
        device: torch.device,
        control: RunControl,
        place: Place,
    ) -> SamplerImage:
        """`values`, the normalised channels [channels, *shape] of a case, with the log-odds.

        `images` are its channels as they were read, and `place` puts log-odds where the values are. Raises as
        `ForeignHead.odds`.
        """
        start = time.monotonic()

        def on_share(share: float) -> None:
            left = (time.monotonic() - start) * (1 - share) / share
            control.progress(Progress("encoding", step=round(100 * share), steps=100, seconds_left=left))

        odds = self._known
        if odds is None:
            kept = len(self.members) * odds_bytes(len(self._head.section["labels"]), values[0].size)
            odds = list(self._head.odds(images, device, control, place, self.members, on_share, kept))
        if self._keeps:
            self._known = odds
        return with_odds(values, odds, self._frozen)


def log_odds(p: np.ndarray, image: sitk.Image, grid: Grid, box: tuple[slice, ...]) -> np.ndarray:
    """Log-odds against the background, float16 [C - 1, z, y, x], in a box of the working grid.

    `p` are class probabilities float32 [C, k, j, i] on the grid of `image`; outside it all is background.
    """

    def log_working(number: int) -> np.ndarray:
        share = sitk.GetImageFromArray(p[number])
        share.CopyInformation(image)
        working = sitk.GetArrayFromImage(grid.resampled(share, outside=float(number == 0)))[box]
        return np.log(np.maximum(working, MIN_PROBABILITY))

    background = log_working(0)
    odds = np.empty((len(p) - 1, *background.shape), np.float16)
    for number in range(1, len(p)):
        odds[number - 1] = log_working(number) - background
    return odds
