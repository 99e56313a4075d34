"""The forward process in log-SNR, and the step grid that a task asks for.

The state is x0 = 2 * onehot(label) - 1 over all classes, background included. Noise is variance preserving:

    x = alpha * x0 + sigma * eps,   alpha^2 = sigmoid(lambda),   sigma^2 = sigmoid(-lambda),

where lambda = ln(alpha^2 / sigma^2) is the log-SNR (Kingma et al., "Variational Diffusion Models", 2021, section 3).
Time *is* lambda here: it rises from LOG_SNR_MIN (nothing but noise) to LOG_SNR_MAX (the mask can be read off).
Whatever depends on lambda is computed in float32 or better.
"""

from __future__ import annotations

import math

import numpy as np
import torch

# Outside this range nothing is learnt: below -12 the state carries less than 1e-5 of the signal's power, above 8 the
# voxel's own value already names its class.
LOG_SNR_MIN = -12.0
LOG_SNR_MAX = 8.0


def alpha_sigma(log_snr: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Signal and noise amplitudes, each shaped as `log_snr`, in float32."""
    log_snr = log_snr.float()
    return torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()


def one_hot_state(labels: torch.Tensor, classes: int) -> torch.Tensor:
    """Labels [N, 8, z, y, x] (0..classes-1, space-to-depth form) as x0 [N, 8 * classes, z, y, x] in {-1, +1}.

    Alike in two dimensions, [N, 4, y, x] as [N, 4 * classes, y, x]. A label beyond the classes is unknown: 0
    throughout, so that the noisy state says nothing of it.
    """
    known = (labels < classes).movedim(1, -1)  # [N, z, y, x, 8]
    hot = torch.nn.functional.one_hot(labels.long().movedim(1, -1) * known, classes)  # [N, z, y, x, 8, classes]
    x0 = hot.float().mul_(2).sub_(1).mul_(known[..., None])
    return x0.transpose(-1, -2).flatten(-2).movedim(-1, 1)


def diffuse(x0: torch.Tensor, noise: torch.Tensor, log_snr: torch.Tensor) -> torch.Tensor:
    """x at `log_snr` [N] from x0 and unit noise, both of any shape [N, ...]."""
    alpha, sigma = (a.view(-1, *(1,) * (x0.ndim - 1)) for a in alpha_sigma(log_snr))
    return alpha * x0 + sigma * noise


def ddim_step(x: torch.Tensor, p: torch.Tensor, log_snr: float, next_log_snr: float) -> torch.Tensor:
    """One deterministic step (Song et al., "Denoising Diffusion Implicit Models", 2021, eq. 12 with eta = 0).

    `p` are the class probabilities of x0 that the network gives at `log_snr`; the noise that is carried on is the one
    that agrees with them, so a sample is a function of its start alone. `x` and `p` have the same shape.
    """
    (alpha, next_alpha), (sigma, next_sigma) = (
        a.tolist() for a in alpha_sigma(torch.tensor([log_snr, next_log_snr], dtype=torch.float64))
    )
    carried = next_sigma / sigma
    towards = next_alpha - carried * alpha
    return (carried * x).add_(p, alpha=2 * towards).sub_(towards)


def sample_log_snr(uniform: torch.Tensor, input_scale: float) -> torch.Tensor:
    """Log-SNR of training steps from uniforms in (0, 1): the cosine schedule, shifted by the input scale b.

    lambda(t) = -2 ln tan(pi t / 2) + 2 ln b (Hoogeboom et al., "Simple diffusion", 2023, eq. 4), clipped to the range.
    """
    t = uniform.double().clamp(1e-6, 1 - 1e-6)
    log_snr = -2 * torch.log(torch.tan(math.pi * t / 2)) + 2 * math.log(input_scale)
    return log_snr.clamp(LOG_SNR_MIN, LOG_SNR_MAX).float()


def linear_log_snr(uniform: torch.Tensor, input_scale: float) -> torch.Tensor:
    """As `sample_log_snr` for the linear schedule of image generation: beta from 0.1 to 20 in continuous time.

    alpha^2(t) = exp(-(0.1 t + 9.95 t^2)) (Song et al., "Score-based generative modeling through SDEs", 2021, eq. 32),
    which 1000 steps with beta from 1e-4 to 0.02 (Ho et al. 2020) come to.
    """
    t = uniform.double().clamp(1e-6, 1 - 1e-6)
    exponent = 0.1 * t + 9.95 * t.square()
    log_snr = -torch.log(torch.expm1(exponent)) + 2 * math.log(input_scale)
    return log_snr.clamp(LOG_SNR_MIN, LOG_SNR_MAX).float()


# Where the steps begin and end: so much of the loss has fallen. What is left at the last node, the final softmax says.
FALLEN = (0.03, 0.99)
# This share of the steps follows the loss, the rest is even in log-SNR.
FOLLOWING = 0.7


def adapted_grid(log_snr: np.ndarray, loss: np.ndarray, steps: int) -> np.ndarray:
    """The task-adapted step grid: `steps` log-SNR nodes, rising, close together where the task is decided.

    `log_snr` and `loss` [B] are the centres and values of the loss curve that training records, made non-increasing
    (what is read off a cleaner state can only be easier). The first node is LOG_SNR_MIN, where the state is pure noise;
    the second lies where the loss begins to fall, the last where hardly any is left (`FALLEN`). Between them most of a
    step is an equal share of the loss and the rest an equal share of the range (`FOLLOWING`): the solver is of second
    order and needs steps of like size, and a grid by the loss alone leaps over the beginning, where the spread is set,
    and stops where a tenth of the loss is left and a mask still mixes two answers.
    Cf. the time warping of Dieleman et al., "Continuous diffusion for categorical data", 2022, section 3.3.

    Raises ValueError when the curve is empty, not finite, or `steps` < 1.
    """
    log_snr, loss = np.asarray(log_snr, dtype=np.float64), np.asarray(loss, dtype=np.float64)
    if steps < 1 or log_snr.size < 2 or log_snr.shape != loss.shape or not np.isfinite(loss).all():
        raise ValueError("A step grid needs at least one step and a finite loss curve of two points or more.")
    falling = np.minimum.accumulate(loss)
    # A hair of slope keeps flat stretches invertible and places nodes evenly where the curve says nothing.
    falling = falling - np.linspace(0, 1e-6 * max(float(falling[0]), 1e-12), falling.size)
    fallen = (falling[0] - falling) / (falling[0] - falling[-1])
    begin, end = np.interp(FALLEN, fallen, log_snr)
    between = np.linspace(begin, end, 1001)
    share = np.interp(between, log_snr, fallen)
    share = FOLLOWING * (share - share[0]) / (share[-1] - share[0]) + (1 - FOLLOWING) * np.linspace(0, 1, 1001)
    wanted = np.linspace(0, 1, steps - 1) if steps != 2 else np.array([0.5])
    return np.concatenate([[LOG_SNR_MIN], np.interp(wanted, share, between)])
