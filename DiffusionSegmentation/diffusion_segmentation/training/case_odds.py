"""Log-odds of a foreign network for each case of a data set, kept on disk beside the prepared images.

Only folds that have not seen a case predict it: a network's errors on its own training cases are too small to learn
from. The log-odds are those of single folds, as each sample of a new image uses them.
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
from ..runtime.terminal import ProgressLine, StepCounter
from ..segmentation.folded_image import SamplerImage, channels_of, mean_odds, with_odds
from ..segmentation.foreign_head import ForeignHead
from ..segmentation.run_control import RunControl
from .prepared import odds_on_grid, read_case, save_array

PARTS = 100  # of a case in which progress is counted


@dataclass(frozen=True)
class StoredOdds:
    """Files with the log-odds of a case, float16 [C - 1, z, y, x] on the working grid, one for each fold.

    `frozen` is the entry of the sampler's metadata with their temperatures. With `as_mean`, windows have the log-odds
    of the folds' mean.
    """

    paths: tuple[Path, ...]
    frozen: Mapping[str, Any]
    as_mean: bool = False

    def channels(self, window: tuple[slice, ...], rng: np.random.Generator) -> np.ndarray:
        """Channels of a window [z, y, x] of the image, float32, by any of the folds; see `folded_image.channels_of`."""
        odds = [np.load(path, mmap_mode="r")[(slice(None), *window)] for path in self.paths]
        if len(odds) > 1 and self.as_mean:
            return channels_of(mean_odds(odds), self.frozen["mean_temperature"])
        fold = int(rng.integers(len(odds))) if len(odds) > 1 else 0
        return channels_of(odds[fold], self.frozen["temperature"])

    def added_to(self, values: np.ndarray) -> SamplerImage:
        """The whole image, float32 [channels, z, y, x], with the log-odds."""
        return with_odds(values, [np.load(path, mmap_mode="r") for path in self.paths], self.frozen)


class CaseOdds:
    """Log-odds of the foreign network `head`.

    `folds` names the fold for cases that other folds have seen; all folds predict the others. For `frozen` and
    `as_mean` see `StoredOdds`.
    """

    def __init__(
        self,
        head: ForeignHead,
        folds: Mapping[str, str],
        frozen: dict[str, Any],
        device: str = "auto",
        as_mean: bool = False,
    ) -> None:
        self.head, self.folds, self.frozen, self.device, self.as_mean = head, folds, frozen, device, as_mean

    def of(self, cases: Sequence[Case], images: Sequence[Path], grid: Grid) -> list[StoredOdds]:
        """Files of the cases beside those of their prepared `images`; those that are missing are computed.

        Finished folds stay after Ctrl+C. Raises ModelError for a network that gives no numbers.
        """
        paths = [self._paths(case, image) for case, image in zip(cases, images, strict=True)]
        missing = [
            (case, absent)
            for case, of_case in zip(cases, paths, strict=True)
            if (absent := {fold: path for fold, path in of_case.items() if not path.exists()})
        ]
        if missing:
            self._predict(missing, grid)
        return [StoredOdds(tuple(of_case.values()), self.frozen, self.as_mean) for of_case in paths]

    def _paths(self, case: Case, image: Path) -> dict[str, Path]:
        """Files of a case by the folds that predict it."""
        members = [self.folds[case.name]] if case.name in self.folds else self.head.members
        return {fold: self._path(fold, image) for fold in members}

    def _path(self, fold: str, image: Path) -> Path:
        made_of = [image.name, self.head.section["sha256"], fold]
        key = hashlib.sha256(json.dumps(made_of).encode()).hexdigest()[:16]
        return image.with_name(f"{image.name.removesuffix('-image.npy')}-{key}-odds.npy")

    def _predict(self, missing: Sequence[tuple[Case, Mapping[str, Path]]], grid: Grid) -> None:
        device = choose_device(self.device)
        with ProgressLine() as line:
            control = RunControl(lambda progress: None, lambda: None)
            counter = StepCounter(line, f"predicting the cases with {self.head.section['name']}")
            for number, (case, paths) in enumerate(missing):
                images = read_case(case, grid.inputs)
                place = partial(odds_on_grid, images=images, grid=grid)
                on_share = partial(_count, counter, number, len(missing))
                of_folds = self.head.odds(images, device, control, place, list(paths), on_share)
                for path, odds in zip(paths.values(), of_folds, strict=True):
                    save_array(path, odds)


def _count(counter: StepCounter, number: int, cases: int, share: float) -> None:
    counter(max(1, round(PARTS * (number + share))), PARTS * cases)
