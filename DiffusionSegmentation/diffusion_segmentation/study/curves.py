"""Loss and error over noise levels, case by case, for what a study trains."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ..diffusion.process import diffuse, one_hot_state
from ..networks import CHANNELS_LAST, space_to_depth
from ..runtime.floating_point import flush_denormals
from ..training.loss import bin_centres, cross_entropy
from .objectives import probabilities
from .tasks import VALIDATION, Task
from .variants import Arm

CASES = 64
"""Cases of a part behind a curve."""
GROUP = 16


def loss_over_levels(network: torch.nn.Module, arm: Arm, task: Task, part: str = VALIDATION) -> dict[str, np.ndarray]:
    """Case by case "loss" and "error" [cases, 24] at the log-SNR "log_snr" [24], of an arm that denoises.

    The loss is the cross-entropy in nats a voxel where the answer gives classes, of images the squared error of the
    noise, and else that of x0; the error is the mean squared error of x0. From that of masks follows that of the noise:
    x = alpha x0 + sigma eps makes it exp(log-SNR) times as large. One draw of noise for each case and level, the same
    for every network, so that their curves differ by the networks alone.
    """
    images, masks = task.arrays(part)
    count = min(CASES, len(images))
    images, masks = np.array(images[:count]), np.array(masks[:count, :1])
    device = next(network.parameters()).device
    generator = torch.Generator().manual_seed(0)
    if arm.form == "image":
        centre, scale = task.standard()
        images = (images - centre) / scale
    levels, loss, error = bin_centres(), [], []
    with flush_denormals(), torch.inference_mode():
        for start in range(0, count, GROUP):
            image = torch.from_numpy(images[start : start + GROUP])[:, None]
            drawn = torch.from_numpy(masks[start : start + GROUP])
            rows = [_at(network, arm, task, image, drawn, float(level), device, generator) for level in levels]
            loss.append(torch.stack([row[0] for row in rows], 1).cpu().numpy())
            error.append(torch.stack([row[1] for row in rows], 1).cpu().numpy())
    return {"log_snr": levels, "loss": np.concatenate(loss), "error": np.concatenate(error)}


def _at(
    network: Any,
    arm: Arm,
    task: Task,
    image: torch.Tensor,
    masks: torch.Tensor,
    level: float,
    device: torch.device,
    generator: torch.Generator,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Loss and error [N] at one noise level."""
    target = space_to_depth(masks).long().to(device)
    if arm.form == "image":
        x0 = space_to_depth(image).to(device)
    else:
        x0 = one_hot_state(target, task.classes)
    noise = torch.randn(x0.shape, generator=generator).to(device)
    noise = noise.contiguous(memory_format=CHANNELS_LAST[len(task.shape)])
    log_snr = torch.full((len(x0),), level, device=device)
    x = diffuse(x0, noise, log_snr)
    if arm.form == "image":
        error = (network(x, log_snr) - noise).square().flatten(1).mean(1)
        # In pure noise the least error in the noise is a vast one in x0: no worse than the mean image, which has 1.
        return error, (error * torch.exp(-log_snr)).clamp(max=1.0)
    if arm.form == "mask":
        answer = network(x, log_snr)
    else:
        image = image.to(device).contiguous(memory_format=CHANNELS_LAST[len(task.shape)])
        answer = network.denoise(x, log_snr, network.encode(image))
    p = probabilities(answer, arm.loss, x, log_snr)
    error = (2 * p - 1 - x0).square().flatten(1).mean(1)
    loss = cross_entropy(answer, target, task.classes) if arm.loss in ("ce", "dice") else error
    return loss, error


def half_point(log_snr: np.ndarray, error: np.ndarray) -> float:
    """The log-SNR at which the error [levels] has fallen to half of what it is in pure noise: the task's scale.

    The lower it is, the more noise the masks bear: large objects do, small ones do not. The largest of it where the
    error never falls so far.
    """
    falling = np.minimum.accumulate(np.asarray(error, np.float64))
    below = np.flatnonzero(falling <= falling[0] / 2)
    if not len(below):
        return float(log_snr[-1])
    k = below[0]
    if k == 0:
        return float(log_snr[0])
    share = (falling[k - 1] - falling[0] / 2) / (falling[k - 1] - falling[k])
    return float(log_snr[k - 1] + share * (log_snr[k] - log_snr[k - 1]))


def rise(loss: np.ndarray) -> float:
    """How far a curve [levels], log-SNR rising, rises again as noise is added, as a share of its largest value.

    0 for a curve that only falls with noise, as that of image generation is said to; 1 where it starts at 0 and rises
    to its top.
    """
    noisier = np.asarray(loss, np.float64)[::-1]
    lowest = np.minimum.accumulate(noisier)
    return float((noisier - lowest).max() / max(noisier.max(), 1e-12))
