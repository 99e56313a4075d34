"""Log-odds of a foreign network for each case of a data set, kept on disk beside the prepared images.

A fold that has not seen a case predicts it, and the mean of the folds where none has: a network's errors on its own
training cases are too small to learn from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..images.dataset import Case
from ..images.working_grid import Grid
from ..runtime.devices import choose_device
from ..runtime.interrupts import interrupted
from ..runtime.terminal import ProgressLine, StepCounter
from ..segmentation.foreign_head import ForeignHead, channels_of, temperature
from ..segmentation.run_control import RunControl
from .prepared import odds_on_grid, read_case, save_array

PARTS = 100  # of a case in which progress is counted


@dataclass(frozen=True)
class StoredOdds:
    """A file with the log-odds of a case, float16 [C - 1, z, y, x] on the working grid, and their temperature."""

    path: Path
    temperature: float

    def channels(self, window: tuple[slice, ...] = ()) -> np.ndarray:
        """Channels of the image, float32, of a window [z, y, x] or the whole; see `foreign_head.channels_of`."""
        return channels_of(np.load(self.path, mmap_mode="r")[(slice(None), *window)], self.temperature)


class CaseOdds:
    """Log-odds of the foreign network `head`.

    `folds` names the fold for cases that other folds have seen. Temperatures are read from `frozen`, the entry of the
    sampler's metadata, whenever files are asked for.
    """

    def __init__(
        self, head: ForeignHead, folds: Mapping[str, str], frozen: dict[str, Any], device: str = "auto"
    ) -> None:
        self.head, self.folds, self.frozen, self.device = head, folds, frozen, device

    def of(self, cases: Sequence[Case], images: Sequence[Path], grid: Grid) -> list[StoredOdds]:
        """Files of the cases beside those of their prepared `images`; those that are missing are computed.

        Ctrl+C raises Cancelled; finished cases stay.
        """
        paths = [self._path(case, image) for case, image in zip(cases, images, strict=True)]
        missing = [(case, path) for case, path in zip(cases, paths, strict=True) if not path.exists()]
        if missing:
            self._predict(missing, grid)
        of_cases = (temperature(self.frozen, self.folds.get(case.name)) for case in cases)
        return [StoredOdds(path, value) for path, value in zip(paths, of_cases, strict=True)]

    def _path(self, case: Case, image: Path) -> Path:
        made_of = [image.name, self.head.section["sha256"], self.folds.get(case.name)]
        key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
        return image.with_name(f"{image.name.removesuffix('-image.npy')}-{key}-odds.npy")

    def _predict(self, missing: Sequence[tuple[Case, Path]], grid: Grid) -> None:
        device = choose_device(self.device)
        with ProgressLine() as line, interrupted() as cancel:
            control = RunControl(lambda progress: None, cancel)
            counter = StepCounter(line, f"predicting the cases with {self.head.section['name']}")
            for number, (case, path) in enumerate(missing):
                images = read_case(case, grid.inputs)
                on_share = partial(_count, counter, number, len(missing))
                p = self.head.probabilities(images, device, control, self.folds.get(case.name), on_share)
                save_array(path, odds_on_grid(p, images, grid).astype(np.float16))


def _count(counter: StepCounter, number: int, cases: int, share: float) -> None:
    counter(max(1, round(PARTS * (number + share))), PARTS * cases)
