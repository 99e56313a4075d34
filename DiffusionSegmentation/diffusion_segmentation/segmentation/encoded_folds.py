"""Joint samples by several folds of a network that others trained: each sample uses one fold, in turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from ..diffusion.copula import Frame
from ..model.folder import Model
from .encoded_slices import EncodedSlices
from .folded_image import FoldedImage, SamplerImage
from .sampler import EncodedVolume
from .tiling import Tiling


class EncodedFolds:
    """Encoder output for each fold; methods are those of `EncodedVolume`.

    Sample number i of a run uses fold i modulo the number of folds, so that it does not depend on how many are drawn.
    """

    voxel_distances = None
    """A sampler on top of another model has no input statistics."""

    def __init__(
        self,
        model: Model,
        image: FoldedImage,
        device: torch.device,
        tiling: Tiling | None = None,
        store: torch.device | None = None,
        frame: Frame | None = None,
        holds_all: bool = True,
    ) -> None:
        """Encode `image` with the log-odds of each fold; other arguments are those of `EncodedVolume`.

        Unless `holds_all`, the output for one fold is kept at a time, and computed again for every sample.
        """
        self.tiling = tiling or Tiling(image.shape[-model.dims :], model.section["window"], model.multiple)
        self._model, self._image, self._holds_all = model, image, holds_all
        self._place = device, self.tiling, store, frame
        self._encoded: dict[int, EncodedVolume | EncodedSlices] = {}
        for fold in range(len(image.odds) if holds_all else 1):
            self._of_fold(fold)

    def _of_fold(self, fold: int) -> EncodedVolume | EncodedSlices:
        if fold not in self._encoded:
            if not self._holds_all:
                self._encoded.clear()
            self._encoded[fold] = _encoded(self._model, self._image.of_fold(fold), *self._place)
        return self._encoded[fold]

    def direct(self) -> np.ndarray:
        """Class probabilities float32 [C, z, y, x] of the folds' mean; of copula masks their exact mean."""
        return self._image.pooled() if self._model.is_copula_only else self._image.mean()

    def input_distance(self) -> None:
        """A sampler on top of another model has no input statistics."""
        return None

    def sample(
        self,
        seeds: Sequence[int],
        log_snr: np.ndarray,
        on_step: Callable[[int], None] = lambda step: None,
        first: int = 0,
    ) -> np.ndarray:
        """Draw a sample for each seed, of which the first has the number `first` in its run; see `EncodedVolume`."""
        folds = [(first + n) % len(self._image.odds) for n in range(len(seeds))]
        parts: dict[int, np.ndarray] = {}
        used = sorted(set(folds))
        for done, fold in enumerate(used):

            def on_fold_step(step: int, before: int = done * len(log_snr)) -> None:
                on_step(max(1, (before + step) // len(used)))

            own = [n for n, one in enumerate(folds) if one == fold]
            drawn = self._of_fold(fold).sample([seeds[n] for n in own], log_snr, on_fold_step)
            parts |= dict(zip(own, drawn, strict=True))
        return np.stack([parts[n] for n in range(len(seeds))])

    def start_mask(self, seed: int, number: int = 0) -> np.ndarray:
        """Mask of the correlated start of sample `number`, uint8 [z, y, x]."""
        return self._of_fold(number % len(self._image.odds)).start_mask(seed)


Encoded = EncodedVolume | EncodedSlices | EncodedFolds
"""Encoder output of an image, from which samples are drawn."""


def encode(
    model: Model,
    image: SamplerImage,
    device: torch.device,
    tiling: Tiling | None = None,
    store: torch.device | None = None,
    frame: Frame | None = None,
    holds_all: bool = True,
) -> Encoded:
    """Encoder output of an image; one with an axis more than a model of pictures has is a stack of them.

    Arguments are those of `EncodedFolds`.
    """
    if isinstance(image, FoldedImage):
        return EncodedFolds(model, image, device, tiling, store, frame, holds_all)
    return _encoded(model, image, device, tiling, store, frame)


def _encoded(
    model: Model,
    image: np.ndarray,
    device: torch.device,
    tiling: Tiling | None,
    store: torch.device | None,
    frame: Frame | None,
) -> EncodedVolume | EncodedSlices:
    kind = EncodedSlices if is_stack(model, image) else EncodedVolume
    return kind(model, image, device, tiling, store, frame)


def is_stack(model: Model, image: SamplerImage) -> bool:
    """Whether an image [channels, ...] is a stack of pictures for a model of pictures."""
    return image.ndim > model.dims + 1
