"""The training loss, and the loss curve over log-SNR that the step grid is derived from."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from monai.losses import DiceLoss
from torch.nn import functional

from ..diffusion.process import LOG_SNR_MAX, LOG_SNR_MIN, diffuse, one_hot_state
from ..images.label_file import IGNORED
from ..networks import CHANNELS_LAST, Denoiser, Encoder, space_to_depth

BINS = 24
_DICE = DiceLoss(include_background=False, softmax=True, to_onehot_y=True)


def losses(
    encoder: Encoder, denoiser: Denoiser, image: torch.Tensor, labels: torch.Tensor, classes: int, log_snr: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropies in nats a voxel: of the direct head for each image [N], and of the denoiser for each draw [N, K].

    image [N, 1, z, y, x], labels [N, R, z, y, x], or both without z; log_snr [N, K], one noise field each: the K draws
    of an image share the encoder's cost. R is 1, or divides K: several raters' masks, or several draws from a known
    posterior, each used for K / R draws. Voxels whose label is IGNORED do not count. Plain cross-entropy, because its
    optimum is the true conditional; Dice terms and class weights move it.
    """
    direct, denoised, target = predictions(encoder, denoiser, image, labels, classes, log_snr)
    draws, raters = log_snr.shape[1], labels.shape[1]
    return (
        cross_entropy(repeat_each(direct, raters), target, classes).view(len(image), raters).mean(1),
        cross_entropy(denoised, repeat_each(target, draws // raters), classes).view(log_snr.shape),
    )


def predictions(
    encoder: Encoder, denoiser: Denoiser, image: torch.Tensor, labels: torch.Tensor, classes: int, log_snr: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of the direct head [N, 8C, ...] and of the denoiser [N * K, 8C, ...], and the labels [N * R, 8, ...].

    Arguments as for `losses`; everything in space-to-depth form.
    """
    features, direct = encoder(image)
    target = targets(labels)
    draws, raters = log_snr.shape[1], labels.shape[1]
    x0 = repeat_each(one_hot_state(target, classes), draws // raters)
    noise = torch.randn(x0.shape, device=x0.device).contiguous(memory_format=CHANNELS_LAST[image.ndim - 2])
    x = diffuse(x0, noise, log_snr.flatten())
    # The head is trained by its own loss only; the denoiser takes it as given, as it will when sampling.
    prepared = denoiser.prepare(features, direct)
    denoised = denoiser(x, log_snr.flatten(), repeat_each(prepared, draws), repeat_each(direct.detach(), draws))
    return direct, denoised, target


def targets(labels: torch.Tensor) -> torch.Tensor:
    """Masks [N, R, ...] as labels [N * R, 2^dims, ...] in space-to-depth form."""
    return space_to_depth(labels.flatten(0, 1)[:, None]).long()


def repeat_each(x: torch.Tensor, draws: int) -> torch.Tensor:
    """[N, ...] -> [N * draws, ...], each entry `draws` times in a row; without a copy where N = 1."""
    return x.expand(draws, *x.shape[1:]) if len(x) == 1 else x.repeat_interleave(draws, 0)


def cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, classes: int, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over the voxels, [N], of logits [N, 8 * classes, z, y, x] against labels [N, 8, z, y, x].

    IGNORED voxels do not count; where no other is left the mean is 0. `weights` [C] multiply the loss of their classes.
    """
    by_class = logits.float().unflatten(1, (classes, -1))
    loss = functional.cross_entropy(by_class, target, reduction="none", ignore_index=IGNORED).flatten(1)
    counted = (target != IGNORED).flatten(1)
    if weights is not None:
        loss = loss * weights[target.flatten(1) * counted]
    return loss.sum(1) / counted.sum(1).clamp(min=1)


def dice_loss(logits: torch.Tensor, target: torch.Tensor, classes: int) -> torch.Tensor:
    """Mean soft Dice loss of the foreground classes, arguments as for `cross_entropy`.

    IGNORED voxels count as background in both.
    """
    by_class = logits.float().unflatten(1, (classes, -1)).flatten(2)
    ignored = (target == IGNORED).flatten(1)
    background = torch.full_like(by_class, -50.0)
    background[:, 0] = 50.0
    by_class = torch.where(ignored[:, None], background, by_class)
    return _DICE(by_class, torch.where(ignored, 0, target.flatten(1))[:, None])


def loss_curve(
    encoder: Encoder,
    denoiser: Denoiser,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    classes: int,
    device: torch.device,
    on_step: Callable[[int, int], None] = lambda done, of: None,
    lowest: float = LOG_SNR_MIN,
) -> dict[str, list[float]]:
    """The task's fingerprint: the denoiser's cross-entropy (nats a voxel) at the centres of 24 bins of log-SNR.

    Bins below `lowest`, for which the denoiser was not trained, are left out.

    Measured on `batches` (image [N, 1, z, y, x], labels [N, z, y, x]) after training. Every case is seen at every noise
    level: heads differ tenfold in difficulty, and a curve of whatever was drawn during training shows that more than
    the task. `on_step(done, of)` is called after each batch at each level.
    """
    centres = torch.from_numpy(bin_centres()).float()
    centres = centres[centres > lowest]
    rows, batches = [], list(batches)
    with torch.inference_mode():
        for number, (image, labels) in enumerate(batches):
            image, labels = image.to(device), labels.to(device)
            # One level at a time: a whole head at all levels would need gigabytes.
            row = []
            for level in (c.expand(len(image), 1).to(device) for c in centres):
                row.append(losses(encoder, denoiser, image, labels, classes, level)[1])
                on_step(number * len(centres) + len(row), len(batches) * len(centres))
            rows.append(torch.cat(row, 1).cpu().numpy())
    values = np.concatenate(rows).mean(0)
    return {
        "log_snr": [round(float(c), 4) for c in centres],
        "cross_entropy": [float(f"{v:.6g}") for v in values],
    }


def bin_centres() -> np.ndarray:
    """Centres of the 24 bins of log-SNR in which losses are kept."""
    edges = np.linspace(LOG_SNR_MIN, LOG_SNR_MAX, BINS + 1)
    return (edges[:-1] + edges[1:]) / 2


def bin_numbers(log_snr: np.ndarray) -> np.ndarray:
    """The bin of each log-SNR, int [N]."""
    return np.digitize(log_snr, np.linspace(LOG_SNR_MIN, LOG_SNR_MAX, BINS + 1)[1:-1])
