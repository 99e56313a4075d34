"""Plot of a training: losses over time, and the loss curve over noise levels with its step grid."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from .loss import bin_centres


def plot_training(path: Path, record: list[dict[str, Any]], curve: dict[str, list[float]], grid: np.ndarray) -> None:
    """Write a PNG: left the record of `Journal`, right the loss curve with the nodes of the step grid."""
    figure = Figure(figsize=(11, 4), layout="constrained")
    over_time, over_levels = figure.subplots(1, 2)
    iterations = [row["iteration"] for row in record]
    over_time.plot(iterations, [row["direct"] for row in record], label="direct head", color="tab:blue")
    rows = np.array([row["denoised"] for row in record], dtype=float).reshape(len(record), -1)
    if len(rows):
        means = [row[~np.isnan(row)].mean() if not np.isnan(row).all() else np.nan for row in rows]
        over_time.plot(iterations, means, label="denoiser, all noise levels", color="tab:orange")
    over_time.set(xlabel="iteration", ylabel="cross-entropy, nats per voxel", title="Training", yscale="log")
    if len(rows) and not np.isnan(rows[-1]).all():
        late = rows[-max(1, len(rows) // 10) :]
        known = ~np.isnan(late).all(0)
        levels, losses = bin_centres()[known], np.nanmean(late[:, known], 0)
        over_levels.plot(levels, losses, ".", color="tab:gray", label="end of training")
    over_levels.plot(curve["log_snr"], curve["cross_entropy"], color="tab:orange", label="unseen cases")
    for n, node in enumerate(grid):
        over_levels.axvline(node, color="tab:green", lw=0.8, label=f"{len(grid)} adapted steps" if n == 0 else None)
    over_levels.set(
        xlabel="log-SNR (noise to mask)", ylabel="cross-entropy, nats per voxel", title="Loss by noise level"
    )
    over_time.legend()
    over_levels.legend()
    figure.savefig(path, dpi=110)
