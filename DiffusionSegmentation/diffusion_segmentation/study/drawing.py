"""Joint samples from an arm, and the way there."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from ..calibration.covariance import Labelled, fit_covariance
from ..diffusion.copula import Covariance
from ..diffusion.process import LOG_SNR_MIN, one_hot_state
from ..evaluation.known_answer.samplers import Prediction, independent_pixels
from ..networks import class_softmax, depth_to_space, space_to_depth
from ..runtime.denormals import flushed
from ..segmentation.sampler import sample_seeds, solve
from .architectures.interface import Architecture
from .objectives import normalised, probabilities, substituted
from .solvers import Denoise, Solver
from .stochastic import Stochastic
from .tasks import TRAIN, VALIDATION, Task
from .variants import Arm

STEPS = 10
"""Steps of a sample where a question does not ask for others."""
FITTED_TO = 48
"""Validation cases to which the covariance of a copula is fitted."""


@dataclass
class Sampled:
    """Samples of one case: what `Drawer.draw` returns."""

    masks: np.ndarray
    """uint8 [samples, *shape]"""
    softmax: np.ndarray
    """Class probabilities of each sample's last step, float32 [samples, C, *shape]; of directs their probabilities."""
    path: list[np.ndarray] = field(default_factory=list)
    """Class probabilities of each step, float32 [samples, C, *shape], where they were asked for."""

    def answer(self, count: int | None = None, seconds: float | None = None) -> Prediction:
        """The first `count` samples as a row of an evaluation; a single one claims no joint law."""
        masks = self.masks[:count]
        return Prediction(self.softmax[:count].mean(0), masks if len(masks) > 1 else None, seconds)


class Drawer:
    """Draws from one trained network; on the device that the network is on."""

    def __init__(self, network: Architecture, arm: Arm, task: Task) -> None:
        self.network, self.arm, self.task = network, arm, task
        self.device = next(network.parameters()).device

    def draw(
        self, image: np.ndarray, samples: int, grid: np.ndarray, seed: int, solver: Solver = solve, path: bool = False
    ) -> Sampled:
        """`samples` joint samples of an image [*shape] over the nodes of a step grid; with their path if wanted."""
        torch.manual_seed(seed)
        generator = torch.Generator().manual_seed(sample_seeds(seed, 1)[0])
        steps: list[np.ndarray] = []
        with flushed(), torch.inference_mode():
            condition = self.network.encode(torch.from_numpy(np.ascontiguousarray(image))[None, None].to(self.device))
            size = [n // 2 for n in image.shape]
            channels = self.network.classes * 2**image.ndim
            x = torch.randn((samples, *size, channels), generator=generator).to(self.device).movedim(-1, 1)
            others = self._others(samples, seed)

            def denoise(x: torch.Tensor, node: float) -> torch.Tensor:
                time = torch.full((len(x),), node, device=self.device)
                seen, level = substituted(self.arm.state, x, others, time)
                answer = self.network.denoise(seen, level, condition)
                p = probabilities(answer, self.arm.loss, seen, level)
                if path:
                    steps.append(self._volume(p))
                return p

            first = self._first(denoise, x, condition)
            if path and not steps:
                steps.append(self._volume(first))
            p = self._volume(solver(denoise, x, first, grid))
        return Sampled(p.argmax(1).astype(np.uint8), p, steps)

    def _first(self, denoise: Denoise, x: torch.Tensor, condition: tuple[torch.Tensor, ...]) -> torch.Tensor:
        """The answer to pure noise, which says nothing: the direct head's where there is one."""
        head = self.network.head(condition)
        if head is None or self.arm.state == "nothing":
            return denoise(x, LOG_SNR_MIN)
        return class_softmax(head).expand(x.shape)

    def _others(self, samples: int, seed: int) -> torch.Tensor | None:
        """x0 of training cases, whose noisy masks a network gets that was trained on shuffled ones."""
        if self.arm.state != "shuffled":
            return None
        masks = self.task.arrays(TRAIN)[1]
        chosen = np.random.default_rng(seed).integers(len(masks), size=samples)
        labels = torch.from_numpy(np.stack([masks[n, 0] for n in chosen]))[:, None]
        return one_hot_state(space_to_depth(labels).long(), self.network.classes).to(self.device)

    def _volume(self, cells: torch.Tensor) -> np.ndarray:
        return depth_to_space(normalised(cells, self.network.classes)).float().cpu().numpy()


def direct_probabilities(network: torch.nn.Module, image: np.ndarray) -> np.ndarray:
    """Class probabilities [C, *shape] of a direct network."""
    device = next(network.parameters()).device
    with flushed(), torch.inference_mode():
        logits = network.direct(torch.from_numpy(np.ascontiguousarray(image))[None, None].to(device))
        return depth_to_space(class_softmax(logits))[0].cpu().numpy()


def fitted_covariance(network: torch.nn.Module, task: Task) -> Covariance:
    """The covariance of a copula of a network's direct answers: how far voxels of the task's labels go together.

    In the unit of one voxel, from the first mask of each validation case.
    """
    images, masks = (array[:FITTED_TO] for array in task.arrays(VALIDATION))
    cases = [
        Labelled(np.array(image), np.array(several[0]), direct_probabilities(network, image))
        for image, several in zip(images, masks, strict=True)
    ]
    return fit_covariance(cases, 1.0, 0, lambda done, of: None)


def direct_answer(probability: np.ndarray, samples: int, seed: int) -> Prediction:
    """A direct network's row: it claims no joint law, so its samples are pixels drawn each by itself."""
    return Prediction(probability, independent_pixels(probability, samples, np.random.default_rng(seed)))


def mixture_answer(several: np.ndarray, samples: int, seed: int) -> Prediction:
    """The row in which one of the answers [n, C, *shape] is right, each as likely: draws of their masks."""
    masks = several.argmax(1).astype(np.uint8)
    rng = np.random.default_rng(seed)
    chosen = np.arange(samples) if len(masks) == samples else rng.integers(len(masks), size=samples)
    return Prediction(several.mean(0), masks[chosen])


def stochastic_answer(network: Stochastic, image: np.ndarray, samples: int, seed: int) -> Prediction:
    """Samples of a stochastic segmentation network: the most probable mask under each draw of the logits."""
    torch.manual_seed(seed)
    device = next(network.parameters()).device
    with flushed(), torch.inference_mode():
        logits = network.draw(torch.from_numpy(np.ascontiguousarray(image))[None, None].to(device), samples)[0]
        p = depth_to_space(class_softmax(logits)).cpu().numpy()
    return Prediction(p.mean(0), p.argmax(1).astype(np.uint8))
