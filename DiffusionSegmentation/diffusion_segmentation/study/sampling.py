"""Samples and probabilities from trained variants."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from ..calibration.covariance import LabelledCase, fit_covariance
from ..diffusion.copula import Covariance
from ..diffusion.process import LOG_SNR_MIN, adapted_grid, diffuse, one_hot_state
from ..diffusion.solvers import Denoise, Solver, dpm_solver_2m
from ..evaluation.known_answer.samplers import Prediction, independent_pixels
from ..model.folder import MIN_NODE_DISTANCE
from ..networks import class_softmax, depth_to_space, space_to_depth
from ..runtime.floating_point import flush_denormals
from ..segmentation.sampler import sample_seeds
from ..segmentation.tiling import channels_first
from .architectures.interface import Architecture
from .curves import loss_over_levels
from .noise import unit_noise
from .objectives import network_input, probabilities
from .stochastic import Stochastic
from .tasks import TRAIN, VALIDATION, Task
from .variants import Variant

STEPS = 10  # steps of the sampler, unless a question varies them
COPULA_CASES = 48  # validation cases to which the covariance of a copula is fitted


@dataclass
class Samples:
    """Samples of one case."""

    masks: np.ndarray  # uint8 [samples, *shape]
    softmax: np.ndarray  # class probabilities at each sample's last step, float32 [samples, C, *shape]
    path: list[np.ndarray] = field(default_factory=list)
    """Class probabilities at each step, float32 [samples, C, *shape], if asked for."""

    def prediction(self, count: int | None = None) -> Prediction:
        """The first `count` samples as a row of an evaluation; a single sample has no joint scores."""
        masks = self.masks[:count]
        return Prediction(self.softmax[:count].mean(0), masks if len(masks) > 1 else None)


class VariantSampler:
    """Samples from one trained diffusion variant, on the network's device."""

    def __init__(self, network: Architecture, variant: Variant, task: Task) -> None:
        self.network, self.variant, self.task = network, variant, task
        self.device = next(network.parameters()).device

    @cached_property
    def loss_curve(self) -> tuple[np.ndarray, np.ndarray]:
        """Log-SNR [24] and mean validation loss [24]."""
        curve = loss_over_levels(self.network, self.variant, self.task)
        return curve["log_snr"], curve["loss"].mean(0)

    def adapted_grid(self, steps: int = STEPS) -> np.ndarray:
        """Step grid [steps] adapted to the loss curve."""
        return adapted_grid(*self.loss_curve, steps)

    def grid_from(self, log_snr: float) -> np.ndarray:
        """The nodes of the adapted step grid above `log_snr`, which becomes the first."""
        grid = self.adapted_grid()
        return np.concatenate([[log_snr], grid[grid > log_snr + MIN_NODE_DISTANCE]])

    def sample(
        self,
        image: np.ndarray,
        samples: int,
        grid: np.ndarray,
        seed: int,
        solver: Solver = dpm_solver_2m,
        path: bool = False,
        start: np.ndarray | None = None,
    ) -> Samples:
        """Joint samples of an image [channels, *shape] over the nodes of a step grid, optionally with their path.

        They begin in noise, or with noise added to the masks `start` (uint8 [samples, *shape]) at the first node.
        """
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(sample_seeds(seed, 1)[0])
        steps: list[np.ndarray] = []
        with flush_denormals(), torch.inference_mode():
            batch = _batched(image, self.network)
            condition = self.network.encode(batch)
            x = self._noise(samples, batch.shape[2:], generator)
            if start is not None:
                labels = space_to_depth(torch.from_numpy(start)[:, None]).long().to(self.device)
                x = diffuse(one_hot_state(labels, self.network.classes), x, x.new_full((samples,), float(grid[0])))
            others = self._other_masks(samples, seed) if self.variant.state == "shuffled" else x

            def denoise(x: torch.Tensor, node: float) -> torch.Tensor:
                time = torch.full((len(x),), node, device=self.device)
                state, level = network_input(self.variant.state, x, others, time)
                output = self.network.denoise(state, level, condition)
                p = probabilities(output, self.variant.loss, state, level)
                if path:
                    steps.append(self._volume(p))
                return p

            first = self._first(denoise, x, condition) if start is None else None
            if path and first is not None and not steps:
                steps.append(self._volume(first))
            p = self._volume(solver(denoise, x, first, grid))
        return Samples(p.argmax(1).astype(np.uint8), p, steps)

    def _noise(self, samples: int, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
        size = [n // 2 for n in shape]
        channels = self.network.classes * 2 ** len(size)
        if self.variant.noise != "white":
            cells = torch.Size((samples, channels, *size))
            return unit_noise(self.variant.noise, cells, self.network.classes, generator).to(self.device)
        return torch.randn((samples, *size, channels), generator=generator).to(self.device).movedim(-1, 1)

    def _first(self, denoise: Denoise, x: torch.Tensor, condition: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """Probabilities at pure noise, which carries no information: those of the direct head if there is one."""
        head = self.network.head(condition)
        if head is None or self.variant.state == "nothing":
            return denoise(x, LOG_SNR_MIN)
        return class_softmax(head).expand(x.shape)

    def _other_masks(self, samples: int, seed: int) -> torch.Tensor:
        """x0 of random training cases, for a variant trained on shuffled masks."""
        masks = self.task.arrays(TRAIN)[1]
        chosen = np.random.default_rng(seed).integers(len(masks), size=samples)
        labels = torch.from_numpy(np.stack([masks[n, 0] for n in chosen]))[:, None]
        return one_hot_state(space_to_depth(labels).long(), self.network.classes).to(self.device)

    def _volume(self, cells: torch.Tensor) -> np.ndarray:
        """Probabilities [N, C, *shape] whose classes sum to 1 in every voxel."""
        p = depth_to_space(cells).clamp_min(1e-6)
        return (p / p.sum(1, keepdim=True)).float().cpu().numpy()


def direct_probabilities(network: Architecture, image: np.ndarray) -> np.ndarray:
    """Class probabilities [C, *shape] of a direct network or of a diffusion model's direct head."""
    with flush_denormals(), torch.inference_mode():
        return depth_to_space(class_softmax(network.direct(_batched(image, network))))[0].cpu().numpy()


def fitted_covariance(network: Architecture, task: Task) -> Covariance:
    """Covariance of a copula with the network's direct probabilities as marginals, lengths in voxels.

    Fitted to the first mask of each validation case.
    """
    images, masks = (array[:COPULA_CASES] for array in task.arrays(VALIDATION))
    cases = [
        LabelledCase(np.array(image), np.array(several[0]), direct_probabilities(network, image))
        for image, several in zip(images, masks, strict=True)
    ]
    return fit_covariance(cases, 1.0, 0, lambda done, of: None)


def direct_prediction(probability: np.ndarray, samples: int, seed: int) -> Prediction:
    """A direct network's row: its samples are pixels drawn independently from [C, *shape]."""
    return Prediction(probability, independent_pixels(probability, samples, np.random.default_rng(seed)))


def mixture_prediction(members: np.ndarray, samples: int, seed: int) -> Prediction:
    """Equal mixture of the argmax masks of several networks' probabilities [n, C, *shape]."""
    masks = members.argmax(1).astype(np.uint8)
    rng = np.random.default_rng(seed)
    chosen = np.arange(samples) if len(masks) == samples else rng.integers(len(masks), size=samples)
    return Prediction(members.mean(0), masks[chosen])


def stochastic_prediction(network: Stochastic, image: np.ndarray, samples: int, seed: int) -> Prediction:
    """Samples of a stochastic segmentation network: the argmax mask of each draw of the logits."""
    torch.manual_seed(seed)
    with flush_denormals(), torch.inference_mode():
        p = depth_to_space(class_softmax(network.draw(_batched(image, network), samples)[0])).cpu().numpy()
    return Prediction(p.mean(0), p.argmax(1).astype(np.uint8))


def _batched(image: np.ndarray, network: Architecture | Stochastic) -> torch.Tensor:
    """[channels, *shape] or, of one channel, [*shape] -> [1, channels, *shape] on the device of the network."""
    array = np.array(channels_first(image, network.dims), order="C")
    return torch.from_numpy(array)[None].to(next(network.parameters()).device)
