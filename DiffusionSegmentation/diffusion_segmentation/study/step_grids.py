"""Step grids that the study compares."""

from __future__ import annotations

import numpy as np
import torch

from ..diffusion.process import LOG_SNR_MAX, LOG_SNR_MIN, adapted_grid, sample_log_snr

GRIDS = ("cosine", "uniform", "adapted", "fingerprint")


def step_grid(kind: str, steps: int, curve: tuple[np.ndarray, np.ndarray], input_scale: float = 1.0) -> np.ndarray:
    """Log-SNR nodes [steps], rising from LOG_SNR_MIN, of a kind in GRIDS.

    "cosine" is uniform in the time of the cosine schedule, as in most samplers; "uniform" is uniform in log-SNR;
    "adapted" and "fingerprint" follow a loss curve (log-SNR [B], loss [B]). No grid has a node at LOG_SNR_MAX.
    """
    if kind in ("adapted", "fingerprint"):
        return adapted_grid(*curve, steps)
    if kind == "uniform":
        return np.linspace(LOG_SNR_MIN, LOG_SNR_MAX, steps + 1)[:-1]
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64)[:-1]
    nodes = sample_log_snr(times, input_scale).double().numpy()
    nodes[0] = LOG_SNR_MIN
    return nodes
