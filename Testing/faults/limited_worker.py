"""The worker with little memory, as on a shared GPU: python limited_worker.py worker

Four samples are tried at a time; two fit at first, and after a while not even one window as large as the model wants.
What is finished is kept every 0.3 s instead of every 20 s, so that a short run has something to keep.
"""

from __future__ import annotations

import importlib
import math
from types import ModuleType, SimpleNamespace
from typing import Any

from diffusion_segmentation.worker import server as worker

CELLS = 14 * 14 * 12
"""Of the bench's volume on the working grid."""
CALM_PASSES = 60
INTERVAL_SECONDS = 0.3


def limited(name: str) -> ModuleType:
    """The engine, once it is imported, with the limit around its networks."""
    engine = importlib.import_module(name)
    import torch

    from diffusion_segmentation.networks import Denoiser
    from diffusion_segmentation.segmentation import memory_plan, partial_results

    memory_plan.max_group_size = lambda device: 4
    memory_plan.MIN_WINDOW_SHARE = 0.25
    partial_results.INTERVAL_SECONDS = INTERVAL_SECONDS
    forward, passes = Denoiser.forward, 0

    def guarded(network: Denoiser, x: torch.Tensor, *rest: Any) -> torch.Tensor:
        nonlocal passes
        passes += 1
        most = 2 * CELLS if passes < CALM_PASSES else CELLS / 2
        if len(x) * math.prod(x.shape[2:]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(network, x, *rest)

    Denoiser.forward = guarded
    return engine


if __name__ == "__main__":
    worker.importlib = SimpleNamespace(import_module=limited)
    worker.main()
