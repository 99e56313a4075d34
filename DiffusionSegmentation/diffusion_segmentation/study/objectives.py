"""The losses an arm can be trained with, and how the answer of each is read as class probabilities."""

from __future__ import annotations

import torch
from monai.losses import DiceLoss
from torch import nn

from ..diffusion.process import LOG_SNR_MIN, alpha_sigma, diffuse, one_hot_state
from ..networks import class_softmax, space_to_depth
from ..networks.blocks import voxels_per_cell
from ..training.loss import cross_entropy
from .architectures.interface import Architecture
from .stochastic import Stochastic
from .variants import Arm

_DICE = DiceLoss(include_background=False, softmax=True, to_onehot_y=True)


def direct_loss(network: nn.Module, arm: Arm, image: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
    """Of image [N, 1, ...] and masks [N, R, ...]: cross-entropy, with a Dice term, or the likelihood of an SSN."""
    target = space_to_depth(masks.flatten(0, 1)[:, None]).long()
    if isinstance(network, Stochastic):
        return network.loss(image, target.unflatten(0, masks.shape[:2]))
    logits = network.direct(image).repeat_interleave(masks.shape[1], 0)
    return _segmentation(logits, target, network.classes, arm.loss).mean()


def denoising_loss(
    network: Architecture, arm: Arm, image: torch.Tensor, masks: torch.Tensor, log_snr: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and its value for each draw [N, K]: image [N, 1, ...], masks [N, R, ...], log_snr [N, K], R | K.

    With a direct head, that head's cross-entropy is added to the loss (and not to the values).
    """
    draws, raters = log_snr.shape[1], masks.shape[1]
    target = space_to_depth(masks.flatten(0, 1)[:, None]).long()
    condition = network.encode(image)
    levels = log_snr.flatten()
    repeated = target.repeat_interleave(draws // raters, 0)
    x0 = one_hot_state(repeated, network.classes)
    noise = torch.randn_like(x0)
    x, seen = substituted(arm.state, diffuse(x0, noise, levels), x0.roll(draws, 0), levels)
    answer = network.denoise(x, seen, tuple(part.repeat_interleave(draws, 0) for part in condition))
    each = _answer_loss(answer, arm.loss, network.classes, repeated, x0, noise, levels)
    values = each.flatten(1).mean(1).view(log_snr.shape)
    loss, head = values.mean(), network.head(condition)
    if arm.loss == "dice":
        loss = loss + _dice(answer, repeated, network.classes)
    if head is not None:
        loss = loss + cross_entropy(head.repeat_interleave(raters, 0), target, network.classes).mean()
    return loss, values.detach()


def mask_loss(network: nn.Module, masks: torch.Tensor, classes: int, log_snr: torch.Tensor) -> torch.Tensor:
    """Cross-entropy [N, K] of masks [N, R, ...] from their noisy state alone, without an image."""
    draws, raters = log_snr.shape[1], masks.shape[1]
    target = space_to_depth(masks.flatten(0, 1)[:, None]).long().repeat_interleave(draws // raters, 0)
    levels, x0 = log_snr.flatten(), one_hot_state(target, classes)
    answer = network(diffuse(x0, torch.randn_like(x0), levels), levels)
    return cross_entropy(answer, target, classes).view(log_snr.shape)


def image_loss(network: nn.Module, image: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
    """Squared error [N, K] of the noise in standardised images [N, 1, ...]: image generation (Ho et al. 2020)."""
    levels = log_snr.flatten()
    x0 = space_to_depth(image).repeat_interleave(log_snr.shape[1], 0)
    noise = torch.randn_like(x0)
    answer = network(diffuse(x0, noise, levels), levels)
    return (answer - noise).square().flatten(1).mean(1).view(log_snr.shape)


def substituted(
    state: str, x: torch.Tensor, other: torch.Tensor, log_snr: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a network of question A2 gets for its noisy mask x [N, ...], and for its log-SNR [N].

    `other` is x0 of other cases, which "shuffled" makes the noisy mask of.
    """
    if state == "noise":
        return torch.randn_like(x), log_snr
    if state == "shuffled":
        return diffuse(other, torch.randn_like(x), log_snr), log_snr
    if state == "nothing":
        return torch.zeros_like(x), torch.full_like(log_snr, LOG_SNR_MIN)
    return x, log_snr


def probabilities(answer: torch.Tensor, loss: str, x: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
    """Class probabilities of x0 [N, cells * classes, ...] in the answer to the state x [N, ...] at log_snr [N].

    Answers that are no logits give x0 itself, which is clipped to its range; classes then need not add up to 1.
    """
    if loss in ("ce", "dice"):
        return class_softmax(answer)
    alpha, sigma = (a.view(-1, *(1,) * (x.ndim - 1)) for a in alpha_sigma(log_snr))
    x0 = {"mse": lambda: answer, "v": lambda: alpha * x - sigma * answer, "eps": lambda: (x - sigma * answer) / alpha}
    return ((x0[loss]() + 1) / 2).clamp(0, 1)


def normalised(p: torch.Tensor, classes: int) -> torch.Tensor:
    """The same with classes that add up to 1 in every voxel: as a map is shown."""
    by_class = p.unflatten(1, (classes, voxels_per_cell(p))).clamp_min(1e-6)
    return (by_class / by_class.sum(1, keepdim=True)).flatten(1, 2)


def _answer_loss(
    answer: torch.Tensor,
    loss: str,
    classes: int,
    target: torch.Tensor,
    x0: torch.Tensor,
    noise: torch.Tensor,
    log_snr: torch.Tensor,
) -> torch.Tensor:
    if loss in ("ce", "dice"):
        return cross_entropy(answer, target, classes)[:, None]
    alpha, sigma = (a.view(-1, *(1,) * (x0.ndim - 1)) for a in alpha_sigma(log_snr))
    wanted = {"mse": lambda: x0, "v": lambda: alpha * noise - sigma * x0, "eps": lambda: noise}
    return (answer - wanted[loss]()).square()


def _segmentation(logits: torch.Tensor, target: torch.Tensor, classes: int, loss: str) -> torch.Tensor:
    value = cross_entropy(logits, target, classes).mean()
    return value + _dice(logits, target, classes) if loss == "dice" else value


def _dice(logits: torch.Tensor, target: torch.Tensor, classes: int) -> torch.Tensor:
    by_class = logits.float().unflatten(1, (classes, -1)).flatten(2)
    return _DICE(by_class, target.flatten(1)[:, None])
