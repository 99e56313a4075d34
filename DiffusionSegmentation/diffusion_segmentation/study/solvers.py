"""Ways from noise to a mask, for comparison: the product's own is `sampler.solve`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from ..diffusion.process import LOG_SNR_MAX, LOG_SNR_MIN, adapted_grid, alpha_sigma, ddim_step, sample_log_snr
from ..segmentation.sampler import solve

Denoise = Callable[[torch.Tensor, float], torch.Tensor]
Solver = Callable[[Denoise, torch.Tensor, torch.Tensor, np.ndarray], torch.Tensor]
GRIDS = ("cosine", "uniform", "adapted", "fingerprint")


def ddim(denoise: Denoise, x: torch.Tensor, first: torch.Tensor, log_snr: np.ndarray) -> torch.Tensor:
    """First-order deterministic steps (Song et al. 2021, eq. 12 with eta = 0); arguments as for `sampler.solve`."""
    for k, node in enumerate(log_snr):
        p = denoise(x, float(node)) if k else first
        if k + 1 < len(log_snr):
            x = ddim_step(x, p, float(node), float(log_snr[k + 1]))
    return p


def ancestral(denoise: Denoise, x: torch.Tensor, first: torch.Tensor, log_snr: np.ndarray) -> torch.Tensor:
    """Draws each state from q(x_s | x_t, x0) (Ho et al. 2020, eq. 7; in log-SNR Kingma et al. 2021, eq. 25).

    Fresh noise at every step, with the smaller of the two variances that are in use. The noise comes from torch's own
    generator.
    """
    for k, node in enumerate(log_snr):
        p = denoise(x, float(node)) if k else first
        if k + 1 < len(log_snr):
            ends = torch.tensor([node, log_snr[k + 1]], dtype=torch.float64)
            (alpha, next_alpha), (_, next_sigma) = (a.tolist() for a in alpha_sigma(ends))
            gone = float(-torch.expm1(ends[0] - ends[1]))  # 1 - exp(lambda_t - lambda_s)
            x = next_alpha / alpha * (1 - gone) * x + next_alpha * gone * (2 * p - 1)
            x = x + next_sigma * gone**0.5 * torch.randn_like(x)
    return p


SOLVERS: dict[str, Solver] = {"second order": solve, "DDIM": ddim, "ancestral": ancestral}


def step_grid(kind: str, steps: int, curve: tuple[np.ndarray, np.ndarray], input_scale: float = 1.0) -> np.ndarray:
    """Log-SNR nodes [steps], rising from LOG_SNR_MIN, of a kind in GRIDS.

    "cosine": even in the time of the cosine schedule, as most samplers have it; "uniform": even in log-SNR; "adapted"
    and "fingerprint" follow a loss curve (log-SNR [B], loss [B]). All leave the last share to the final softmax.
    """
    if kind in ("adapted", "fingerprint"):
        return adapted_grid(*curve, steps)
    if kind == "uniform":
        return np.linspace(LOG_SNR_MIN, LOG_SNR_MAX, steps + 1)[:-1]
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]
    nodes = sample_log_snr(times, input_scale).double().numpy()
    nodes[0] = LOG_SNR_MIN
    return nodes
