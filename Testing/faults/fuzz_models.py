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

import shutil
import sys
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
from fuzzing import ENGINE, Counts, Tally, in_children, limit_memory, temporary_folder
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as seeded
from model_faults import Writer, folders, write_sound


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


def _work(counts: Counts, unexpected: Any, folder: Path, examples: int, seed: int, keep: Path | None) -> None:
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
        counts.begin()
        answer = _answer(folder)
        if counts.add(answer):
            return
        unexpected.put(answer)
        if keep:
            shutil.copytree(folder, keep / f"{seed}-{counts.unexpected:.0f}-{answer.partition(':')[0]}")

    one()


def fuzz(examples: int, seed: int = 0, keep: Path | None = None) -> Tally:
    """Load `examples` damaged folders; those that crash, hang or raise something else are copied into `keep`."""
    with temporary_folder() as f:
        write_sound(Path(f) / "sound")
        return in_children(_work, Path(f) / "sound", examples, seed, keep)


if __name__ == "__main__":
    sys.exit(fuzzing.main(fuzz, __doc__))
