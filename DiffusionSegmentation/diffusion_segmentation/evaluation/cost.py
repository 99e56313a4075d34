"""Cost of an evaluation: network passes, seconds, memory, and the machine."""

from __future__ import annotations

import contextlib
import os
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .known_answer.samplers import DIRECT


def quantiles(seconds: Sequence[float]) -> dict[str, float]:
    """Median and 95 % quantile of the seconds of the cases, without the first, which includes warming up."""
    p50, p95 = np.quantile(seconds[1:] or seconds, [0.5, 0.95])
    return {"p50": float(p50), "p95": float(p95)}


def row_costs(
    records: Sequence[Mapping[str, Any]], passes: Mapping[str, tuple[int, int]]
) -> dict[str, dict[str, float | int | None]]:
    """Cost of each row that runs the model: passes and seconds per case, and rho, the ratio to a direct pass."""
    times = {key: quantiles([record["rows"][key]["seconds"] for record in records]) for key in passes}
    direct = times[DIRECT]["p50"]
    return {
        key: {
            "encoder_passes": passes[key][0],
            "denoiser_passes": passes[key][1],
            **seconds,
            "rho": seconds["p50"] / direct if direct > 0 else None,
        }
        for key, seconds in times.items()
    }


def folder_costs(records: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Cost of a folder's cases: passes (median), seconds, rho, and the largest peak of memory in bytes."""
    costs = [record["cost"] for record in records]
    network, direct = (np.median([cost[key] for cost in costs]) for key in ("network_seconds", "direct_seconds"))
    return {
        **{key: int(np.median([cost[key] for cost in costs])) for key in ("encoder_passes", "denoiser_passes")},
        **quantiles([cost["seconds"] for cost in costs]),
        "rho": float(network / direct) if direct > 0 else None,
        "memory_bytes": largest([cost["memory_bytes"] for cost in costs]),
    }


def largest(memory: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The largest of several peaks of each kind of memory, bytes."""
    return {key: max(peak.get(key, 0) for peak in memory) for key in dict.fromkeys(k for peak in memory for k in peak)}


def peak_memory() -> dict[str, int]:
    """Peak memory (bytes) of this process and of a GPU in use so far; without the process on Windows."""
    peak = {}
    with contextlib.suppress(ImportError):
        import resource

        unit = 1 if platform.system() == "Darwin" else 1024
        peak["process_peak"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    if torch.cuda.is_initialized():
        peak["gpu_peak"] = max(torch.cuda.max_memory_allocated(n) for n in range(torch.cuda.device_count()))
    return peak


def machine(device: torch.device) -> str:
    """Short description of the machine."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {platform.system()}"
    return f"CPU {platform.machine()}, {torch.get_num_threads()} threads of {os.cpu_count()}, {platform.system()}"
