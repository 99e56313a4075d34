"""What a model knows of the scans that it was made for, from images that its training has not seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from ..errors import ModelError
from ..networks import Encoder, InputStatistics, ScanSummary, class_softmax
from ..networks.blocks import neighbours
from ..networks.pooled import POOL
from ..runtime.floating_point import flush_denormals
from ..segmentation.tiling import Tiling
from .sources import Source

SCANS = {2: 200, 3: 64}
"""How many are looked at, by the number of axes; half as many more in three would take minutes on a CPU."""
REGION_SCANS = 16
"""So many of them are looked at again for what is usual in uncertain regions."""
REGION_CELLS = 4
"""Edge of the cubes that stand for regions."""
LEAST_ERROR = 0.05
"""Mean chance of an error of a cube's voxels from which it counts as uncertain."""


def fit_input_statistics(
    encoder: Encoder,
    section: dict[str, Any],
    source: Source,
    seed: int,
    on_scan: Callable[[int, int], None] = lambda done, of: None,
) -> InputStatistics | None:
    """What the scans of `source` have in common as `encoder` sees them; None of too few scans.

    `section` is the model's, to which `source` was configured. `on_scan(done, of)` is called after each scan. Raises
    ModelError where what `encoder` sees are no numbers to compare with.
    """
    count = SCANS[section["network"].get("dims", 3)]
    scans = []
    for image in source.scans(count, seed):
        scans.append(summarised(encoder, image, section))
        on_scan(len(scans), count)
    input_statistics = InputStatistics.fit(scans)
    if input_statistics is not None:
        again = source.scans(min(count, REGION_SCANS), seed)  # whole scans are too large to be kept
        found = [cube_distances(encoder, image, section, input_statistics) for image in again]
        input_statistics.fit_regions(np.concatenate(found))
        if not input_statistics.sound:
            raise ModelError("The model's features of these scans are no numbers to compare with; train it anew.")
    return input_statistics


def summarised(encoder: Encoder, image: np.ndarray, section: dict[str, Any]) -> ScanSummary:
    """What is compared of `image` float32 [*shape], normalised; in the windows in which a run would see it."""
    summary = ScanSummary.none(len(section["labels"]) + 1, section["network"]["encoder"]["channels"][0])
    for seen, p, share in _windows(encoder, image, section):
        summary.add(seen, p, share)
        summary.add_square(seen, p, share)
    return summary


def cube_distances(
    encoder: Encoder, image: np.ndarray, section: dict[str, Any], input_statistics: InputStatistics
) -> np.ndarray:
    """Mean cell_distances [N] of the cubes of `image` in which errors are likely, weighted by how likely."""
    found = []
    for seen, p, share in _windows(encoder, image, section):
        by_class = p.unflatten(1, (-1, neighbours(p)))
        error = (1 - by_class.amax(1)).mean(1, keepdim=True) * (share > 0)
        edges = [min(REGION_CELLS, n) for n in error.shape[2:]]
        parts = (error, error * input_statistics.cell_distances(seen, p))
        mean, strange = (POOL[image.ndim](part, edges) for part in parts)
        found.append((strange / mean)[mean > LEAST_ERROR].cpu().double().numpy())
    return np.concatenate(found)


def _windows(
    encoder: Encoder, image: np.ndarray, section: dict[str, Any]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Features, class probabilities and share of each window, as `ScanSummary.add` takes them."""
    device, channels = next(encoder.parameters()).device, section["network"]["encoder"]["channels"]
    tiling = Tiling(image.shape, section["window"], Encoder.multiple(tuple(channels)))
    padded = torch.from_numpy(tiling.pad(image))[None, None]
    with torch.inference_mode(), flush_denormals():
        for window, share in zip(tiling.windows, tiling.shares(), strict=True):
            seen = encoder.seen(padded[(..., *tiling.voxels(window))].to(device))
            yield seen, class_softmax(encoder.answer(seen)[1]), share.to(device)
