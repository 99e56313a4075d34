"""Runs jobs in a pool of processes and prints their progress."""

from __future__ import annotations

import contextlib
import logging
import math
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from ..errors import DiffusionSegmentationError

logger = logging.getLogger(__name__)

PROGRESS_SECONDS = 30
GPU_BYTES, GPU_VOXEL_BYTES = 2**30, 12_000
"""GPU memory of a training: CUDA and the workspace of convolutions, and for each voxel of an image the activations of
`Pair` with their gradients, four times the 2.8 KB that its widest layers keep."""


def processes(device: str, voxels: int) -> int:
    """Number of processes: one per available CPU core, because small networks gain little from threads.

    On an NVIDIA GPU they share it, because one small network occupies little of it, as far as its free memory suffices
    for images of so many `voxels`.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if device == "cpu":
        return cores
    import torch

    free, _ = torch.cuda.mem_get_info(device)
    return max(1, min(cores, free // (GPU_BYTES + GPU_VOXEL_BYTES * voxels)))


@contextlib.contextmanager
def process_pool(count: int) -> Iterator[ProcessPoolExecutor]:
    """A pool of `count` processes, which start with the first jobs and are killed at the end, or at Ctrl+C.

    Raises DiffusionSegmentationError if a process dies.
    """
    before = multiprocessing.active_children()
    executor = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"), initializer=_initialise)
    try:
        yield executor
    except BrokenProcessPool:
        raise DiffusionSegmentationError(
            "A process of the study was killed, most likely because memory ran out; close other programs and run the "
            "same command again, which continues from what is finished."
        ) from None
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            if process not in before:
                process.kill()  # Lightning delays SIGTERM, and the process would go on to the next job
                process.join(5)


def run(
    executor: ProcessPoolExecutor,
    jobs: Sequence[tuple[float, Callable[..., Any], tuple[Any, ...]]],
    stage: str,
    label: str,
) -> Iterator[Any]:
    """Run jobs (weight, function, arguments); yields what they return, in any order, and raises what they raise.

    `stage` and `label` name the work in the progress lines, "training: 3 of 12 networks".
    """
    total, done, finished, started = sum(weight for weight, *_ in jobs), 0.0, 0, time.monotonic()
    printed = -math.inf
    waiting: dict[Future[Any], float] = {executor.submit(function, *args): weight for weight, function, args in jobs}
    while waiting:
        ended, _ = wait(waiting, timeout=PROGRESS_SECONDS, return_when=FIRST_COMPLETED)
        for future in ended:
            done, finished = done + waiting.pop(future), finished + 1
            yield future.result()
        now = time.monotonic() - started
        if (ended and finished == len(jobs)) or now - printed > PROGRESS_SECONDS:
            printed = now
            left = f", about {now * (total - done) / done / 60:.0f} min left" if 0 < done < total else ""
            logger.info(f"{stage}: {finished} of {len(jobs)} {label}{left}")


def _initialise() -> None:
    """Initialise a process of the pool: one thread; the parent handles Ctrl+C; it ends with its parent, if killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="parent", daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
