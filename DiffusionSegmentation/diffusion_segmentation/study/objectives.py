"""Training losses of the variants, and class probabilities from each kind of network output."""

from __future__ import annotations

import torch
from torch import nn

from ..diffusion.process import LOG_SNR_MIN, alpha_sigma, diffuse, one_hot_state
from ..networks import class_softmax, space_to_depth
from ..training.loss import cross_entropy, dice_loss, targets
from .architectures.interface import Architecture
from .noise import unit_noise
from .stochastic import Stochastic
from .variants import Variant


def direct_loss(
    network: Architecture | Stochastic, variant: Variant, image: torch.Tensor, masks: torch.Tensor
) -> torch.Tensor:
    """Cross-entropy, with a Dice term if asked for, or an SSN's likelihood; image [N, C, ...], masks [N, R, ...]."""
    target = targets(masks)
    if isinstance(network, Stochastic):
        return network.loss(image, target.unflatten(0, masks.shape[:2]))
    logits = network.direct(image).repeat_interleave(masks.shape[1], 0)
    loss = cross_entropy(logits, target, network.classes).mean()
    return loss + dice_loss(logits, target, network.classes) if variant.loss == "dice" else loss


def denoising_loss(
    network: Architecture, variant: Variant, image: torch.Tensor, masks: torch.Tensor, log_snr: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss, and its value per draw [N, K]: image [N, inputs, ...], masks [N, R, ...], log_snr [N, K], R divides K.

    The cross-entropy of a direct head is part of the loss but not of the values.
    """
    draws, raters = log_snr.shape[1], masks.shape[1]
    target = targets(masks)
    condition = network.encode(image)
    levels, of_raters = log_snr.flatten(), one_hot_state(target, network.classes)
    network.observe(condition, of_raters)
    repeated, x0 = (each.repeat_interleave(draws // raters, 0) for each in (target, of_raters))
    if variant.noise == "white":
        noise = torch.randn_like(x0)
    else:
        noise = unit_noise(variant.noise, x0.shape, network.classes).to(x0.device)
    x, level = network_input(variant.state, diffuse(x0, noise, levels), x0.roll(draws, 0), levels)
    output = network.denoise(x, level, tuple(part.repeat_interleave(draws, 0) for part in condition))
    if variant.loss in ("ce", "dice"):
        values = cross_entropy(output, repeated, network.classes).view(log_snr.shape)
    else:
        error = (output - _target(variant.loss, x0, noise, levels)).square()
        values = error.flatten(1).mean(1).view(log_snr.shape)
    loss, head = values.mean(), network.head(condition)
    if variant.loss == "dice":
        loss = loss + dice_loss(output, repeated, network.classes)
    if head is not None:
        loss = loss + cross_entropy(head.repeat_interleave(raters, 0), target, network.classes).mean()
    return loss, values.detach()


def mask_loss(network: nn.Module, masks: torch.Tensor, classes: int, log_snr: torch.Tensor) -> torch.Tensor:
    """Cross-entropy [N, K] of masks [N, R, ...] denoised without an image."""
    target = targets(masks).repeat_interleave(log_snr.shape[1] // masks.shape[1], 0)
    levels, x0 = log_snr.flatten(), one_hot_state(target, classes)
    output = network(diffuse(x0, torch.randn_like(x0), levels), levels)
    return cross_entropy(output, target, classes).view(log_snr.shape)


def image_loss(network: nn.Module, image: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
    """Squared error [N, K] of the noise in standardised images [N, inputs, ...], as for generation (Ho et al. 2020)."""
    levels = log_snr.flatten()
    x0 = space_to_depth(image).repeat_interleave(log_snr.shape[1], 0)
    noise = torch.randn_like(x0)
    output = network(diffuse(x0, noise, levels), levels)
    return (output - noise).square().flatten(1).mean(1).view(log_snr.shape)


def network_input(
    state: str, x: torch.Tensor, other: torch.Tensor, log_snr: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The state and log-SNR that a variant sees in place of its noisy mask x [N, ...] at log_snr [N] (question A2).

    `other` is x0 of other cases, which "shuffled" adds noise to.
    """
    if state == "noise":
        return torch.randn_like(x), log_snr
    if state == "shuffled":
        return diffuse(other, torch.randn_like(x), log_snr), log_snr
    if state == "nothing":
        return torch.zeros_like(x), torch.full_like(log_snr, LOG_SNR_MIN)
    return x, log_snr


def probabilities(output: torch.Tensor, loss: str, x: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
    """Class probabilities of x0 [N, cells * classes, ...] from the output at the state x [N, ...] and log_snr [N].

    x0 from outputs that are not logits is clipped to its range; the classes then need not sum to 1.
    """
    if loss in ("ce", "dice"):
        return class_softmax(output)
    if loss == "eps":
        alpha, sigma = (a.view(-1, *(1,) * (x.ndim - 1)) for a in alpha_sigma(log_snr))
        output = (x - sigma * output) / alpha
    elif loss == "v":
        output = diffuse(x, -output, log_snr)
    return ((output + 1) / 2).clamp(0, 1)


def _target(loss: str, x0: torch.Tensor, noise: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
    """What a network with a squared-error loss predicts: x0, v or the noise."""
    if loss == "v":
        return diffuse(noise, -x0, log_snr)
    return x0 if loss == "mse" else noise
