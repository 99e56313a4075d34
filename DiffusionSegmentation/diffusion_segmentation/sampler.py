"""Joint samples of a whole volume: encode once, then denoise one noise field for each sample.

A sample is drawn for the volume as a whole. Windows, where there are several, crop the one state and their answers are
blended at every step; a mask stitched from windows with noise of their own would be a chimera.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from .model import Model
from .networks import class_softmax, class_softmax_, depth_to_space
from .process import ddim_step
from .tiles import Tiling


class Encoded:
    """A volume as the encoder sees it, kept for all samples and steps."""

    def __init__(self, model: Model, image: np.ndarray, device: torch.device, on_window: Callable[[], None]) -> None:
        """Run the encoder over `image` float32 [z, y, x], normalised; `on_window` is called after each window."""
        self.model, self.device = model, device
        self.tiling = Tiling(image.shape, model.section["window"], model.multiple)
        self._prepared: list[torch.Tensor] = []
        self._direct: list[torch.Tensor] = []
        padded = torch.from_numpy(self.tiling.pad(image))[None, None]
        with torch.inference_mode():
            for window in self.tiling.windows:
                crop = padded[(..., *self.tiling.voxels(window))].to(device)
                features, direct = model.encoder(crop)
                self._prepared.append(model.denoiser.prepare(features))
                self._direct.append(direct)
                on_window()
            self._marginals = self.tiling.blend([class_softmax(logits) for logits in self._direct])

    def direct(self) -> np.ndarray:
        """The direct head's class probabilities float32 [C, z, y, x]: marginals, fast, and never a sample."""
        return self._volume(self._marginals)[0]

    def sample(
        self, seeds: Sequence[int], log_snr: np.ndarray, on_step: Callable[[int], None] = lambda step: None
    ) -> np.ndarray:
        """Draw one joint sample for each seed: class probabilities float32 [N, C, z, y, x] of the last step.

        The argmax over C is the sample's mask; the mean over samples of the probabilities estimates the marginals with
        less noise than the masks do (Rao-Blackwell). `log_snr` are the nodes of the step grid, rising. `on_step` is
        called with the number of steps done and may raise to stop.

        The first node is pure noise, which says nothing about the mask: the answer there is the direct head's, and the
        denoiser is spared a pass that could only repeat it with an error of its own.

        A sample depends on its seed alone; which others are drawn with it changes rounding at most.
        """
        with torch.inference_mode():
            x = torch.cat([self._noise(seed) for seed in seeds])
            for k, node in enumerate(log_snr):
                p = self._denoise(x, float(node)) if k else self._marginals.expand(len(x), -1, -1, -1, -1)
                if k + 1 < len(log_snr):
                    x = ddim_step(x, p, float(node), float(log_snr[k + 1]))
                on_step(k + 1)
            return self._volume(p)

    def _denoise(self, x: torch.Tensor, log_snr: float) -> torch.Tensor:
        """Class probabilities of x0, blended over the windows, in the form of the state x."""
        time = torch.full((len(x),), log_snr, device=self.device)
        answers = []
        for window, prepared, direct in zip(self.tiling.windows, self._prepared, self._direct, strict=True):
            crop = x[(..., *window)].contiguous(memory_format=torch.channels_last_3d)
            answers.append(class_softmax_(self.model.denoiser(crop, time, prepared, direct)))
        return self.tiling.blend(answers)

    def _noise(self, seed: int) -> torch.Tensor:
        """Unit noise for the whole volume, drawn on the CPU so that a seed means the same on every device."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn((1, *self.tiling.cells, 8 * self.model.classes), generator=generator)
        return noise.to(self.device).movedim(-1, 1)  # channels last in memory, as the denoiser wants it

    def _volume(self, cells: torch.Tensor) -> np.ndarray:
        return np.ascontiguousarray(self.tiling.crop(depth_to_space(cells)).cpu().numpy())


def sample_seeds(seed: int, count: int, first: int = 0) -> list[int]:
    """Seeds of the samples first, ..., first + count - 1 of a run: independent streams, stable under grouping."""
    sequence = np.random.SeedSequence(seed)
    return [
        int(np.random.SeedSequence(sequence.entropy, spawn_key=(index,)).generate_state(1, np.uint64)[0] >> 1)
        for index in range(first, first + count)
    ]
