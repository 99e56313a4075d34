"""Joint samples of a whole volume: encode once, then denoise one noise field for each sample.

All windows are crops of one state, and their outputs are blended at every step. Stitching independent samples of the
windows would not give a joint sample.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ..diffusion.copula import Copula, Frame, derived_seed
from ..diffusion.process import diffuse, one_hot_state
from ..diffusion.solvers import dpm_solver_2m
from ..model.folder import Model, Start
from ..networks import (
    CHANNELS_LAST,
    BlockVolumeConstraint,
    InputDistance,
    ScanSummary,
    class_softmax,
    class_softmax_,
    depth_to_space,
    space_to_depth,
)
from .tiling import Tiling


class EncodedVolume:
    """Encoder output of a volume, from which samples are drawn.

    `voxel_distances` are those of `InputStatistics`, float32 [z, y, x]; None if the model has no statistics.
    """

    def __init__(
        self,
        model: Model,
        image: np.ndarray,
        device: torch.device,
        on_window: Callable[[], None],
        tiling: Tiling | None = None,
        store: torch.device | None = None,
        frame: Frame | None = None,
    ) -> None:
        """Encode `image`, normalised float32 [z, y, x].

        Args:
            on_window: called after each window.
            tiling: windows; by default those of the model.
            store: device that holds the features of the windows; by default `device`.
            frame: position of `image` in the grid for which a correlated start is drawn; by default its own grid.
        """
        self.model, self.device = model, device
        self.start, self._frame = model.start, frame
        self.tiling = tiling or Tiling(image.shape, model.section["window"], model.multiple)
        store = store or device
        self._prepared: list[torch.Tensor] = []
        self._direct: list[torch.Tensor] = []
        self._summary = ScanSummary.none(model.classes, model.section["network"]["encoder"]["channels"][0])
        statistics = model.input_statistics
        padded = torch.from_numpy(self.tiling.pad(image))[None, None]
        cell_distances: list[torch.Tensor] = []
        with torch.inference_mode():
            for window, share in zip(self.tiling.windows, self.tiling.shares(), strict=True):
                crop = padded[(..., *self.tiling.voxels(window))].to(device)
                if statistics is None:
                    features, direct = model.encoder(crop)
                else:
                    raw = model.encoder.raw_features(crop)
                    features, direct = model.encoder.outputs(raw)
                    p = class_softmax(direct)
                    self._summary.add(raw, p, share.to(device))
                    cell_distances.append(statistics.cell_distances(raw, p).to(store))
                    del raw, p
                self._prepared.append(model.denoiser.prepare(features, direct).to(store))
                self._direct.append(direct.to(store))
                del features, direct  # before the next window allocates its own
                on_window()
            self._marginals = self.tiling.blend(class_softmax(logits.to(device)) for logits in self._direct)
            self.voxel_distances = None
            if cell_distances:
                cells = self.tiling.blend(cell_distances)[0, 0].cpu().numpy()
                voxels = cells.repeat(2, 0).repeat(2, 1).repeat(2, 2)
                self.voxel_distances = voxels[tuple(slice(n) for n in self.tiling.shape)]

    def direct(self) -> np.ndarray:
        """Marginal class probabilities of the direct head, float32 [C, z, y, x]."""
        return self._volume(self._marginals)[0]

    def input_distance(self) -> InputDistance | None:
        """Distance of the volume from those that the model was made for; None without statistics."""
        statistics = self.model.input_statistics
        return None if statistics is None else statistics.input_distance(self._summary)

    def sample(
        self, seeds: Sequence[int], log_snr: np.ndarray, on_step: Callable[[int], None] = lambda step: None
    ) -> np.ndarray:
        """Draw one joint sample for each seed: class probabilities float32 [N, C, z, y, x] of the last step.

        The argmax over C is the mask of a sample. The mean of the probabilities over samples estimates the marginals
        with less noise than the mean of the masks (Rao-Blackwell). `log_snr` are the rising nodes of the step grid.
        `on_step` is called with the number of steps done and may raise to stop.

        Apart from rounding, a sample depends on its own seed alone.
        """
        with torch.inference_mode():
            noise = torch.cat([self._noise(seed) for seed in seeds])
            masks = None
            if self.start is not None:
                masks = np.stack([self.tiling.pad(self.start_mask(seed)) for seed in seeds])
            x, first, constraint = _initial_state(self.model, masks, noise, self._marginals, log_snr)

            def denoise(x: torch.Tensor, node: float) -> torch.Tensor:
                p = self.tiling.blend(self._window_probabilities(x, node))
                return p if constraint is None else constraint(p)

            return self._volume(dpm_solver_2m(denoise, x, first, log_snr, on_step))

    def start_mask(self, seed: int) -> np.ndarray:
        """Mask of the correlated start for a seed, uint8 [z, y, x]; runs no network."""
        return self._copula.draw(seed)

    @cached_property
    def _copula(self) -> Copula:
        if self.start is None:
            raise ValueError("The model has no correlated start.")
        return Copula(self.start.covariance, normalised(self.direct()), self.model.spacing, self._frame)

    def _window_probabilities(self, x: torch.Tensor, log_snr: float) -> Iterator[torch.Tensor]:
        """Yield one window at a time: all together are larger than the state, because windows overlap."""
        time = torch.full((len(x),), log_snr, device=self.device)
        for window, prepared, direct in zip(self.tiling.windows, self._prepared, self._direct, strict=True):
            crop = x[(..., *window)].contiguous(memory_format=CHANNELS_LAST[3])
            prepared, direct = prepared.to(self.device), direct.to(self.device)
            yield class_softmax_(self.model.denoiser(crop, time, prepared, direct))

    def _noise(self, seed: int) -> torch.Tensor:
        """Unit noise for the whole volume, drawn on the CPU so that a seed gives the same noise for every device."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((1, *self.tiling.cells, 8 * self.model.classes), generator=generator)
        return noise.to(self.device).movedim(-1, 1)  # channels last in memory, as the denoiser needs it

    def _volume(self, cells: torch.Tensor) -> np.ndarray:
        return np.ascontiguousarray(self.tiling.crop(depth_to_space(cells)).cpu().numpy())


@dataclass
class CaseSamples:
    """Joint samples of N small cases with C classes."""

    masks: np.ndarray  # uint8 [N, samples, *shape]
    mean: np.ndarray  # mean class probabilities of the samples, float32 [N, C, *shape]; exact for copula masks
    direct: np.ndarray  # class probabilities of the direct head, float32 [N, C, *shape]


def draw(model: Model, images: np.ndarray, samples: int, log_snr: np.ndarray, seed: int) -> CaseSamples:
    """Joint samples of small cases in two or three dimensions, on the device of the model.

    `images` is normalised float32 [N, *shape]; each axis is a multiple of `model.multiple`. All samples of a case pass
    the denoiser together; for volumes of any size use `EncodedVolume`. The noise is drawn on the CPU from one stream
    for each case, so the samples of a case do not depend on the other cases.
    """
    with torch.inference_mode():
        cases = [_draw_case(model, image, samples, log_snr, seed, index) for index, image in enumerate(images)]
    return CaseSamples(*(np.stack(arrays) for arrays in zip(*cases, strict=True)))


def _draw_case(
    model: Model, image: np.ndarray, samples: int, log_snr: np.ndarray, seed: int, index: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Masks, mean and direct head of the case number `index`; see `CaseSamples`."""
    device, start = next(model.encoder.parameters()).device, model.start
    features, logits = model.encoder(torch.from_numpy(image)[None, None].to(device))
    prepared = model.denoiser.prepare(features, logits)
    generator = torch.Generator().manual_seed(sample_seeds(seed, 1, index)[0])
    noise = torch.randn((samples, *logits.shape[2:], logits.shape[1]), generator=generator)
    marginals = class_softmax(logits)
    direct = depth_to_space(marginals)[0].cpu().numpy()
    masks = None
    if start is not None:
        masks = start_masks(start, direct, model.spacing, sample_seeds(seed + 1, samples, index * samples))
        if start.log_snr is None:
            return masks, direct, direct
    x, first, constraint = _initial_state(model, masks, noise.to(device).movedim(-1, 1), marginals, log_snr)

    def denoise(x: torch.Tensor, node: float) -> torch.Tensor:
        time = torch.full((len(x),), node, device=device)
        p = class_softmax_(model.denoiser(x, time, prepared, logits))
        return p if constraint is None else constraint(p)

    p = depth_to_space(dpm_solver_2m(denoise, x, first, log_snr))
    return p.argmax(1).to(torch.uint8).cpu().numpy(), p.mean(0).cpu().numpy(), direct


def _initial_state(
    model: Model, masks: np.ndarray | None, noise: torch.Tensor, marginals: torch.Tensor, log_snr: np.ndarray
) -> tuple[torch.Tensor, torch.Tensor | None, BlockVolumeConstraint | None]:
    """State at the first node, class probabilities of x0 there if they are known, and the constraint of samples.

    From white `noise` [N, K, *cells] these are the `marginals` [1, K, *cells]; otherwise the state is that of the start
    `masks` uint8 [N, *shape].
    """
    if masks is None:
        return noise, marginals.expand(noise.shape), None
    x = noised(masks, noise, model.classes, float(log_snr[0]))
    return x, None, model.kept_blocks(masks, noise.device)


def start_masks(start: Start, p: np.ndarray, spacing_mm: float, seeds: Sequence[int]) -> np.ndarray:
    """Masks of a correlated start, uint8 [seeds, *shape], with the class probabilities `p` float32 [C, *shape]."""
    copula = Copula(start.covariance, normalised(p), spacing_mm)
    return np.stack([copula.draw(seed) for seed in seeds])


def noised(masks: np.ndarray, noise: torch.Tensor, classes: int, log_snr: float) -> torch.Tensor:
    """States at `log_snr` of masks uint8 [N, *shape], of the shape of the unit noise [N, 2^dims * C, *cells]."""
    labels = space_to_depth(torch.from_numpy(masks)[:, None].to(noise.device))
    return diffuse(one_hot_state(labels, classes), noise, torch.full((len(masks),), log_snr, device=noise.device))


def normalised(p: np.ndarray) -> np.ndarray:
    """Class probabilities [C, ...] divided by their sum, which rounding and blending of windows move from 1."""
    return p / p.sum(0)


def sample_seeds(seed: int, count: int, first: int = 0) -> list[int]:
    """Seeds of the samples first, ..., first + count - 1 of a run: independent streams, whatever the grouping."""
    return [derived_seed(seed, index) for index in range(first, first + count)]
