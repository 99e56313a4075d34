"""Joint samples of the slices of a volume, or of a picture, which is a volume of one slice, by a model of pictures."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch

from ..diffusion.copula import Frame, derived_seed
from ..model.folder import Model
from ..networks import UNKNOWN, InputDistance
from .sampler import EncodedVolume
from .tiling import Tiling

INDEPENDENT = (
    "The model segments pictures, so the {count} slices were segmented one by one: samples of neighbouring slices are "
    "independent, and the volume intervals are too narrow where slices err together."
)


class EncodedSlices:
    """Encoder output of each slice; its methods are those of `EncodedVolume`, with arrays of volumes [..., z, y, x]."""

    def __init__(
        self,
        model: Model,
        image: np.ndarray,
        device: torch.device,
        tiling: Tiling | None = None,
        store: torch.device | None = None,
        frame: Frame | None = None,
    ) -> None:
        """Encode `image`, normalised float32 [channels, z, y, x]; other arguments are those of `EncodedVolume`."""
        self.tiling = tiling or Tiling(image.shape[2:], model.section["window"], model.multiple)
        slices = range(image.shape[1])
        self._slices = [EncodedVolume(model, image[:, z], device, self.tiling, store, frame) for z in slices]

    @property
    def voxel_distances(self) -> np.ndarray | None:
        """See `EncodedVolume`."""
        distances = [one.voxel_distances for one in self._slices]
        return None if distances[0] is None else np.stack([part for part in distances if part is not None])

    def given(
        self, facts: np.ndarray, seeds: Sequence[int], on_mask: Callable[[], None] = lambda: None
    ) -> EncodedSlices:
        """See `EncodedVolume`; `facts` uint8 [z, y, x]. Slices without facts stay as they are."""
        given = copy.copy(self)
        given._slices = [
            one.given(facts[z], self._seeds(seeds, z), on_mask) if (facts[z] != UNKNOWN).any() else one
            for z, one in enumerate(self._slices)
        ]
        return given

    def direct(self) -> np.ndarray:
        """Marginal class probabilities of the direct head, float32 [C, z, y, x]."""
        return _stacked(one.direct() for one in self._slices)

    def input_distance(self) -> InputDistance | None:
        """Largest distance of a slice from the pictures that the model was made for; None without statistics."""
        distances = [distance for one in self._slices if (distance := one.input_distance()) is not None]
        return max(distances, key=lambda one: one.distance) if distances else None

    def sample(
        self,
        seeds: Sequence[int],
        log_snr: np.ndarray,
        on_step: Callable[[int], None] = lambda step: None,
        first: int = 0,
    ) -> np.ndarray:
        """Draw one sample for each seed, independently in each slice: class probabilities float32 [N, C, z, y, x]."""
        parts: list[np.ndarray] = []
        for z, one in enumerate(self._slices):

            def on_slice_step(step: int, before: int = z * len(log_snr)) -> None:
                on_step(max(1, (before + step) // len(self._slices)))

            parts.append(one.sample(self._seeds(seeds, z), log_snr, on_slice_step))
        return _stacked(parts)

    def start_mask(self, seed: int, number: int = 0) -> np.ndarray:
        """Mask of the correlated start for a seed, uint8 [z, y, x]; see `EncodedVolume`."""
        return np.stack([one.start_mask(*self._seeds([seed], z)) for z, one in enumerate(self._slices)])

    def _seeds(self, seeds: Sequence[int], z: int) -> list[int]:
        """Seeds of a slice; a picture has those of its samples."""
        return [derived_seed(seed, z) if len(self._slices) > 1 else seed for seed in seeds]


def _stacked(parts: Iterable[np.ndarray]) -> np.ndarray:
    """Arrays [..., y, x] of all slices as one of [..., z, y, x]."""
    return np.stack(list(parts), axis=-3)
