"""Feeds damaged model folders to the loader: each must give a model or an error of one sentence within 5 s.

    python Testing/faults/fuzz_models.py --examples 100000 [--seed 0] [--keep FOLDER]

Hypothesis draws one to three faults of a small sound model: entries of its metadata changed, removed, nested, swapped
or made extreme; bytes of either file flipped, cut off or put in; the header of its weights rewritten; weights that are
no numbers; other kinds of files under its names. The checksum is made to fit again in most cases, or it would find
every fault of the weights. A child process with little memory loads them, so that a crash or a hang ends the child
only; it is counted and replaced by another child. An accepted model must give a step grid. The last line has the counts
of results; the exit status is 1 if loading crashed, hung or raised an unexpected exception. `--keep` keeps those.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
from fuzzing import ENGINE, LONGEST_SECONDS, Tally, limit_memory
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from model_faults import Writer, folders, write_sound

CHUNK = 5000
"""Inputs of one child process; the memory of Hypothesis grows with them."""


class _Counts(ctypes.Structure):
    """Counts of a child, in shared memory that outlives it; `began` is the start time of the current input, or 0."""

    _fields_ = [(name, ctypes.c_double) for name in ("accepted", "refused", "unexpected", "slowest", "began")]


def _answer(folder: Path) -> str:
    """Load a folder: "accepted", "refused", or the text of another exception."""
    from diffusion_segmentation.errors import ModelError
    from diffusion_segmentation.model.folder import load
    from diffusion_segmentation.networks import ScanSummary

    try:
        model = load(folder)
        steps = model.section["steps"]["cpu"]
        # From the log-SNR of a denoised start on only the later nodes are left.
        grid = model.with_start(None).step_grid(steps)
        with_start = model.step_grid(steps)
        if model.input_statistics is not None:
            distance = model.input_statistics.input_distance(
                ScanSummary.none(*model.input_statistics.class_means.shape)
            ).distance
            if not np.isfinite(distance):
                return f"a distance of {distance}"
        valid = len(grid) == steps and 1 <= len(with_start) <= steps + 1 and (np.diff(with_start) > 0).all()
        return "accepted" if valid else "a step grid of another length"
    except ModelError as error:
        sentence = str(error)
        plain = sentence.endswith(".") and sentence.isprintable() and str(folder) not in sentence
        return "refused" if plain and len(sentence) < 400 else f"no sentence: {sentence}"
    except BaseException as error:
        return f"{type(error).__name__}: {error}"[:100]


def _work(counts: _Counts, unexpected: Any, folder: Path, examples: int, seed: int, keep: Path | None) -> None:
    """In the child: damage and load `examples` times; unexpected results go into the queue `unexpected`."""
    limit_memory()
    sys.path.insert(0, str(ENGINE))
    import torch

    torch.set_num_threads(1)
    writer = Writer(folder)

    @seeded(seed)
    @settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(folders())
    def one(faults: dict[str, Any]) -> None:
        writer.write(faults)
        counts.began = time.time()
        answer = _answer(folder)
        counts.slowest = max(counts.slowest, time.time() - counts.began)
        counts.began = 0
        if answer in ("accepted", "refused"):
            setattr(counts, answer, getattr(counts, answer) + 1)
            return
        counts.unexpected += 1
        unexpected.put(answer)
        if keep:
            shutil.copytree(folder, keep / f"{seed}-{counts.unexpected:.0f}-{answer.partition(':')[0]}")

    one()


def fuzz(examples: int, seed: int = 0, keep: Path | None = None) -> Tally:
    """Load `examples` damaged folders; those that crash, hang or raise something else are copied into `keep`."""
    tally = Tally()
    context = multiprocessing.get_context("spawn")
    # In memory where there is such a folder: a disk is slower than the loader.
    with tempfile.TemporaryDirectory(prefix="fuzz-models-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as f:
        write_sound(Path(f) / "sound")
        while tally.inputs < examples:
            folder, counts, unexpected = Path(f) / "small", context.Value(_Counts, lock=False), context.Queue()
            shutil.copytree(Path(f) / "sound", folder)
            some = min(CHUNK, examples - tally.inputs)
            arguments = (counts, unexpected, folder, some, seed * 10**9 + tally.inputs, keep)
            child = context.Process(target=_work, args=arguments, daemon=True)
            child.start()
            hangs = False
            while child.exitcode is None and not hangs:
                child.join(0.2)
                began = counts.began  # read once: the child sets it to 0
                hangs = began > 0 and time.time() - began > LONGEST_SECONDS
            child.kill() if hangs else None
            child.join()
            tally.accepted += int(counts.accepted)
            tally.refused += int(counts.refused)
            tally.hangs += hangs
            tally.crashes += child.exitcode != 0 and not hangs
            tally.slowest = max(tally.slowest, counts.slowest, LONGEST_SECONDS if hangs else 0)
            for _ in range(int(counts.unexpected)):
                tally.count(unexpected.get(timeout=10))
            if keep and child.exitcode != 0:
                shutil.copytree(folder, keep / f"{tally.inputs}-{'hang' if hangs else 'crash'}")
            shutil.rmtree(folder)
    return tally


if __name__ == "__main__":
    sys.exit(fuzzing.main(fuzz, __doc__))
