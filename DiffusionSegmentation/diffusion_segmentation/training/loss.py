"""The training loss, and the loss curve over log-SNR that the step grid is derived from."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch.nn import functional

from ..networks import Denoiser, Encoder, space_to_depth
from ..process import LOG_SNR_MAX, LOG_SNR_MIN, diffuse, one_hot_state, sample_log_snr

BINS = 24


def losses(
    encoder: Encoder, denoiser: Denoiser, image: torch.Tensor, labels: torch.Tensor, classes: int, log_snr: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropies in nats a voxel: of the direct head (a scalar), and of the denoiser for each draw [N].

    image [1, 1, z, y, x], labels [1, z, y, x]; log_snr [N], one noise field each: N draws share the encoder's cost.
    Plain cross-entropy, because its optimum is the true conditional; Dice terms and class weights move it.
    """
    features, direct = encoder(image)
    target = space_to_depth(labels[:, None]).long()
    x0 = one_hot_state(target, classes).expand(len(log_snr), -1, -1, -1, -1)
    noise = torch.randn(x0.shape, device=x0.device).contiguous(memory_format=torch.channels_last_3d)
    x = diffuse(x0, noise, log_snr)
    # The head is trained by its own loss only; the denoiser takes it as given, as it will when sampling.
    logits = denoiser(x, log_snr, denoiser.prepare(features), direct.detach())
    denoised = _cross_entropy(logits, target.expand(len(log_snr), -1, -1, -1, -1), classes)
    return _cross_entropy(direct, target, classes).mean(), denoised.flatten(1).mean(1)


def _cross_entropy(logits: torch.Tensor, target: torch.Tensor, classes: int) -> torch.Tensor:
    """Logits [N, 8 * classes, z, y, x] against labels [N, 8, z, y, x], a voxel at a time."""
    by_class = logits.float().unflatten(1, (classes, 8))
    return functional.cross_entropy(by_class, target, reduction="none")


def draw_log_snr(count: int, input_scale: float, rng: np.random.Generator) -> torch.Tensor:
    """Stratified log-SNR [count]: 70 % from the shifted cosine schedule, 30 % uniform, so that no range goes unseen."""
    uniform = torch.from_numpy((np.arange(count) + rng.random(count)) / count)
    cosine = sample_log_snr(uniform, input_scale)
    flat = torch.from_numpy(rng.uniform(LOG_SNR_MIN, LOG_SNR_MAX, count)).float()
    return torch.where(torch.from_numpy(rng.random(count) < 0.3), flat, cosine)


def loss_curve(
    encoder: Encoder,
    denoiser: Denoiser,
    heads: Iterable[tuple[torch.Tensor, torch.Tensor]],
    classes: int,
    device: torch.device,
) -> dict[str, list[float]]:
    """The task's fingerprint: the denoiser's cross-entropy (nats a voxel) at the centres of 24 bins of log-SNR.

    Measured on `heads` (image [1, z, y, x], labels [z, y, x]) after training. Every head is seen at every noise level:
    heads differ tenfold in difficulty, and a curve of whatever was drawn during training shows that more than the task.
    """
    edges = np.linspace(LOG_SNR_MIN, LOG_SNR_MAX, BINS + 1)
    centres = torch.from_numpy((edges[:-1] + edges[1:]) / 2).float()
    rows = []
    with torch.inference_mode():
        for image, labels in heads:
            image, labels = image[None].to(device), labels[None].to(device)
            # One level at a time: a whole head at all levels would need gigabytes.
            row = [losses(encoder, denoiser, image, labels, classes, c.view(1).to(device))[1] for c in centres]
            rows.append(torch.cat(row).cpu().numpy())
    values = np.mean(rows, axis=0)
    return {
        "log_snr": [round(float(c), 4) for c in centres],
        "cross_entropy": [float(f"{v:.6g}") for v in values],
    }
