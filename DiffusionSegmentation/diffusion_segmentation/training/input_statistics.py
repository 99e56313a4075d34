"""Fits a model's input statistics to scans that its training has not seen."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from ..errors import ModelError
from ..networks import AnyEncoder, Encoder, InputStatistics, ScanSummary, class_softmax
from ..networks.blocks import AVERAGE_POOL, voxels_per_cell
from ..runtime.floating_point import flush_denormals
from ..runtime.terminal import ProgressLine, StepCounter
from ..segmentation.tiling import Tiling, channels_first
from .sources import Source

SCANS = {2: 200, 3: 64}  # scans by number of axes; in 3-D half as many more would take minutes on a CPU
REGION_SCANS = 16  # scans whose uncertain regions are fitted to
REGION_CELLS = 4  # edge of the cubes that represent regions, in cells
MIN_ERROR = 0.05  # mean error probability of its voxels above which a cube counts as uncertain


def fit_input_statistics(
    network: AnyEncoder, section: dict[str, Any], source: Source, seed: int
) -> InputStatistics | None:
    """Input statistics of an encoder on the scans of `source`; None for too few scans. Shows its progress.

    None, too, for an encoder on top of a frozen model, whose own features they would not describe.

    `section` is the model's, with which `source` was configured. Raises ModelError where the encoder's features are not
    finite or out of range.
    """
    encoder = network.trained
    if encoder is not network:
        return None
    count, scans = SCANS[section["network"].get("dims", 3)], []
    with ProgressLine() as line:
        counter = StepCounter(line, "fitting the input statistics to unseen scans")
        for image in source.scans(count, seed):
            scans.append(summarised(encoder, image, section))
            counter(len(scans), count)
    input_statistics = InputStatistics.fit(scans)
    if input_statistics is not None:
        again = source.scans(min(count, REGION_SCANS), seed)  # whole scans are too large to keep in memory
        distances = [cube_distances(encoder, image, section, input_statistics) for image in again]
        input_statistics.fit_regions(np.concatenate(distances))
        if not input_statistics.sound:
            raise ModelError("The model's features of these scans are not finite or out of range; train it again.")
    return input_statistics


def summarised(encoder: Encoder, image: np.ndarray, section: dict[str, Any]) -> ScanSummary:
    """Summary of the normalised `image` float32 [channels, *shape], in the windows that a segmentation run uses."""
    summary = ScanSummary.none(len(section["labels"]) + 1, section["network"]["encoder"]["channels"][0])
    for features, p, share in _windows(encoder, image, section):
        summary.add(features, p, share)
        summary.add_square(features, p, share)
    return summary


def cube_distances(
    encoder: Encoder, image: np.ndarray, section: dict[str, Any], input_statistics: InputStatistics
) -> np.ndarray:
    """Mean cell_distances [N] of the uncertain cubes of `image`, weighted by the error probability."""
    distances = []
    for features, p, share in _windows(encoder, image, section):
        by_class = p.unflatten(1, (-1, voxels_per_cell(p)))
        error = (1 - by_class.amax(1)).mean(1, keepdim=True) * (share > 0)
        edges = [min(REGION_CELLS, n) for n in error.shape[2:]]
        parts = (error, error * input_statistics.cell_distances(features, p))
        mean, weighted = (AVERAGE_POOL[part.ndim - 2](part, edges) for part in parts)
        distances.append((weighted / mean)[mean > MIN_ERROR].cpu().double().numpy())
    return np.concatenate(distances)


def _windows(
    encoder: Encoder, image: np.ndarray, section: dict[str, Any]
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Features, class probabilities and share of each window, as `ScanSummary.add` takes them."""
    device, channels = next(encoder.parameters()).device, section["network"]["encoder"]["channels"]
    image = channels_first(image, section["network"].get("dims", 3))
    tiling = Tiling(image.shape[1:], section["window"], Encoder.multiple(tuple(channels)))
    padded = torch.from_numpy(tiling.pad(image))[None]
    with torch.inference_mode(), flush_denormals():
        for window, share in zip(tiling.windows, tiling.shares(), strict=True):
            features = encoder.raw_features(padded[:, :, *tiling.voxels(window)].to(device))
            yield features, class_softmax(encoder.outputs(features)[1]), share.to(device)
