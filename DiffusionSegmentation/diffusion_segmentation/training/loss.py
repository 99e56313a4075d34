"""Training losses, and the loss curve over log-SNR from which the step grid is derived."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from monai.losses import DiceLoss
from torch.nn import functional

from ..diffusion.process import LOG_SNR_MAX, LOG_SNR_MIN, diffuse, one_hot_state
from ..images.label_file import IGNORED
from ..networks import CHANNELS_LAST, AnyEncoder, Denoiser, class_softmax, space_to_depth
from .known_voxels import RandomFacts

BINS = 24  # bins of log-SNR in which losses are recorded
_EDGES = np.linspace(LOG_SNR_MIN, LOG_SNR_MAX, BINS + 1)
_DICE = DiceLoss(include_background=False, softmax=True, to_onehot_y=True)


def losses(
    encoder: AnyEncoder,
    denoiser: Denoiser,
    image: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    log_snr: torch.Tensor,
    class_weights: Sequence[float] | None = None,
    dice_weight: float = 0.0,
    facts: RandomFacts | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cross-entropies in nats per voxel of the direct head [N] and the denoiser [N, K], and the minimised loss.

    image [N, 1, z, y, x], labels [N, R, z, y, x], or both without z; log_snr [N, K] with one noise field each: the K
    draws of an image share the encoder's cost. R divides K: masks of R raters, or R draws from a known posterior, each
    used for K / R draws. Voxels labelled IGNORED do not count; in the states their classes are drawn from the direct
    head. Plain cross-entropy, because its optimum is the true conditional; Dice terms and class weights move it.

    With `facts` a share of the draws is given some; their entries among the denoiser's cross-entropies are NaN.
    """
    features, direct = encoder(image)
    target = targets(labels)
    draws, raters = log_snr.shape[1], labels.shape[1]
    masks, expected = one_hot_state(target, classes), repeat_each(direct.detach(), raters)
    if torch.is_grad_enabled():
        denoiser.observe(expected, masks)
    if (unknown := target == IGNORED).any():  # noise alone would count as evidence
        p = class_softmax(expected.float()).unflatten(1, (classes, -1))
        drawn = (torch.rand_like(p[:, 0])[:, None] > p.cumsum(1)).sum(1).clamp(max=classes - 1)
        masks = one_hot_state(torch.where(unknown, drawn, target), classes)
    x0 = repeat_each(masks, draws // raters)
    noise = torch.randn(x0.shape, device=x0.device).contiguous(memory_format=CHANNELS_LAST[image.ndim - 2])
    x = diffuse(x0, noise, log_snr.flatten())
    # Detached: the direct head is trained by its own loss only, and is a fixed input of the denoiser, as in sampling.
    prepared = denoiser.prepare(features, direct)
    prior, drawn = repeat_each(direct.detach(), draws), repeat_each(target, draws // raters)
    prepared, of_draw = repeat_each(prepared, draws), x.new_ones(len(x))
    of_facts, given = x.new_zeros(()), torch.zeros(len(x), dtype=torch.bool, device=x.device)
    if facts is not None:
        given = facts.drawn(len(x)).to(x.device)
        known, of_draw[given] = facts.choose(drawn[given], prior[given], classes)
        image_of_draw = torch.arange(len(image), device=x.device).repeat_interleave(draws)
        prepared_given, logits = denoiser.prepare_given(features[image_of_draw[given]], prior[given], known)
        prepared, prior = prepared.clone(), prior.clone()
        prepared[given], prior[given] = prepared_given.to(prepared.dtype), logits.detach()
        of_facts = (of_draw[given] * cross_entropy(logits, drawn[given], classes)).mean()
    denoised = denoiser(x, log_snr.flatten(), prepared, prior)
    heads = [(repeat_each(direct, raters), target), (denoised, drawn)]
    of_direct, of_denoiser = (cross_entropy(*head, classes) for head in heads)
    loss = of_direct.mean() + (of_draw * of_denoiser).mean()
    if class_weights:
        weights = torch.tensor(class_weights, device=loss.device)
        weighted = [cross_entropy(*head, classes, weights) for head in heads]
        loss = weighted[0].mean() + (of_draw * weighted[1]).mean()
    if dice_weight:
        loss = loss + dice_weight * torch.stack([dice_loss(*head, classes) for head in heads]).sum()
    of_denoiser = of_denoiser.masked_fill(given, math.nan)
    return of_direct.view(len(image), -1).mean(1), of_denoiser.view(log_snr.shape), loss + of_facts


def targets(labels: torch.Tensor) -> torch.Tensor:
    """Masks [N, R, ...] as labels [N * R, 2^dims, ...] in space-to-depth layout."""
    return space_to_depth(labels.flatten(0, 1)[:, None]).long()


def repeat_each(x: torch.Tensor, draws: int) -> torch.Tensor:
    """[N, ...] -> [N * draws, ...], each entry `draws` times in a row; without a copy where N = 1."""
    return x.expand(draws, *x.shape[1:]) if len(x) == 1 else x.repeat_interleave(draws, 0)


def cross_entropy(
    logits: torch.Tensor, target: torch.Tensor, classes: int, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Mean over the voxels, [N], of logits [N, 8 * classes, z, y, x] against labels [N, 8, z, y, x].

    IGNORED voxels do not count; the mean over none is 0. `weights` [C] multiply the loss of their classes.
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
    encoder: AnyEncoder,
    denoiser: Denoiser,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    classes: int,
    device: torch.device,
    on_step: Callable[[int, int], None] = lambda done, of: None,
    lowest: float = LOG_SNR_MIN,
) -> dict[str, list[float]]:
    """The denoiser's cross-entropy (nats per voxel) at the centres of the bins of log-SNR above `lowest`.

    Measured on `batches` (image [N, 1, z, y, x], labels [N, 1, z, y, x]) after training. Every case is evaluated at
    every noise level: cases differ tenfold in difficulty, which would dominate a curve of the training's random draws.
    `on_step(done, of)` is called after each batch at each level.
    """
    centres = torch.from_numpy(bin_centres()).float()
    centres = centres[centres > lowest]
    rows, batches = [], list(batches)
    with torch.inference_mode():
        for number, (image, labels) in enumerate(batches):
            image, labels = image.to(device), labels.to(device)
            row = []  # one level at a time: a whole head at all levels would need gigabytes
            for level in (c.expand(len(image), 1).to(device) for c in centres):
                row.append(losses(encoder, denoiser, image, labels, classes, level)[1])
                on_step(number * len(centres) + len(row), len(batches) * len(centres))
            rows.append(torch.cat(row, 1).cpu().numpy())
    values = np.concatenate(rows).mean(0)
    return {"log_snr": [round(float(c), 4) for c in centres], "cross_entropy": [float(f"{v:.6g}") for v in values]}


def bin_centres() -> np.ndarray:
    """Log-SNR at the centres of the bins, [BINS]."""
    return (_EDGES[:-1] + _EDGES[1:]) / 2


def bin_numbers(log_snr: np.ndarray) -> np.ndarray:
    """Bin of each log-SNR, int [N]."""
    return np.digitize(log_snr, _EDGES[1:-1])
