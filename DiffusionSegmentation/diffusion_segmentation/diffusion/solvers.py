"""Solvers of the reverse process: from a noisy state to class probabilities of x0.

Each takes `denoise(x, node)`, which gives class probabilities of x0; the state x at the first node; `first`, the
probabilities at the first node if they are known without a pass of the network, else None; and the log-SNR nodes,
rising. Each returns the probabilities at the last node, shaped as x.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from .process import alpha_sigma, ddim_step

Denoise = Callable[[torch.Tensor, float], torch.Tensor]
Solver = Callable[[Denoise, torch.Tensor, torch.Tensor | None, np.ndarray], torch.Tensor]


def dpm_solver_2m(
    denoise: Denoise,
    x: torch.Tensor,
    first: torch.Tensor | None,
    log_snr: np.ndarray,
    on_step: Callable[[int], None] = lambda step: None,
    second_order: bool = True,
) -> torch.Tensor:
    """DPM-Solver++(2M) (Lu et al., "DPM-Solver++", 2022, algorithm 2), deterministic and of second order.

    x0 is extrapolated linearly from the previous node. It takes as many passes as DDIM, and large steps lose less of
    the spread: where the exact posterior is known, 12 nodes leave less than 0.6 of DDIM's error (test_sampler.py).

    In pure noise the state carries no information, so `first` is the output of the direct head, which saves one pass.
    From a correlated start it is None. `on_step` is called with the number of steps done. Without `second_order` x0 is
    not extrapolated.
    """
    before = None
    for k, node in enumerate(log_snr):
        p = first if k == 0 and first is not None else denoise(x, float(node))
        if k + 1 < len(log_snr):
            ahead = p
            if second_order and before is not None:
                stride = (log_snr[k + 1] - node) / (node - log_snr[k - 1])
                ahead = torch.lerp(before, p, 1 + float(stride) / 2)
            x = ddim_step(x, ahead, float(node), float(log_snr[k + 1]))
            before = p
        on_step(k + 1)
    return p


def ddim(denoise: Denoise, x: torch.Tensor, first: torch.Tensor | None, log_snr: np.ndarray) -> torch.Tensor:
    """First-order deterministic steps (Song et al. 2021, eq. 12 with eta = 0)."""
    return dpm_solver_2m(denoise, x, first, log_snr, second_order=False)


def ancestral(denoise: Denoise, x: torch.Tensor, first: torch.Tensor | None, log_snr: np.ndarray) -> torch.Tensor:
    """Samples each state from q(x_s | x_t, x0) (Ho et al. 2020, eq. 7; in log-SNR Kingma et al. 2021, eq. 25).

    Adds noise from torch's global generator at every step, with the smaller of the two variances in common use.
    """
    for k, node in enumerate(log_snr):
        p = first if k == 0 and first is not None else denoise(x, float(node))
        if k + 1 < len(log_snr):
            ends = torch.tensor([node, log_snr[k + 1]], dtype=torch.float64)
            (alpha, next_alpha), (_, next_sigma) = (a.tolist() for a in alpha_sigma(ends))
            removed = float(-torch.expm1(ends[0] - ends[1]))  # 1 - exp(lambda_t - lambda_s)
            x = next_alpha / alpha * (1 - removed) * x + next_alpha * removed * (2 * p - 1)
            x = x + next_sigma * removed**0.5 * torch.randn_like(x)
    return p
