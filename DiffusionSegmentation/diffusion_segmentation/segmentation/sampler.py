"""Joint samples of a whole volume: encode once, then denoise one noise field for each sample.

A sample is drawn for the volume as a whole. Windows, where there are several, crop the one state and their answers are
blended at every step; a mask stitched from windows with noise of their own would be a chimera.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from ..diffusion.copula import Copula, Frame
from ..diffusion.process import diffuse, one_hot_state
from ..diffusion.solvers import dpm_solver_2m
from ..model.folder import Model, Start
from ..networks import (
    CHANNELS_LAST,
    InputDistance,
    KeptBlocks,
    ScanSummary,
    class_softmax,
    class_softmax_,
    depth_to_space,
    space_to_depth,
)
from .tiling import Tiling


class Encoded:
    """A volume as the encoder sees it, kept for all samples and steps."""

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
        """Run the encoder over `image` float32 [z, y, x], normalised; `on_window` is called after each window.

        `tiling` is by default that of the model's windows. What is kept of them lies on `store`, by default `device`.
        `frame` says where `image` lies in the grid for which a correlated start is drawn, by default its own.
        """
        self.model, self.device = model, device
        self.start, self._frame, self._copula = model.start, frame, None
        self.tiling = tiling or Tiling(image.shape, model.section["window"], model.multiple)
        store = store or device
        self._prepared: list[torch.Tensor] = []
        self._direct: list[torch.Tensor] = []
        self._marginals: torch.Tensor | None = None
        self._summary = None if model.input_statistics is None else ScanSummary.of(model.input_statistics)
        padded = torch.from_numpy(self.tiling.pad(image))[None, None]
        cell_distances: list[torch.Tensor] = []
        with torch.inference_mode():
            for window, share in zip(self.tiling.windows, self.tiling.shares(), strict=True):
                crop = padded[(..., *self.tiling.voxels(window))].to(device)
                if self._summary is None:
                    features, direct = model.encoder(crop)
                else:
                    seen = model.encoder.seen(crop)
                    features, direct = model.encoder.answer(seen)
                    p = class_softmax(direct)
                    self._summary.add(seen, p, share.to(device))
                    cell_distances.append(model.input_statistics.cell_distances(seen, p).to(store))
                    if len(self.tiling.windows) == 1:
                        self._marginals = p
                    del seen, p
                self._prepared.append(model.denoiser.prepare(features, direct).to(store))
                self._direct.append(direct.to(store))
                del features, direct  # else they lie there while the next window is looked at
                on_window()
            if self._marginals is None:
                self._marginals = self.tiling.blend(class_softmax(logits.to(device)) for logits in self._direct)
            self._cell_distances = self.tiling.blend(cell_distances)[0, 0].cpu().numpy() if cell_distances else None

    def direct(self) -> np.ndarray:
        """The direct head's class probabilities float32 [C, z, y, x]: marginals, fast, and never a sample."""
        return self._volume(self._marginals)[0]

    def input_distance(self) -> InputDistance | None:
        """How far the volume lies from those that the model was made for; None where the model does not know them."""
        return None if self._summary is None else self.model.input_statistics.input_distance(self._summary)

    def cell_distances(self) -> np.ndarray | None:
        """How far each voxel lies from those that the model was made for, float32 [z, y, x]; see `InputStatistics`."""
        if self._cell_distances is None:
            return None
        voxels = self._cell_distances.repeat(2, 0).repeat(2, 1).repeat(2, 2)
        return voxels[tuple(slice(n) for n in self.tiling.shape)]

    def sample(
        self, seeds: Sequence[int], log_snr: np.ndarray, on_step: Callable[[int], None] = lambda step: None
    ) -> np.ndarray:
        """Draw one joint sample for each seed: class probabilities float32 [N, C, z, y, x] of the last step.

        The argmax over C is the sample's mask; the mean over samples of the probabilities estimates the marginals with
        less noise than the masks do (Rao-Blackwell). `log_snr` are the nodes of the step grid, rising. `on_step` is
        called with the number of steps done and may raise to stop.

        A sample depends on its seed alone; which others are drawn with it changes rounding at most.
        """
        with torch.inference_mode():
            x = torch.cat([self._noise(seed) for seed in seeds])
            denoise = self._denoise
            if self.start is None:
                first = self._marginals.expand(len(x), *self._marginals.shape[1:])
            else:
                masks = np.stack([self.tiling.pad(self.start_mask(seed)) for seed in seeds])
                x, first = noised(masks, x, self.model.classes, float(log_snr[0])), None
                denoise = partial(denoise, kept=self.model.kept_blocks(masks, self.device))
            return self._volume(dpm_solver_2m(denoise, x, first, log_snr, on_step))

    def start_mask(self, seed: int) -> np.ndarray:
        """The mask of the correlated start for a seed, uint8 [z, y, x]; costs no pass of a network."""
        if self._copula is None:
            self._copula = Copula(self.start.covariance, normalised(self.direct()), self.model.spacing, self._frame)
        return self._copula.draw(seed)

    def _denoise(self, x: torch.Tensor, log_snr: float, kept: KeptBlocks | None = None) -> torch.Tensor:
        """Class probabilities of x0, blended over the windows, in the form of the state x."""
        p = self.tiling.blend(self._answers(x, log_snr))
        return p if kept is None else kept(p)

    def _answers(self, x: torch.Tensor, log_snr: float) -> Iterator[torch.Tensor]:
        """One window's answer after another: together they are larger than the state, because windows overlap."""
        time = torch.full((len(x),), log_snr, device=self.device)
        for window, prepared, direct in zip(self.tiling.windows, self._prepared, self._direct, strict=True):
            crop = x[(..., *window)].contiguous(memory_format=CHANNELS_LAST[3])
            prepared, direct = prepared.to(self.device), direct.to(self.device)
            yield class_softmax_(self.model.denoiser(crop, time, prepared, direct))

    def _noise(self, seed: int) -> torch.Tensor:
        """Unit noise for the whole volume, drawn on the CPU so that a seed means the same on every device."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((1, *self.tiling.cells, 8 * self.model.classes), generator=generator)
        return noise.to(self.device).movedim(-1, 1)  # channels last in memory, as the denoiser wants it

    def _volume(self, cells: torch.Tensor) -> np.ndarray:
        return np.ascontiguousarray(self.tiling.crop(depth_to_space(cells)).cpu().numpy())


@dataclass
class Drawn:
    """Joint samples of N small cases of C classes: what `draw` returns."""

    masks: np.ndarray
    """uint8 [N, samples, *shape]"""
    mean: np.ndarray
    """Mean class probabilities of the samples, float32 [N, C, *shape]; exact where they are a copula's masks."""
    direct: np.ndarray
    """Class probabilities of the direct head, float32 [N, C, *shape]."""


def draw(model: Model, images: np.ndarray, samples: int, log_snr: np.ndarray, seed: int) -> Drawn:
    """Joint samples of many small cases at once, in two dimensions or three, on the device that the model is on.

    images float32 [N, *shape], normalised, each axis a multiple of `model.multiple`; all samples of a case go through
    the denoiser together. For volumes of any size see `Encoded`. The noise is drawn on the CPU, one stream for each
    case, so that a case's samples do not depend on its neighbours.
    """
    device = next(model.encoder.parameters()).device
    start = model.start
    masks, mean, direct = [], [], []
    with torch.inference_mode():
        for index, image in enumerate(images):
            features, logits = model.encoder(torch.from_numpy(image)[None, None].to(device))
            prepared = model.denoiser.prepare(features, logits)
            generator = torch.Generator().manual_seed(sample_seeds(seed, 1, index)[0])
            x = torch.randn((samples, *logits.shape[2:], logits.shape[1]), generator=generator)
            x = x.to(device).movedim(-1, 1)
            marginals = class_softmax(logits)
            p = depth_to_space(marginals)[0].cpu().numpy()
            direct.append(p)
            if start is not None:
                started = start_masks(start, p, model.spacing, sample_seeds(seed + 1, samples, index * samples))
                if start.log_snr is None:
                    masks.append(started)
                    mean.append(p)
                    continue

            kept = None
            if start is None:
                first = marginals.expand(x.shape)
            else:
                x, first = noised(started, x, model.classes, float(log_snr[0])), None
                kept = model.kept_blocks(started, device)

            def denoise(x, node, prepared=prepared, logits=logits, kept=kept):
                time = torch.full((len(x),), node, device=device)
                p = class_softmax_(model.denoiser(x, time, prepared, logits))
                return p if kept is None else kept(p)

            p = depth_to_space(dpm_solver_2m(denoise, x, first, log_snr))
            masks.append(p.argmax(1).to(torch.uint8).cpu().numpy())
            mean.append(p.mean(0).cpu().numpy())
    return Drawn(np.stack(masks), np.stack(mean), np.stack(direct))


def start_masks(start: Start, p: np.ndarray, spacing_mm: float, seeds: Sequence[int]) -> np.ndarray:
    """Masks of a correlated start, uint8 [seeds, *shape], with the class probabilities `p` float32 [C, *shape]."""
    copula = Copula(start.covariance, normalised(p), spacing_mm)
    return np.stack([copula.draw(seed) for seed in seeds])


def noised(masks: np.ndarray, noise: torch.Tensor, classes: int, log_snr: float) -> torch.Tensor:
    """Masks uint8 [N, *shape] as states at `log_snr`, shaped as the unit noise [N, 2^dims * C, *cells]."""
    labels = space_to_depth(torch.from_numpy(masks)[:, None].to(noise.device))
    return diffuse(one_hot_state(labels, classes), noise, torch.full((len(masks),), log_snr, device=noise.device))


def normalised(p: np.ndarray) -> np.ndarray:
    """Class probabilities [C, ...] that sum to 1 also where windows were blended."""
    return p / p.sum(0)


def sample_seeds(seed: int, count: int, first: int = 0) -> list[int]:
    """Seeds of the samples first, ..., first + count - 1 of a run: independent streams, stable under grouping."""
    sequence = np.random.SeedSequence(seed)
    return [
        int(np.random.SeedSequence(sequence.entropy, spawn_key=(index,)).generate_state(1, np.uint64)[0] >> 1)
        for index in range(first, first + count)
    ]
