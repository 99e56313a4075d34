"""Forward diffusion process in log-SNR, DDIM step and task-adapted step grid.

The state is x0 = 2 * onehot(label) - 1 over all classes, background included. Noise is variance preserving:

    x = alpha * x0 + sigma * eps,   alpha^2 = sigmoid(lambda),   sigma^2 = sigmoid(-lambda),

where lambda = ln(alpha^2 / sigma^2) is the log-SNR (Kingma et al., "Variational Diffusion Models", 2021, section 3).
lambda takes the place of time: it rises from LOG_SNR_MIN (pure noise) to LOG_SNR_MAX (the mask is almost clean).
Everything that depends on lambda is computed in float32 or better.
"""

from __future__ import annotations

import math

import numpy as np
import torch

# Training outside this range is useless: below -12 the state carries less than 1e-5 of the signal's power, above 8 the
# class of a voxel follows from its own value.
LOG_SNR_MIN = -12.0
LOG_SNR_MAX = 8.0


def alpha_sigma(log_snr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Signal and noise amplitudes (alpha, sigma), float32, each of the shape of `log_snr`."""
    log_snr = log_snr.float()
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


def one_hot_state(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """x0 [N, 8 * classes, z, y, x] in {-1, +1} of labels [N, 8, z, y, x] (0..classes-1, space-to-depth form).

    In two dimensions labels are [N, 4, y, x] and x0 is [N, 4 * classes, y, x]. A label >= `classes` is unknown: its x0
    is 0 in all classes.
    """
    known = (labels < classes).movedim(1, -1)  # [N, z, y, x, 8]
    hot = torch.nn.functional.one_hot(labels.long().movedim(1, -1) * known, classes)  # [N, z, y, x, 8, classes]
    x0 = hot.float().mul_(2).sub_(1).mul_(known[..., None])
    return x0.transpose(-1, -2).flatten(-2).movedim(-1, 1)


def diffuse(x0: torch.Tensor, noise: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
    """State x at `log_snr` [N] from x0 and unit noise, both of shape [N, ...]."""
    alpha, sigma = (a.view(-1, *(1,) * (x0.ndim - 1)) for a in alpha_sigma(log_snr))
    return alpha * x0 + sigma * noise


def ddim_step(x: torch.Tensor, p: torch.Tensor, log_snr: float, next_log_snr: float) -> torch.Tensor:
    """One deterministic step (Song et al., "Denoising Diffusion Implicit Models", 2021, eq. 12 with eta = 0).

    `p` are the class probabilities of x0 at `log_snr`, of the shape of `x`. The noise is estimated from `x` and `p` and
    kept, so a sample depends on its initial state alone.
    """
    (alpha, next_alpha), (sigma, next_sigma) = (
        a.tolist() for a in alpha_sigma(torch.tensor([log_snr, next_log_snr], dtype=torch.float64))
    )
    noise_scale = next_sigma / sigma
    x0_scale = next_alpha - noise_scale * alpha
    return (noise_scale * x).add_(p, alpha=2 * x0_scale).sub_(x0_scale)  # x0 = 2 p - 1


def sample_log_snr(uniform: torch.Tensor, input_scale: float) -> torch.Tensor:
    """Training log-SNR from uniforms in (0, 1): cosine schedule, shifted by the input scale b.

    lambda(t) = -2 ln tan(pi t / 2) + 2 ln b (Hoogeboom et al., "Simple diffusion", 2023, eq. 4), clipped to the range.
    """
    t = uniform.double().clamp(1e-6, 1 - 1e-6)
    log_snr = -2 * torch.log(torch.tan(math.pi * t / 2)) + 2 * math.log(input_scale)
    return log_snr.clamp(LOG_SNR_MIN, LOG_SNR_MAX).float()


def linear_log_snr(uniform: torch.Tensor, input_scale: float) -> torch.Tensor:
    """As `sample_log_snr`, for the linear schedule of image generation: beta from 0.1 to 20 in continuous time.

    alpha^2(t) = exp(-(0.1 t + 9.95 t^2)) (Song et al., "Score-based generative modeling through SDEs", 2021, eq. 32),
    the continuous limit of 1000 steps with beta from 1e-4 to 0.02 (Ho et al., 2020).
    """
    t = uniform.double().clamp(1e-6, 1 - 1e-6)
    exponent = 0.1 * t + 9.95 * t.square()
    log_snr = -torch.log(torch.expm1(exponent)) + 2 * math.log(input_scale)
    return log_snr.clamp(LOG_SNR_MIN, LOG_SNR_MAX).float()


LOSS_DROP_RANGE = (0.03, 0.99)  # fraction of the total loss drop at the second and at the last node of a step grid
LOSS_WEIGHT = 0.7  # weight of the loss in the node density; the rest is uniform in log-SNR


def adapted_grid(log_snr: np.ndarray, loss: np.ndarray, steps: int) -> np.ndarray:
    """Task-adapted step grid: `steps` rising log-SNR nodes, dense where the loss falls.

    `log_snr` and `loss` [B] are bin centres and values of the training loss curve, made non-increasing here. The first
    node is LOG_SNR_MIN (pure noise); the second and the last lie where the loss has dropped by `LOSS_DROP_RANGE`.
    Between them each step covers an equal share of a mixture of the loss drop (weight `LOSS_WEIGHT`) and the log-SNR
    range: a second-order solver needs steps of similar size, and a grid by the loss alone skips the low log-SNR, where
    the spread of the samples is decided, and ends with a tenth of the loss left.
    Cf. the time warping of Dieleman et al., "Continuous diffusion for categorical data", 2022, section 3.3.

    Raises ValueError if the curve has less than two points or is not finite, or if `steps` < 1.
    """
    log_snr, loss = np.asarray(log_snr, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    if steps < 1 or log_snr.size < 2 or log_snr.shape != loss.shape or not np.isfinite(loss).all():
        raise ValueError("A step grid needs at least one step and a finite loss curve of two points or more.")
    loss = np.minimum.accumulate(loss)
    # A slight slope makes flat parts invertible, with evenly spaced nodes.
    loss = loss - np.linspace(0, 1e-6 * max(float(loss[0]), 1e-12), loss.size)
    drop = (loss[0] - loss) / (loss[0] - loss[-1])
    second, last = np.interp(LOSS_DROP_RANGE, drop, log_snr)
    fine = np.linspace(second, last, 1001)
    share = np.interp(fine, log_snr, drop)
    share = LOSS_WEIGHT * (share - share[0]) / (share[-1] - share[0]) + (1 - LOSS_WEIGHT) * np.linspace(0, 1, 1001)
    targets = np.linspace(0, 1, steps - 1) if steps != 2 else np.array([0.5])
    return np.concatenate([[LOG_SNR_MIN], np.interp(targets, share, fine)])
