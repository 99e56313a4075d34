"""Joint samples of a whole volume: encode once, then denoise one noise field for each sample.

All windows are crops of one state, and their outputs are blended at every step. Stitching independent samples of the
windows would not give a joint sample.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ..diffusion.conditional_copula import ConditionalCopula
from ..diffusion.copula import Copula, Frame, derived_seed
from ..diffusion.process import diffuse, one_hot_state
from ..diffusion.solvers import Denoise, dpm_solver_2m
from ..model.folder import Model, Start
from ..networks import (
    CHANNELS_LAST,
    UNKNOWN,
    InputDistance,
    ScanSummary,
    clamp_known,
    class_softmax,
    class_softmax_,
    depth_to_space,
    space_to_depth,
)
from .tiling import Tiling, channels_first


class EncodedVolume:
    """Encoder output of a volume, from which samples are drawn; for models of pictures all arrays lack the axis z.

    `voxel_distances` are those of `InputStatistics`, float32 [z, y, x]; None if the model has no statistics.
    """

    def __init__(
        self,
        model: Model,
        image: np.ndarray,
        device: torch.device,
        tiling: Tiling | None = None,
        store: torch.device | None = None,
        frame: Frame | None = None,
    ) -> None:
        """Encode `image`, normalised float32 [channels, z, y, x] or [channels, y, x]; see `channels_first`.

        For a model on top of a network that others trained the channels include its log-odds; see `foreign_head`.

        Args:
            tiling: windows; by default those of the model.
            store: device that holds the features of the windows; by default `device`.
            frame: position of `image` in the grid for which a correlated start is drawn; by default its own grid.
        """
        self.model, self.device = model, device
        self.start, self._frame = model.start, frame
        self.kept_bytes = 0  # of the noise of copula masks that an update needs again
        image = channels_first(image, model.dims)
        self.tiling = tiling or Tiling(image.shape[1:], model.section["window"], model.multiple)
        store = store or device
        self._prepared: list[torch.Tensor] = []
        self._direct: list[torch.Tensor] = []
        self._features: list[torch.Tensor] = []  # only of models that can be given facts
        self._facts: torch.Tensor | None = None
        self._masks: dict[int, np.ndarray] = {}  # of copula masks given facts, by seed
        self._summary = ScanSummary.none(model.classes, model.section["network"]["encoder"]["channels"][0])
        statistics = model.input_statistics
        padded = torch.from_numpy(self.tiling.pad(image))[None]
        cell_distances: list[torch.Tensor] = []
        with torch.inference_mode():
            for window, share in zip(self.tiling.windows, self.tiling.shares(), strict=True):
                crop = padded[(..., *self.tiling.voxels(window))].to(device)
                if statistics is None:
                    features, direct = model.encoder(crop)
                else:
                    raw = model.encoder.trained.raw_features(crop)
                    features, direct = model.encoder.trained.outputs(raw)
                    p = class_softmax(direct)
                    self._summary.add(raw, p, share.to(device))
                    cell_distances.append(statistics.cell_distances(raw, p).to(store))
                    del raw, p
                self._prepared.append(model.denoiser.prepare(features, direct).to(store))
                self._direct.append(direct.to(store))
                if model.denoiser.facts is not None:
                    self._features.append(features.to(store))
                del features, direct  # before the next window allocates its own
            self._marginals = self.tiling.blend(class_softmax(logits.to(device)) for logits in self._direct)
            self.voxel_distances = None
            if cell_distances:
                cells = self.tiling.blend(cell_distances)[0, 0].cpu().numpy()
                voxels = functools.reduce(lambda array, axis: array.repeat(2, axis), range(model.dims), cells)
                self.voxel_distances = voxels[tuple(slice(n) for n in self.tiling.shape)]

    def given(
        self, facts: np.ndarray, seeds: Sequence[int], on_mask: Callable[[], None] = lambda: None
    ) -> EncodedVolume:
        """This volume given `facts`: labels uint8 [z, y, x], UNKNOWN where nothing is known.

        Runs the network for facts once; the encoder's output is shared. Of a model whose samples are copula masks, the
        masks of `seeds` are drawn at once, because only they tell the class probabilities given the facts; `on_mask` is
        called after each and may raise to stop. Raises ValueError if the model cannot be given facts.
        """
        given = copy.copy(self)
        given.__dict__.pop("_copula", None)
        if self.model.is_copula_only:
            given._draw_masks(self._copula, facts, seeds, on_mask)
            return given
        # UNKNOWN + 1 is 0 in uint8, with which `pad` fills.
        padded = torch.from_numpy(self.tiling.pad(facts + np.uint8(1)) - np.uint8(1))
        given._facts = space_to_depth(padded[None, None].to(self.device))
        given._prepared, given._direct = [], []
        with torch.inference_mode():
            for window, features, direct in zip(self.tiling.windows, self._features, self._direct, strict=True):
                arguments = features.to(self.device), direct.to(self.device), given._facts[(..., *window)]
                prepared, logits = self.model.denoiser.prepare_given(*arguments)
                given._prepared.append(prepared.to(features.device))
                given._direct.append(logits.to(features.device))
            probabilities = (class_softmax(logits.to(self.device)) for logits in given._direct)
            given._marginals = clamp_known(self.tiling.blend(probabilities), given._facts)
        return given

    def _draw_masks(self, copula: Copula, facts: np.ndarray, seeds: Sequence[int], on_mask: Callable[[], None]) -> None:
        """Draw the masks of `copula` for `seeds` given the facts, and set the class probabilities.

        To those without facts the masks add their difference from masks of the same noise without facts, which is 0
        where the facts say nothing.
        """
        direct, known = self.direct(), facts != UNKNOWN
        p = normalised(direct)
        given = ConditionalCopula(copula, p, known, facts)
        self._masks, change = {}, np.zeros_like(p)
        for seed, (mask, before) in zip(seeds, given.draw(seeds, on_mask), strict=True):
            self._masks[seed] = mask
            at = np.nonzero(mask != before)
            change[(mask[at], *at)] += 1 / len(seeds)
            change[(before[at], *at)] -= 1 / len(seeds)
            on_mask()
        # Elsewhere nothing changes, not even by rounding, so that results of the run before can be used again.
        changed = change.any(0)
        direct[:, changed] = normalised(np.clip(p[:, changed] + change[:, changed], 0, 1))
        direct[:, known] = facts[known] == np.arange(len(p), dtype=np.uint8)[:, None]
        padded = torch.from_numpy(self.tiling.pad(direct))[None]
        self._marginals = space_to_depth(padded.to(self.device))

    def direct(self) -> np.ndarray:
        """Marginal class probabilities of the direct head, float32 [C, z, y, x]; with facts, given these."""
        return self._volume(self._marginals)[0]

    def input_distance(self) -> InputDistance | None:
        """Distance of the volume from those that the model was made for; None without statistics."""
        statistics = self.model.input_statistics
        return None if statistics is None else statistics.input_distance(self._summary)

    def sample(
        self,
        seeds: Sequence[int],
        log_snr: np.ndarray,
        on_step: Callable[[int], None] = lambda step: None,
        first: int = 0,
    ) -> np.ndarray:
        """Draw one joint sample for each seed: class probabilities float32 [N, C, z, y, x] of the last step.

        The argmax over C is the mask of a sample. The mean of the probabilities over samples estimates the marginals
        with less noise than the mean of the masks (Rao-Blackwell). `log_snr` are the rising nodes of the step grid.
        `on_step` is called with the number of steps done and may raise to stop. `first`, the number of the first sample
        in its run, matters to `EncodedFolds` alone.

        Apart from rounding, a sample depends on its own seed alone.
        """
        with torch.inference_mode():
            noise = torch.cat([self._noise(seed) for seed in seeds])
            masks = None
            if self.start is not None:
                masks = np.stack([self.tiling.pad(self.start_mask(seed)) for seed in seeds])

            def denoise(x: torch.Tensor, node: float) -> torch.Tensor:
                p = self.tiling.blend(self._window_probabilities(x, node))
                return p if self._facts is None else clamp_known(p, self._facts)

            return self._volume(_denoised(self.model, masks, noise, self._marginals, log_snr, denoise, on_step))

    def start_mask(self, seed: int, number: int = 0) -> np.ndarray:
        """Mask of the correlated start for a seed, uint8 [z, y, x]; runs no network.

        `number` is that of the sample, as for `sample`.
        """
        mask = self._masks.get(seed)
        return self._copula.draw(seed) if mask is None else mask

    @cached_property
    def _copula(self) -> Copula:
        covariance, p = self._require_start().covariance, normalised(self.direct())
        kept_bytes = self.kept_bytes if self.model.is_copula_only else 0
        return Copula(covariance, p, self.model.spacing, self._frame, kept_bytes)

    def _require_start(self) -> Start:
        if self.start is None:
            raise ValueError("The model has no correlated start.")
        return self.start

    def _window_probabilities(self, x: torch.Tensor, log_snr: float) -> Iterator[torch.Tensor]:
        """Yield one window at a time: all together are larger than the state, because windows overlap."""
        time = torch.full((len(x),), log_snr, device=self.device)
        for window, prepared, direct in zip(self.tiling.windows, self._prepared, self._direct, strict=True):
            crop = x[(..., *window)].contiguous(memory_format=CHANNELS_LAST[self.model.dims])
            prepared, direct = prepared.to(self.device), direct.to(self.device)
            yield class_softmax_(self.model.denoiser(crop, time, prepared, direct))

    def _noise(self, seed: int) -> torch.Tensor:
        """Unit noise for the whole volume, drawn on the CPU so that a seed gives the same noise for every device."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((1, *self.tiling.cells, 2**self.model.dims * self.model.classes), generator=generator)
        return noise.to(self.device).movedim(-1, 1)  # channels last in memory, as the denoiser needs it

    def _volume(self, cells: torch.Tensor) -> np.ndarray:
        return np.ascontiguousarray(self.tiling.crop(depth_to_space(cells)).cpu().numpy())


@dataclass
class CaseSamples:
    """Joint samples of a small case with C classes."""

    masks: np.ndarray  # uint8 [samples, *shape]
    mean: np.ndarray  # mean class probabilities of the samples, float32 [C, *shape]; exact for copula masks
    direct: np.ndarray  # class probabilities of the direct head, float32 [C, *shape]


@torch.inference_mode()
def draw(
    model: Model, image: np.ndarray, samples: int, log_snr: np.ndarray, seed: int, facts: np.ndarray | None = None
) -> CaseSamples:
    """Joint samples of a small case in two or three dimensions, on the device of the model.

    `image` is normalised float32 [channels, *shape], see `channels_first`; each axis is a multiple of `model.multiple`.
    All samples pass the denoiser together; for volumes of any size use `EncodedVolume`. The noise is drawn on the CPU
    from one stream. Given `facts`, labels uint8 [*shape] with UNKNOWN elsewhere, samples and direct head are those of
    `EncodedVolume.given`.
    """
    device, start = next(model.encoder.parameters()).device, model.start
    features, logits = model.encoder(torch.from_numpy(channels_first(image, model.dims))[None].to(device))
    known = None
    if facts is None:
        prepared = model.denoiser.prepare(features, logits)
    else:
        known = space_to_depth(torch.from_numpy(facts)[None, None].to(device))
        prepared, logits = model.denoiser.prepare_given(features, logits, known)
    generator = torch.Generator().manual_seed(derived_seed(seed, 0))
    noise = torch.randn((samples, *logits.shape[2:], logits.shape[1]), generator=generator).to(device).movedim(-1, 1)
    marginals = class_softmax(logits)
    direct = depth_to_space(marginals)[0].cpu().numpy()
    masks = None
    if start is not None:
        masks = start_masks(start, direct, model.spacing, sample_seeds(seed + 1, samples))
        if start.log_snr is None:
            return CaseSamples(masks, direct, direct)

    def denoise(x: torch.Tensor, node: float) -> torch.Tensor:
        time = torch.full((len(x),), node, device=device)
        p = class_softmax_(model.denoiser(x, time, prepared, logits))
        return p if known is None else clamp_known(p, known)

    p = depth_to_space(_denoised(model, masks, noise, marginals, log_snr, denoise))
    return CaseSamples(p.argmax(1).to(torch.uint8).cpu().numpy(), p.mean(0).cpu().numpy(), direct)


def _denoised(
    model: Model,
    masks: np.ndarray | None,
    noise: torch.Tensor,
    marginals: torch.Tensor,
    log_snr: np.ndarray,
    denoise: Denoise,
    on_step: Callable[[int], None] = lambda step: None,
) -> torch.Tensor:
    """Class probabilities [N, 2^dims * C, *cells] of x0 at the last node, from white `noise` of this shape.

    With the `masks` uint8 [N, *shape] of a correlated start the first state is a noised mask; otherwise the
    probabilities at the first node are the `marginals` [1, 2^dims * C, *cells]. `denoise` runs the denoiser.
    """
    if masks is None:
        return dpm_solver_2m(denoise, noise, marginals.expand(noise.shape), log_snr, on_step)
    labels = space_to_depth(torch.from_numpy(masks)[:, None].to(noise.device))
    time = torch.full((len(masks),), float(log_snr[0]), device=noise.device)
    x = diffuse(one_hot_state(labels, model.classes), noise, time)
    return dpm_solver_2m(denoise, x, None, log_snr, on_step)


def start_masks(start: Start, p: np.ndarray, spacing_mm: float, seeds: Sequence[int]) -> np.ndarray:
    """Masks of a correlated start, uint8 [seeds, *shape], with the class probabilities `p` float32 [C, *shape]."""
    copula = Copula(start.covariance, normalised(p), spacing_mm)
    return np.stack([copula.draw(seed) for seed in seeds])


def normalised(p: np.ndarray) -> np.ndarray:
    """Class probabilities [C, ...] divided by their sum, which rounding and blending of windows move from 1."""
    return p / p.sum(0)


def sample_seeds(seed: int, count: int, first: int = 0) -> list[int]:
    """Seeds of the samples first, ..., first + count - 1 of a run: independent streams, whatever the grouping."""
    return [derived_seed(seed, index) for index in range(first, first + count)]
