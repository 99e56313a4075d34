"""Loss and error over noise levels, for each case."""

from __future__ import annotations

import numpy as np
import torch

from ..diffusion.process import diffuse, one_hot_state
from ..networks import CHANNELS_LAST, space_to_depth
from ..runtime.floating_point import flush_denormals
from ..training.loss import bin_centres, cross_entropy
from .architectures.interface import Architecture, Condition
from .architectures.unet import UNet
from .noise import unit_noise
from .objectives import probabilities
from .tasks import VALIDATION, Task
from .variants import Variant

CASES = 64
BATCH = 16


def loss_over_levels(
    network: Architecture | UNet, variant: Variant, task: Task, part: str = VALIDATION
) -> dict[str, np.ndarray]:
    """Arrays "loss" and "error" [cases, 24] of a denoising variant at the log-SNR "log_snr" [24].

    The loss is the cross-entropy in nats per voxel for class outputs, the squared error of the noise for images, and
    the squared error of x0 otherwise. The error is the mean squared error of x0; for masks that of the noise follows:
    x = alpha x0 + sigma eps makes it exp(log-SNR) times as large. Every network sees the same noise.
    """
    images, masks = task.arrays(part)
    count = min(CASES, len(images))
    images, masks = np.array(images[:count]), np.array(masks[:count, :1])
    device = next(network.parameters()).device
    memory_format = CHANNELS_LAST[len(task.shape)]
    generator = torch.Generator().manual_seed(0)
    if variant.form == "image":
        mean, deviation = task.image_statistics()
        images = (images - mean) / deviation

    def at_level(
        x0: torch.Tensor, target: torch.Tensor, condition: Condition, level: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and error [N] at one log-SNR."""
        if variant.noise == "white":
            noise = torch.randn(x0.shape, generator=generator)
        else:
            noise = unit_noise(variant.noise, x0.shape, task.classes, generator)
        noise = noise.to(device).contiguous(memory_format=memory_format)
        log_snr = torch.full((len(x0),), level, device=device)
        x = diffuse(x0, noise, log_snr)
        if variant.form == "image":
            error = (network(x, log_snr) - noise).square().flatten(1).mean(1)
            # Near pure noise a small error of the noise is a large one of x0; the mean image has an error of 1.
            return error, (error * torch.exp(-log_snr)).clamp(max=1.0)
        output = network.denoise(x, log_snr, condition) if isinstance(network, Architecture) else network(x, log_snr)
        error = (2 * probabilities(output, variant.loss, x, log_snr) - 1 - x0).square().flatten(1).mean(1)
        return cross_entropy(output, target, task.classes) if variant.loss in ("ce", "dice") else error, error

    batches = []
    with flush_denormals(), torch.inference_mode():
        for start in range(0, count, BATCH):
            image = torch.from_numpy(images[start : start + BATCH]).to(device)
            target = space_to_depth(torch.from_numpy(masks[start : start + BATCH])).long().to(device)
            x0 = space_to_depth(image) if variant.form == "image" else one_hot_state(target, task.classes)
            image = image.contiguous(memory_format=memory_format)
            condition = network.encode(image) if isinstance(network, Architecture) else ()
            levels = [torch.stack(at_level(x0, target, condition, float(level))) for level in bin_centres()]
            batches.append(torch.stack(levels, -1).cpu().numpy())
    loss, error = np.concatenate(batches, 1)
    return {"log_snr": bin_centres(), "loss": loss, "error": error}


def half_point(log_snr: np.ndarray, error: np.ndarray) -> float:
    """The log-SNR at which the error [..., levels] has fallen to half of its value in pure noise: the task's scale.

    It is lower for large objects, whose masks can be recovered from more noise. The largest log-SNR if the error never
    falls so far.
    """
    falling = np.minimum.accumulate(np.atleast_2d(error).mean(0, np.float64))
    below = np.flatnonzero(falling <= falling[0] / 2)
    if not len(below):
        return float(log_snr[-1])
    k = below[0]
    if k == 0:
        return float(log_snr[0])
    share = (falling[k - 1] - falling[0] / 2) / (falling[k - 1] - falling[k])
    return float(log_snr[k - 1] + share * (log_snr[k] - log_snr[k - 1]))


def rise(loss: np.ndarray) -> float:
    """Largest rise of a loss [levels], log-SNR rising, as noise is added, as a share of its maximum.

    0 for a loss that falls throughout; 1 for one that rises from 0 to its maximum.
    """
    noisier = np.asarray(loss, np.float64)[::-1]
    lowest = np.minimum.accumulate(noisier)
    return float((noisier - lowest).max() / max(noisier.max(), 1e-12))
