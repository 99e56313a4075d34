"""What result files and report state about the model that drew the samples."""

from __future__ import annotations

import math
import sys
from functools import partial
from typing import Any

import numpy as np
import torch

from ..model.folder import Model
from ..networks import InputDistance, InputStatistics
from .ensemble import Ensemble
from .outputs import ResultSource
from .own_cases import OwnCases


def model_source(
    model: Model,
    device: torch.device,
    settings: dict[str, Any],
    direct: np.ndarray,
    spacing_mm: tuple[float, float, float],
    input_distance: InputDistance | None,
    voxel_distances: np.ndarray | None,
) -> ResultSource:
    """Source of samples of `model`.

    Args:
        settings: entries of the report on how samples were drawn: seed, steps, requested_samples, denoiser_passes (for
            each sample and window), and facts of an update.
        direct: class probabilities of the direct head, float32 [C, z, y, x] on the working grid.
        spacing_mm: voxel size [z, y, x] of the working grid.
        input_distance: distance of the input from the scans that the model was made for; None without statistics.
        voxel_distances: the same for each voxel, float32 [z, y, x] on the working grid.
    """
    statistics, region_distances = model.input_statistics, None
    if statistics is not None and voxel_distances is not None and statistics.compares_regions:
        region_distances = partial(_region_distances, statistics, voxel_distances)
    return ResultSource(
        model.labels,
        spacing_mm,
        partial(_report, model, device, settings, direct, input_distance),
        input_distance,
        region_distances,
        model_spacing_mm=model.spacing,  # of pictures, whose working grid has the slices of the input
        own_cases=OwnCases.of(model.section),
    )


def _report(
    model: Model,
    device: torch.device,
    settings: dict[str, Any],
    direct: np.ndarray,
    distance: InputDistance | None,
    ensemble: Ensemble,
) -> dict[str, Any]:
    section, start = model.section, model.start
    own_cases = OwnCases.of(section)
    return {
        "model": {
            **{key: section[key] for key in ("name", "title")},
            "version": model.metadata["version"],
            "sha256": section["sha256"],
            **({"frozen": _frozen(section["frozen"])} if "frozen" in section else {}),
            **{key: model.metadata.get(key, "") for key in ("description", "intended_use")},
            "card": section.get("card", {}),
        },
        "map_source": ensemble.map_source,
        "map_prior": None if math.isinf(ensemble.prior) else ensemble.prior,
        "start": {
            "kind": "noise" if start is None else "copula",
            "log_snr": start and start.log_snr,
        },
        **settings,
        **own_cases.report(model.names, len(ensemble), settings["steps"], distance, "facts" in settings),
        "device": device.type if device.type == "cpu" else str(device),
        "direct_difference": round(_mean_total_variation(direct, ensemble.mean), 5),
        "memory_bytes": peak_memory(device),
    }


def _frozen(frozen: dict[str, Any]) -> dict[str, Any]:
    """The frozen model that is the direct head, and the temperatures of its logits, and of those of single folds."""
    used = frozen.get("mean_temperature", frozen["temperature"])
    of_folds = {"fold_temperature": frozen["temperature"]} if "mean_temperature" in frozen else {}
    return {"name": frozen["name"], "sha256": frozen["sha256"], "temperature": used, **of_folds}


def _region_distances(
    statistics: InputStatistics, voxel_distances: np.ndarray, regions: np.ndarray, error: np.ndarray
) -> tuple[np.ndarray, float]:
    sums, weights = (np.bincount(regions.ravel(), values.ravel())[1:] for values in (error * voxel_distances, error))
    return statistics.region_distances(sums / np.maximum(weights, 1e-9)), float(statistics.region[2])


def peak_memory(device: torch.device) -> dict[str, int]:
    """Peak memory in bytes of this process (not on Windows) and of the GPU, if `device` is one."""
    peak = {}
    if sys.platform != "win32":
        import resource

        unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
        peak["process_peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if device.type == "cuda":
        peak["gpu_peak"] = torch.cuda.max_memory_allocated(device)
    return peak


def _mean_total_variation(a: np.ndarray, b: np.ndarray) -> float:
    """Mean total variation between probability maps [C, z, y, x] over the voxels where one has > 5 % foreground."""
    foreground = np.minimum(a[0], b[0]) < 0.95
    return float(0.5 * np.abs(a - b).sum(0)[foreground].mean()) if foreground.any() else 0.0
